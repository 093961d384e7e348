"""Licences and languages of data, as their own files say them."""

import json

import pytest

from embeddinggemma.data import corpus, datasheet, licences

HEADER = """---
license: CC-BY-4.0
language:
- de
- no
pretty_name: "x: y"
---
# Title
license: gpl-3.0
"""


def test_a_folder_says_it_in_its_readme(tmp_path):
  (tmp_path / "README.md").write_text(HEADER)
  (tmp_path / "LICENSE").write_text("MIT License")
  found = datasheet.read(str(tmp_path))
  assert found == {
    "name": tmp_path.name,
    "licence": "CC-BY-4.0",
    "languages": ["de", "no"],
  }
  file = tmp_path / "pairs.csv"
  file.write_text("query,positive\n")
  assert datasheet.read(str(file))["licence"] == "CC-BY-4.0"


def test_else_in_a_licence_file_or_what_datasets_saved(tmp_path):
  (tmp_path / "LICENSE.txt").write_text("\n  Apache License\n  Version 2.0, ")
  assert datasheet.read(str(tmp_path))["licence"] == "apache-2.0"
  file = tmp_path / "pairs.csv"
  file.write_text("query,positive\n")
  assert "licence" not in datasheet.read(str(file))  # it may be the project's
  (tmp_path / "dataset_info.json").write_text(json.dumps({"license": "odc-by"}))
  assert datasheet.read(str(tmp_path))["licence"] == "odc-by"


@pytest.mark.parametrize(
  ("header", "licence"),
  [
    ("license: [mit, cc-by-4.0]", "mit AND cc-by-4.0"),
    ("license: other\nlicense_name: 'mine: v2'", "mine: v2"),
    ("license: other", "other"),
    ("license: unknown", ""),
    ("license:", ""),
    ("license: {a: b}", "{'a': 'b'}"),
    ("license: 'a\n\n  b'", "a b"),
    ("license: [", ""),
    ("- a list", ""),
    ("license: !!python/object:os.system x", "x"),
    ("language: en", ""),
  ],
)
def test_odd_headers(tmp_path, header, licence):
  (tmp_path / "README.md").write_text(f"---\n{header}\n---\n")
  assert datasheet.read(str(tmp_path)).get("licence", "") == licence


@pytest.mark.parametrize(
  "content", [b"", b"license: mit\n", b"---\nlicense: mit\n", b"\xff\xfe---\n"]
)
def test_a_readme_without_a_header_says_nothing(tmp_path, content):
  (tmp_path / "README.md").write_bytes(content)
  assert datasheet.read(str(tmp_path)) == {"name": tmp_path.name}


def test_installed_packages_have_theirs():
  python, numpy = datasheet.of_packages(("numpy", "no-such-package"))
  assert python["name"] == "Python" and python["licence"] == "psf-2.0"
  assert numpy["name"] == "numpy" and numpy["version"]
  assert licences.identifiers(numpy["licence"])


def test_a_corpus_keeps_them_and_counts_languages(tmp_path):
  """A column with texts instead of languages is not told."""
  names = ["de", "de", "en-GB", "deu-Latn", "", "Eve lives at 3 Elm St."]
  rows = [
    {"query": f"q {n}", "positive": f"p {n}", "lang": names[n % len(names)]}
    for n in range(240)
  ]
  folder = tmp_path / "mine"
  folder.mkdir()
  (folder / "README.md").write_text(HEADER)
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "pairs.jsonl").write_text(lines)
  about = corpus.write(str(folder), False, tmp_path / "out")
  assert about["sources"][0]["licence"] == "CC-BY-4.0"
  counts = about["languages"]
  assert set(counts) == {"de", "en-GB", "deu-Latn", corpus.ODD}
  assert counts["de"] > counts["en-GB"] > 20
  assert "Elm" not in json.dumps(about)
  assert about["held_out"]["test"] == ["retrieval"]
  assert corpus.about(tmp_path / "out") == about
  told = corpus.sources_told(tmp_path / "out")
  assert set(told) == {"sources", "languages", "held_out"}


@pytest.mark.parametrize(
  ("text", "name"),
  [
    ("Apache-2.0", "apache-2.0"),
    ("Apache License 2.0", "apache-2.0"),
    ("Apache Software License", "apache-2.0"),
    ("The MIT License", "mit"),
    ("CC BY-NC 4.0", "cc-by-nc-4.0"),
    ("GPL-3.0-or-later", "gpl-3.0"),
    ("new BSD", "bsd-3-clause"),
    ("Gemma Terms of Use", "gemma"),
    ("openrail++", "openrail++"),
    ("llama3.1", "llama3.1"),
    ("mitochondria", ""),
    ("other", ""),
    ("mine v2", ""),
    ("", ""),
    ("a\nb", ""),
  ],
)
def test_an_identifier_is_found_in_what_people_write(text, name):
  assert licences.identifier(text) == name


def test_expressions_of_several():
  known = "BSD-3-Clause AND MIT AND CC0-1.0"
  assert licences.identifiers(known) == ["bsd-3-clause", "mit", "cc0-1.0"]
  assert licences.identifiers("(mine OR MIT) AND Apache-2.0") == [
    "mit",
    "apache-2.0",
  ]
  assert licences.identifiers("mine AND mit") == []
  assert licences.identifiers("") == []


@pytest.mark.parametrize(
  ("names", "one"),
  [
    (["mit", "apache-2.0"], "apache-2.0"),
    (["cc0-1.0", "mit"], "mit"),
    (["apache-2.0", "cc-by-4.0", "odc-by"], "cc-by-4.0"),
    (["gemma", "mit", "cc-by-4.0"], "gemma"),
    (["gemma", "cc-by-nc-4.0"], ""),
    (["gemma", "cc-by-sa-4.0"], ""),
    (["gemma", "llama3"], ""),
    (["cc-by-sa-3.0", "cc-by-sa-4.0", "mit"], "cc-by-sa-4.0"),
    (["cc-by-nc-4.0", "cc-by-nc-sa-4.0"], "cc-by-nc-sa-4.0"),
    (["cc-by-sa-4.0", "cc-by-nc-4.0"], ""),
    (["gpl-3.0", "lgpl-3.0", "apache-2.0"], "gpl-3.0"),
    (["gemma", "mine"], ""),
    ([], ""),
  ],
)
def test_the_strictest_has_all_that_the_others_ask(names, one):
  assert licences.strictest(names) == one
  assert licences.strictest(reversed(names * 2)) == one


def test_a_name_for_several_is_one_that_the_hub_takes():
  assert licences.slug(["gemma", "mine: v2"]) == "gemma-and-mine-v2"
  many = licences.slug(f"l{n}" for n in range(1000))
  assert many == "l0-and-l1-and-l2-and-l3-and-others"
  assert licences.slug(["\u00e4\n", ""]) == ""
