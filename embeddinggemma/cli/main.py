"""The program: it runs one verb and turns its end into an exit code."""

import contextlib
import errno
import io
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from embeddinggemma.cli.flags import function, parse, usage, verb_usage
from embeddinggemma.cli.verbs import VERBS, unknown
from embeddinggemma.terminal.printable import lines, printable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PATH = (  # errors for which another path helps, whatever they led to
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.EEXIST,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.ENAMETOOLONG,
)
_ROOM = "make room or choose another folder, then start the same command again"
_SHORT = re.compile(r"\d+ requested and \d+ written")  # by NumPy, to a file


def _quiet() -> None:
  """Silence notes of JAX and TensorFlow that are not for users.

  It must run before they are imported.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
  log = logging.StreamHandler()
  log.setFormatter(_Harmless("%(message)s"))
  logging.basicConfig(handlers=[log])


class _Harmless(logging.Formatter):
  """Messages of a log with nothing hidden in the names that they hold."""

  def format(self, record: logging.LogRecord) -> str:
    """A record as text."""
    return lines(super().format(record))


def _show_harmless() -> None:
  """Let warnings and tracebacks, which quote files, reach the terminal so."""

  def format_warning(*words: Any, **more: Any) -> str:
    return lines(plain(*words, **more))

  def show_error(kind: Any, error: BaseException, trace: Any) -> None:
    whole = "".join(traceback.format_exception(error))
    print(lines(whole), end="", file=sys.stderr)

  plain = warnings.formatwarning
  warnings.formatwarning = format_warning
  sys.excepthook = show_error


def call(argv: Sequence[str]) -> int:
  """Run one verb; returns the exit code."""
  if not argv or argv[0] in ("--help", "-h", "help"):
    print(usage(VERBS))
    return 0 if argv else 2
  name, *rest = argv
  if name not in VERBS:
    _complain(f"error: {unknown(name)}")
    return 2
  verb = VERBS[name]
  if "--help" in rest or "-h" in rest:
    print(verb_usage(name, verb))
    return 0
  _quiet()
  if name == "compile":
    from embeddinggemma.aot import environment

    environment.prepare()
  from embeddinggemma.types import BadInput, Interrupted, Stopped

  try:
    values, words = parse(name, verb, rest)
    with _plain_warnings():
      code = function(verb)(values, *words) or 0
    _deliver()
    return code
  except BadInput as error:
    said = str(error).split("\n") if error.has_lines else [str(error)]
    _complain(f"error: {said[0]}", *said[1:])
    return 2
  except Stopped as error:
    _complain(f"stopped: {error}")
    return 1
  except Interrupted as error:
    _complain(str(error))
    return 42
  except KeyboardInterrupt:
    _complain("interrupted; the same command continues")
    return 42
  except BrokenPipeError:  # such as `| head`, which has read enough
    _drop_output()
    return 0
  except Exception as error:
    reason = _of_the_system(error)
    if reason is None:
      raise
    _complain(f"error: {reason}")
    return 2


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
  """Print each warning of this program as one line, and lose none.

  Those of other packages are shown as Python does, with their file.
  """
  from embeddinggemma import distributed
  from embeddinggemma.types import Notice

  with warnings.catch_warnings():
    usual = warnings.showwarning

    def show(
      message: Warning | str,
      category: type[Warning],
      filename: str,
      lineno: int,
      file: TextIO | None = None,
      line: str | None = None,
    ) -> None:
      if not issubclass(category, Notice):
        usual(message, category, filename, lineno, file, line)
      elif distributed.is_first():
        _complain(f"warning: {message}")

    warnings.simplefilter("always", Notice)
    warnings.showwarning = show
    yield


def _deliver() -> None:
  """Hand over what was printed; an OSError that Python would raise at exit."""
  if sys.stdout is None:  # closed by whoever started this
    return
  try:
    sys.stdout.flush()
  except OSError:
    _drop_output()
    raise


def _drop_output() -> None:
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(*said: str) -> None:
  """Print lines on stderr, with nothing hidden in the names that they hold."""
  for line in said:
    print(printable(line), file=sys.stderr)


def _of_the_system(error: BaseException | None) -> str | None:
  """The message for an operating system's refusal among causes, or None.

  Libraries that write from C++ (TensorStore) keep only the text of the error;
  NumPy reports only how much it could write.
  """
  if isinstance(error, OSError) and error.strerror:
    return _said(error)
  while error is not None:
    if isinstance(error, OSError) and error.errno in (*_FULL, *_PATH):
      return _said(error)
    text = os.strerror(errno.ENOSPC)
    if text in str(error) or _SHORT.fullmatch(str(error)):
      return f"{text}; {_ROOM}"
    error = error.__cause__ or error.__context__
  return None


def _said(error: OSError) -> str:
  """An error of the operating system as one line, with what helps."""
  path = str(error.filename2 or error.filename or "")
  where = f": {path if len(path) < 200 else path[:200] + '...'}"
  elsewhere = "choose another path" if path else "start the same command again"
  fix = _ROOM if error.errno in _FULL else elsewhere
  return f"{error.strerror}{where if path else ''}; {fix}"


def _with_huge_pages() -> None:
  """Restart this command with huge pages for malloc, where glibc has them.

  XLA allocates its CPU buffers anew each step; without huge pages, a quarter of
  a training step is page faults. glibc reads the variable only at start. This
  can go once XLA keeps the buffers of a step for the next one on CPUs.
  """
  name = "GLIBC_TUNABLES"
  if sys.platform != "linux" or name in os.environ:
    return
  os.environ[name] = "glibc.malloc.hugetlb=1"
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
  """The console script."""
  if sys.argv[1:2] and sys.argv[1] in VERBS and "--help" not in sys.argv:
    _with_huge_pages()
  _show_harmless()
  if isinstance(sys.stdout, io.TextIOWrapper):  # else "é" is an error in C
    sys.stdout.reconfigure(errors="backslashreplace")
  if sys.argv[1:2] != ["train"]:  # which listens itself (distributed/)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
  code = call(sys.argv[1:])
  if code == 42:
    # XLA's threads, if they compile still, would meet a client that is gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)
