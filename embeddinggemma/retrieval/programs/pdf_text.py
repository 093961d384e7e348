"""Print the text of a PDF's pages: pdf_text.py < FILE

A process of its own, since a PDF may be made so that reading it takes for ever
or all memory. Prints a JSON object, {"pages": [text, ...]}, or {"reason": why
there are none}. Whoever waits longer than SECONDS for a page gets neither: the
process ends, with "Timeout" on stderr.
"""

import faulthandler
import io
import json
import sys
from collections.abc import Callable
from typing import Any

SECONDS = 30  # for a page, and for what comes before the first
MAX_PAGES = 5000
MAX_MEMORY = 4 * 2**30  # of addresses


def read(data: bytes, begin: Callable[[], object]) -> dict[str, Any]:
  """The text of each page, "" for one that cannot be read; or a reason.

  `begin` is called before each page.
  """
  import pypdf  # pyrefly: ignore[missing-import]
  from pypdf import errors  # pyrefly: ignore[missing-import]

  try:
    reader = pypdf.PdfReader(io.BytesIO(data))
    # Without a password is with an empty one: many forbid no more than printing.
    if reader.is_encrypted and not reader.decrypt(""):
      return {"reason": "PDF with a password"}
    if len(reader.pages) > MAX_PAGES:
      return {"reason": "too large"}
    pages = []
    for page in reader.pages:
      begin()
      pages.append(_text(page))
  except errors.DependencyError:
    return {"reason": "encrypted PDF (to read it: pip install cryptography)"}
  except Exception:  # of any kind, from within a file that is broken
    return {"reason": "broken PDF"}
  return {"pages": pages}


def _text(page: Any) -> str:
  try:
    text = page.extract_text()
  except Exception:  # the others may be whole
    return ""
  # Halves of a character outside Unicode's first plane are joined.
  whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
  return whole.replace("\0", "")


def _limit_memory() -> None:
  """Let an allocation fail where the system has such limits."""
  try:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, most))
  except (ImportError, OSError, ValueError):
    pass


def _end_later() -> None:
  """End the process after SECONDS, unless this is called again before."""
  faulthandler.dump_traceback_later(SECONDS, exit=True)


if __name__ == "__main__":
  _limit_memory()
  _end_later()
  print(json.dumps(read(sys.stdin.buffer.read(), _end_later)))
