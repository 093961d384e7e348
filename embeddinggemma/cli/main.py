"""The program: it runs one verb and turns its end into an exit code."""

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

from embeddinggemma.cli.flags import function, parse, usage, verb_usage
from embeddinggemma.cli.verbs import VERBS, unknown

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PATH = (  # errors for which another path helps
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.EEXIST,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.ENAMETOOLONG,
)


_SHORT = re.compile(r"\d+ requested and \d+ written")  # by NumPy, to a file


def _quiet() -> None:
  """Silence notes of JAX and TensorFlow that are not for users.

  It must run before they are imported.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
  logging.basicConfig(format="%(message)s")


def call(argv: Sequence[str]) -> int:
  """Run one verb; returns the exit code."""
  if not argv or argv[0] in ("--help", "-h", "help"):
    print(usage(VERBS))
    return 0 if argv else 2
  name, *rest = argv
  if name not in VERBS:
    print(f"error: {unknown(name)}", file=sys.stderr)
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
      return function(verb)(values, *words) or 0
  except BadInput as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except Stopped as error:
    print(f"stopped: {error}", file=sys.stderr)
    return 1
  except Interrupted as error:
    print(error, file=sys.stderr)
    return 42
  except KeyboardInterrupt:
    print("interrupted; the same command continues", file=sys.stderr)
    return 42
  except BrokenPipeError:  # such as `| head`, which has read enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except Exception as error:
    reason = _cannot_write(error)
    if reason is None:
      raise
    print(f"error: {reason}", file=sys.stderr)
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
        print(f"warning: {message}", file=sys.stderr)

    warnings.simplefilter("always", Notice)
    warnings.showwarning = show
    yield


def _cannot_write(error: BaseException | None) -> str | None:
  """The message for a failed write among an error's causes, or None.

  Libraries that write from C++ (TensorStore) keep only the text of the error;
  NumPy reports only how much it could write.
  """
  room = "make room or choose another folder, then start the same command again"
  while error is not None:
    if isinstance(error, OSError) and error.errno in (*_FULL, *_PATH):
      path = str(error.filename2 or error.filename or "")
      where = f": {path if len(path) < 200 else path[:200] + '...'}"
      fix = room if error.errno in _FULL else "choose another path"
      return f"{error.strerror}{where if path else ''}; {fix}"
    text = os.strerror(errno.ENOSPC)
    if text in str(error) or _SHORT.fullmatch(str(error)):
      return f"{text}; {room}"
    error = error.__cause__ or error.__context__
  return None


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
  if sys.argv[1:2] != ["train"]:  # which listens itself (distributed/)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
  code = call(sys.argv[1:])
  if code == 42:
    # XLA's threads, if they compile still, would meet a client that is gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)
