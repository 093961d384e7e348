"""Which licence a card claims, of weights, teachers and data."""

import json

import pytest

from embeddinggemma.convert import origin
from embeddinggemma.convert.card import claim, stated
from embeddinggemma.types import BadInput

OWN = {"LICENSE": origin.OWN_TERMS.encode()}
GEMMA = {"LICENSE.metadata": b"license: gemma\n"}
APACHE = {"LICENSE": b"\n  Apache License\n  Version 2.0, January 2004"}


def files(terms, *sources, teachers=(), **recipe):
  """Of a model that was trained on sources, given as (name, licence)."""
  told = [{"name": name, "licence": text} for name, text in sources]
  recipe = {"stage": "finetune", "data": {"sources": told}, **recipe}
  if teachers:
    recipe["teachers"] = list(teachers)
  return {"recipe.json": json.dumps(recipe).encode(), **terms}


def of(content, **kwargs):
  return claim.of(content, stated.Stated(**kwargs))


@pytest.mark.parametrize(
  ("content", "licence", "name"),
  [
    (files(OWN, ("a", "mit")), "mit", None),
    (files(OWN, ("a", "mit"), ("b", "CC-BY-4.0")), "cc-by-4.0", None),
    (files(APACHE, ("a", "mit")), "apache-2.0", None),
    (files(APACHE, ("a", "cc-by-sa-4.0")), "cc-by-sa-4.0", None),
    (files(APACHE, ("a", "")), "other", "apache-2.0-and-unknown"),
    (files(APACHE, ("a", "mine v2")), "other", "apache-2.0-and-mine-v2"),
    (files(OWN, ("a", "")), "other", "unknown"),
    (files(OWN), "other", "see-license-files"),
    (
      files(OWN, ("a", "cc-by-nc-4.0"), ("b", "cc-by-sa-4.0")),
      "other",
      "cc-by-nc-4.0-and-cc-by-sa-4.0",
    ),
    (files(OWN, ("Python", "psf-2.0")), "other", "psf-2.0"),
    (files(GEMMA), "gemma", None),
    (files(GEMMA, ("a", "mit")), "gemma", None),
    (files(GEMMA, ("a", "")), "gemma", None),
    (files(GEMMA, ("a", "mine v2")), "gemma", None),
    (files(OWN | GEMMA, ("a", "mit")), "gemma", None),
    (
      files(GEMMA, ("a", "cc-by-nc-4.0")),
      "other",
      "cc-by-nc-4.0-and-gemma",
    ),
    (
      files(GEMMA, teachers=[{"name": "g", "terms": "none that competes"}]),
      "other",
      "gemma-and-terms-of-g",
    ),
    (files(GEMMA, teachers=[{"name": "g", "licence": "gemma"}]), "gemma", None),
    (files(OWN, ("a", "mit"), teachers=[{"kind": "tfidf"}]), "mit", None),
    (
      files(OWN, ("a", "mit"), teachers=[{"kind": "checkpoint", "name": "t"}]),
      "other",
      "mit-and-unknown",
    ),
    # What was quantised matches the vectors of its own start.
    (
      files(
        OWN,
        ("a", "mit"),
        teachers=[{"kind": "checkpoint", "name": "t", "weights": "ab"}],
        parents={"init": "ab"},
        trained=[{"stage": "distil"}],
      ),
      "mit",
      None,
    ),
    # Of an older version: the data have no names, or a parent no stages.
    (files(OWN, data={"hash": "ab"}), "other", "unknown"),
    (
      files(APACHE, ("a", "mit"), parents={"init": "ab"}),
      "other",
      "apache-2.0-and-mit-and-unknown",
    ),
    ({}, "other", "see-license-files"),
    ({"LICENSE": b"many words"}, "other", "see-license-files"),
  ],
)
def test_the_strictest_is_claimed(content, licence, name):
  found = of(content)
  assert found.keys["license"] == licence
  assert found.keys.get("license_name") == name
  assert found.reason and "\n" not in found.reason


def test_the_reason_names_what_is_unknown():
  unknown = of(files(APACHE, ("a", ""), ("b", "mine v2")))
  assert "the licence of the data a is not recorded" in unknown.reason
  assert "of the data b (mine v2) is none that is known" in unknown.reason
  clash = of(files(GEMMA, ("a", "cc-by-nc-4.0")))
  assert "cc-by-nc-4.0, gemma ask for what excludes" in clash.reason
  assert clash.keys["license_link"] == claim.GEMMA_TERMS
  gemma = of(files(GEMMA, ("a", "")))
  assert gemma.keys == {"license": "gemma"}
  assert "the licence of the data a is not recorded" in gemma.reason
  many = of(files(OWN, *((f"s{n}", "") for n in range(3000))))
  assert "and 2,997 more" in many.reason and len(many.reason) < 200


def test_what_is_only_imported_has_its_own_licence():
  source = {"from": "/x/embeddinggemma-300m", "repository": "google/e"}
  recipe = {"stage": "import", "source": source, "parents": {}}
  content = {"recipe.json": json.dumps(recipe).encode(), **GEMMA}
  found = of(content)
  assert found.keys == {"license": "gemma"}
  assert found.parts == [claim.Part(claim.WEIGHTS, "google/e", "gemma")]
  silent = {**content, "LICENSE.metadata": b"no licence is named"}
  assert of(silent).keys == {
    "license": "other",
    "license_name": "see-license-files",
    "license_link": "LICENSE.metadata",
  }
  named = {**content, "LICENSE.metadata": b"license: other\nlicense_name: a: b"}
  assert of(named).keys["license_name"] == "a-b"


def test_a_statement_fills_what_is_not_recorded():
  content = files(OWN, ("mine", ""), ("b", "MIT"))
  assert of(content, licences={"mine": "apache-2.0"}).keys == {
    "license": "apache-2.0"
  }
  with pytest.raises(
    BadInput, match=r"'mnie' is no source.*did you mean 'mine'"
  ):
    of(content, licences={"mnie": "mit"})
  with pytest.raises(
    BadInput, match="b is 'gemma' there, and 'MIT' by its own"
  ):
    of(content, licences={"b": "gemma"})
  assert of(content, licences={"mine": "mit", "b": "mit"}).keys == {
    "license": "mit"
  }


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("", "holds no keys"),
    ("- a", "holds no keys"),
    ("nmae: a/b", "'nmae' is unknown; did you mean 'name'"),
    ("name: a", "name: 'a' is not OWNER/NAME"),
    ("languages: [de, german]", "languages: 'german' is no code"),
    ("licences: mit", "licences: 'mit' is no mapping"),
    ("licences: {a: [mit]}", r"licences: \['mit'\] is no text"),
    ("citation: arXiv 1", "citation: it is no BibTeX"),
    ("code: github.com/a", "code: 'github.com/a' is no address"),
    ("code: https://me:pw@host/a", "code: .* is no address"),
    ("limits: ['']", "limits: '' is no text"),
    ("a: [", "is no YAML"),
    ("\xff", "holds no keys"),
    ("name: a/b\nname: {", "is no YAML"),
  ],
)
def test_a_bad_statement_is_one_line(tmp_path, text, said):
  path = tmp_path / "card.yaml"
  path.write_text(text)
  with pytest.raises(BadInput, match=said) as caught:
    stated.read(str(path))
  assert "\n" not in str(caught.value)


def test_a_statement_is_read(tmp_path):
  path = tmp_path / "card.yaml"
  path.write_text(
    "name: me/bank\nlanguages: [de, no]\nlimits: no poems\n"
    "licences: {my pairs: mit}\ndata: https://host/data\n"
  )
  assert stated.read(str(path)) == stated.Stated(
    name="me/bank",
    languages=("de", "no"),
    licences={"my pairs": "mit"},
    data="https://host/data",
    limits=("no poems",),
  )
  for bad, said in ((b"\xff\xfe", "not UTF-8"), (b"x" * 2**21, "larger")):
    path.write_bytes(bad)
    with pytest.raises(BadInput, match=said):
      stated.read(str(path))
  with pytest.raises(BadInput, match="No such file"):
    stated.read(str(tmp_path / "none"))
