"""The text of PDFs, by pypdf if it is installed, in a process of its own."""

import importlib.util
import json
import pathlib
import subprocess
import sys

MARK = b"%PDF-"  # with which a PDF begins
PACKAGE = "pypdf"
SECONDS = 600  # for a whole file; the program limits those for a page
_PROGRAM = pathlib.Path(__file__).parent / "programs" / "pdf_text.py"


def pages(data: bytes) -> list[str]:
  """The text of each page with "\\n" line ends; "" for one that has none.

  Raises ValueError with the reason if there is no text: pypdf is missing, the
  file is broken, needs a password, holds only pictures, or takes too long.
  """
  if importlib.util.find_spec(PACKAGE) is None:
    raise ValueError(f"PDF (to read it: pip install {PACKAGE})")
  try:
    done = subprocess.run(
      [sys.executable, str(_PROGRAM)],
      input=data,
      capture_output=True,
      timeout=SECONDS,
    )
  except subprocess.TimeoutExpired:
    raise ValueError("PDF that takes too long to read") from None
  if done.returncode:
    slow = b"Timeout" in done.stderr
    raise ValueError(
      "PDF that takes too long to read" if slow else "broken PDF"
    )
  found = json.loads(done.stdout)
  if "reason" in found:
    raise ValueError(found["reason"])
  texts = ["\n".join(text.splitlines()) for text in found["pages"]]
  if not any(map(str.strip, texts)):
    raise ValueError("PDF without text (scanned?)")
  return texts
