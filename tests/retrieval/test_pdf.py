"""A PDF is read page by page, or left out with the reason."""

import io
import sys
import time

import pytest

from embeddinggemma.retrieval import pdf, reading
from embeddinggemma.retrieval.programs import pdf_text
from embeddinggemma.types import BadInput

pypdf = pytest.importorskip("pypdf")


def _object(number, body):
  return b"%d 0 obj\n%s\nendobj\n" % (number, body)


def _pdf(*pages):
  """A PDF with the lines of each page in Helvetica."""
  kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(pages)))
  bodies = [
    b"<</Type/Catalog/Pages 2 0 R>>",
    b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), kids),
    b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
  ]
  for n, lines in enumerate(pages):
    shown = b"".join(b"(%s) Tj 0 -14 Td\n" % x.encode() for x in lines)
    stream = b"BT /F1 12 Tf 72 720 Td\n" + shown + b"ET"
    bodies.append(
      b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents %d 0 R"
      b"/Resources<</Font<</F1 3 0 R>>>>>>" % (5 + 2 * n)
    )
    bodies.append(
      b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream)
    )
  data, places = b"%PDF-1.4\n", []
  for number, body in enumerate(bodies, 1):
    places.append(len(data))
    data += _object(number, body)
  rows = b"".join(b"%010d 00000 n \n" % place for place in places)
  return b"%sxref\n0 %d\n0000000000 65535 f \n%strailer\n%s\n%s" % (
    data,
    len(bodies) + 1,
    rows,
    b"<</Size %d/Root 1 0 R>>" % (len(bodies) + 1),
    b"startxref\n%d\n%%%%EOF\n" % len(data),
  )


@pytest.fixture
def report(tmp_path):
  """Three pages, of which the second has no text."""
  path = tmp_path / "Report.PDF"
  path.write_bytes(_pdf(["It rains.", "Much."], [], ["The river rises."]))
  return path


def test_a_chunk_is_of_a_page(report):
  read = reading.read(report)
  assert [(c.line, c.title, c.text) for c in read.chunks] == [
    (1, "Report", "It rains.\nMuch."),
    (3, "Report", "The river rises."),
  ]
  assert read.did == {"pages_without_text": 1}


def test_a_pdf_is_known_by_its_first_bytes(report):
  other = report.rename(report.with_name("download"))
  assert len(reading.read(other).chunks) == 2


def _encrypted(password, algorithm="RC4-128"):
  writer, file = pypdf.PdfWriter(), io.BytesIO()
  writer.append(pypdf.PdfReader(io.BytesIO(_pdf(["Secret rain."]))))
  writer.encrypt(password, owner_password="o", algorithm=algorithm)
  writer.write(file)
  return file.getvalue()


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_a_pdf_that_anyone_may_open_is_read(tmp_path, algorithm):
  if algorithm != "RC4-128":
    pytest.importorskip("cryptography")
  (tmp_path / "a.pdf").write_bytes(_encrypted("", algorithm))
  assert reading.read(tmp_path).chunks[0].text == "Secret rain."


@pytest.mark.parametrize(
  ("make", "reason"),
  [
    (lambda: _encrypted("a"), "PDF with a password"),
    (lambda: _pdf([], []), "PDF without text (scanned?)"),
    (lambda: _pdf(["It rains."])[:40], "broken PDF"),
    (lambda: b"<html>Not found</html>", "broken PDF"),
    (lambda: b"%PDF-1.4\n" + bytes(range(256)) * 9, "broken PDF"),
    (lambda: b"", "broken PDF"),
  ],
  ids=range(6),
)
def test_one_that_cannot_be_read_is_left_out_by_name(tmp_path, make, reason):
  (tmp_path / "a.pdf").write_bytes(make())
  (tmp_path / "b.txt").write_text("b")
  read = reading.read(tmp_path)
  assert read.skipped == {"a.pdf": reason}
  assert [file.path for file in read.files] == ["b.txt"]
  with pytest.raises(BadInput, match=r"a.pdf: cannot be indexed \("):
    reading.read(tmp_path / "a.pdf")


def test_without_the_library_the_reason_is_how_to_get_it(report, monkeypatch):
  monkeypatch.setattr(pdf, "PACKAGE", "a_package_that_is_not_there")
  with pytest.raises(BadInput, match=r"PDF \(to read it: pip install a_pack"):
    reading.read(report)


def test_one_that_takes_for_ever_is_left_out(report, tmp_path, monkeypatch):
  """Its reader is ended from outside Python, whatever it is doing."""
  slow = tmp_path / "slow.py"
  slow.write_text(
    "import faulthandler\n"
    "faulthandler.dump_traceback_later(0.2, exit=True)\n"
    "while True: pass\n"
  )
  monkeypatch.setattr(pdf, "_PROGRAM", slow)
  began = time.monotonic()
  with pytest.raises(BadInput, match="PDF that takes too long to read"):
    reading.read(report)
  slow.write_text("import time; time.sleep(60)")
  monkeypatch.setattr(pdf, "SECONDS", 0.2)
  with pytest.raises(BadInput, match="PDF that takes too long to read"):
    reading.read(report)
  assert time.monotonic() - began < 30


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of memory")
def test_one_that_takes_all_memory_is_left_out(report, tmp_path, monkeypatch):
  greedy = tmp_path / "greedy.py"
  greedy.write_text(
    f"import runpy, sys\n"
    f"sys.path.insert(0, {str(tmp_path)!r})\n"
    f"runpy.run_path({pdf_text.__file__!r}, run_name='__main__')\n"
  )
  (tmp_path / "pypdf").mkdir()
  (tmp_path / "pypdf" / "__init__.py").write_text(
    "class PdfReader:\n  def __init__(self, data): bytearray(8 * 2**30)\n"
  )
  (tmp_path / "pypdf" / "errors.py").write_text("DependencyError = OSError")
  monkeypatch.setattr(pdf, "_PROGRAM", greedy)
  with pytest.raises(BadInput, match="broken PDF"):
    reading.read(report)


def test_too_many_pages_are_too_large(monkeypatch):
  monkeypatch.setattr(pdf_text, "MAX_PAGES", 2)
  begun = []
  begin = lambda: begun.append(1)
  assert len(pdf_text.read(_pdf(["a"], ["b"]), begin)["pages"]) == 2
  assert len(begun) == 2
  found = pdf_text.read(_pdf(["a"], ["b"], ["c"]), begin)
  assert found == {"reason": "too large"}
