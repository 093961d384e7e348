"""What --mteb says where mteb is missing or another; names between commas."""

import sys

import pytest

from embeddinggemma.cli import main
from embeddinggemma.evaluation.mteb_suite import names, package
from embeddinggemma.types import BadInput


def installed(folder, name, version):
  """A package's entry, as pip leaves it."""
  about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
  about.mkdir()
  (about / "METADATA").write_text(
    f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
  )


def test_without_mteb_one_line_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(sys, "path", [])
  with pytest.raises(BadInput, match=r"pip install 'embeddinggemma\[mteb\]'"):
    package.require()


@pytest.mark.parametrize("version", ["1.38.2", "3.0.0rc1", "21.0"])
def test_another_major_version_says_which_fits(monkeypatch, tmp_path, version):
  installed(tmp_path, "mteb", version)
  monkeypatch.setattr(sys, "path", [str(tmp_path)])
  line = f"mteb {version} is installed, and mteb 2 fits"
  with pytest.raises(BadInput, match=line):
    package.require()


def test_one_that_cannot_be_imported_says_why(monkeypatch, tmp_path):
  installed(tmp_path, "mteb-core", "2.26.24")
  (tmp_path / "mteb.py").write_text("import no_such_package_at_all\n")
  monkeypatch.setattr(sys, "path", [str(tmp_path)])
  monkeypatch.delitem(sys.modules, "mteb", raising=False)
  with pytest.raises(BadInput, match=r"cannot be imported.*no_such_package"):
    package.require()


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    ("MTEB(eng, v2)", ["MTEB(eng, v2)"]),
    ("a, MTEB(Code, v1) ,b", ["a", "MTEB(Code, v1)", "b"]),
    ("a,,b,", ["a", "b"]),
    ("a(b, c", ["a(b, c"]),
    ("a), b", ["a)", "b"]),
    ("", []),
  ],
)
def test_commas_in_parentheses_part_nothing(text, parts):
  assert list(names.parts(text)) == parts


@pytest.mark.parametrize("flag", ["--cache=x", "--hybrid", "--titles"])
def test_flags_that_need_it(flag, tmp_path, capsys):
  argv = ["evaluate", "--model=m", f"--output={tmp_path / 'o'}", flag]
  assert main.call(argv) == 2
  name = flag.partition("=")[0]
  assert capsys.readouterr().err == f"error: evaluate: {name} needs --mteb\n"
