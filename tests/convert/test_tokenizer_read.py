"""A folder's tokenizer is read whole: the library's ids, or it is said.

`tokenizers` is asked, which all programs use that read tokenizer.json, and
where it is installed transformers, with its classes and settings.
"""

import json
import pathlib
import random
import re
import shutil
import warnings

import pytest
import tokenizer_edits as edits
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

import embeddinggemma as eg
from embeddinggemma.convert.read import tokenizer_files
from embeddinggemma.convert.write.tokenizer_json import (
  tokenizer_config,
  tokenizer_json,
)
from embeddinggemma.data import samples
from embeddinggemma.data import tokenizer as tokenizer_lib
from embeddinggemma.data.tokenizer import Tokenizer, train_tokenizer
from embeddinggemma.mining import teachers
from embeddinggemma.types import BadInput

SPACE = "\u2581"
ROWS = 1024  # of the embedding table
LONGEST = 48
TOKENS, CONFIG, MODEL = edits.TOKENS, edits.CONFIG, edits.MODEL
CODE = pathlib.Path(tokenizer_lib.__file__).read_text()
TEXTS = (
  *(text for _, *pair in samples.PAIRS for text in pair),
  *samples.EXTREMES,
  *samples.WHITE_SPACE,
  *(CODE[n : n + 200] for n in range(0, 1600, 200)),
  *(" " * n + "the" + "\n" * n + "\t" * n for n in range(20)),
  "aaaa abab ababa aba red red the the \nx\n\n x",
  "[ENT] a[REL]b [NEW tok] [NEW  tok] <mask><unused1> <unused2>[ENT",
  "<start_of_turn>user\n<end_of_turn> <table>",
)


def published(model: bytes) -> dict:
  """tokenizer.json in the manner of Gemma's own, for a SentencePiece model.

  Tokens are found before spaces are written U+2581, and runs of spaces are
  made by merges, the longest first.
  """
  ours = json.loads(tokenizer_json(model))
  vocab = ours["model"]["vocab"]
  runs = sorted(
    (t for t in vocab if len(t) > 1 and not t.strip(SPACE)), key=len
  )
  more = [
    [run[:at], run[at:]]
    for run in runs[::-1]
    for at in range(len(run) - 1, 0, -1)
  ]
  ours["model"]["merges"] = more + ours["model"]["merges"]
  ours["added_tokens"] = [
    row | {"normalized": False} for row in ours["added_tokens"]
  ]
  ours["pre_tokenizer"] = edits.PRE_TOKENIZERS[1] | {
    "behavior": "MergedWithPrevious"
  }
  return ours


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> bytes:
  path = tmp_path_factory.mktemp("model") / MODEL
  train_tokenizer([*TEXTS, *samples.BRIEF], path, 800)
  return path.read_bytes()


@pytest.fixture
def folder(tmp_path, pieces) -> pathlib.Path:
  """A folder with a tokenizer.json of Gemma's kind and nothing else."""
  path = tmp_path / "folder"
  path.mkdir()
  (path / TOKENS).write_text(json.dumps(published(pieces)))
  return path


def change(folder, **sections) -> None:
  """Write sections of tokenizer.json; those of `model_` into its pieces."""
  tree = json.loads((folder / TOKENS).read_text())
  tree["model"] |= sections.pop("model_", {})
  (folder / TOKENS).write_text(json.dumps(tree | sections))


def configure(folder, **settings) -> None:
  (folder / CONFIG).write_text(json.dumps(settings))


def add(folder, *tokens) -> None:
  """Add tokens, as (text, flags), with the next ids."""
  tree = json.loads((folder / TOKENS).read_text())
  for text, flags in tokens:
    known = {row["id"] for row in tree["added_tokens"]}
    number = tree["model"]["vocab"].get(
      text, max(*known, *tree["model"]["vocab"].values()) + 1
    )
    tree["added_tokens"].append(edits.added(text, number, **flags))
  (folder / TOKENS).write_text(json.dumps(tree))


def library(folder) -> tokenizers.Tokenizer:
  read = tokenizers.Tokenizer.from_file(str(folder / TOKENS))
  read.no_truncation()
  return read


def same_ids(found: tokenizer_files.Read, theirs, texts=TEXTS) -> bool:
  ours = Tokenizer(found.model)
  return all(ours.encode(x).tolist() == theirs.encode(x).ids for x in texts)


@pytest.mark.parametrize(
  "written", [published, lambda model: json.loads(tokenizer_json(model))]
)
def test_the_pieces_come_from_tokenizer_json_alone(folder, pieces, written):
  """The very pieces that the file was made from, whatever wrote the file."""
  (folder / TOKENS).write_text(json.dumps(written(pieces)))
  found = tokenizer_files.read(folder, ROWS)
  assert found.source == TOKENS and found.warned == ()
  assert Tokenizer(found.model).identity == Tokenizer(pieces).identity
  assert same_ids(found, library(folder))


@pytest.fixture(scope="module")
def both(tmp_path_factory, pieces):
  """(our Tokenizer, the library's) of a published kind of file."""
  path = tmp_path_factory.mktemp("both")
  (path / TOKENS).write_text(json.dumps(published(pieces)))
  found = tokenizer_files.read(path, ROWS)
  return Tokenizer(found.model), library(path)


WORDS = [" ", "  ", "\n", "\t", "the", "aba", "<mask>", "é", "字", "🙂", "\x00"]
CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>")


@settings(max_examples=200, deadline=None)
@given(
  st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.sampled_from(WORDS)).map("".join),
  )
)
def test_any_text_gets_the_ids_of_the_library(both, text):
  if SPACE in text or any(name in text for name in CONTROLS):
    return  # differences that are documented
  ours, theirs = both
  assert ours.encode(text).tolist() == theirs.encode(text).ids


def test_one_model_in_two_files_is_the_older_file(folder, pieces):
  """So its hash is that of earlier imports."""
  (folder / MODEL).write_bytes(pieces)
  found = tokenizer_files.read(folder, ROWS)
  assert found.model == pieces and found.source == MODEL and not found.warned


@pytest.mark.parametrize(
  "sections",
  [
    {"normalizer": edits.NORMALIZERS[3]},
    {"normalizer": edits.NORMALIZERS[7]},
    {"pre_tokenizer": None},
    {"post_processor": edits.POST_PROCESSORS[-1]},
    {"model_": {"fuse_unk": False, "ignore_merges": False, "dropout": 0.0}},
    {"truncation": None, "padding": None},
  ],
)
def test_what_gives_the_same_ids(folder, pieces, sections):
  change(folder, **sections)
  found = tokenizer_files.read(folder, ROWS)
  assert Tokenizer(found.model).identity == Tokenizer(pieces).identity
  assert not found.warned


def test_merges_may_be_strings(folder, pieces):
  merges = published(pieces)["model"]["merges"]
  change(folder, model_={"merges": [" ".join(pair) for pair in merges]})
  found = tokenizer_files.read(folder, ROWS)
  assert Tokenizer(found.model).identity == Tokenizer(pieces).identity


LATE, EARLY = {"normalized": True}, {"normalized": False}


@pytest.mark.parametrize(
  "tokens",
  [
    [("[ENT]", LATE), ("[REL]", LATE)],
    [("[ENT]", EARLY | {"special": True}), ("[REL]", EARLY)],
    [("[NEW tok]", LATE)],
    [("[NEW tok]", EARLY)],
    [(" red", EARLY)],  # begins with a space: no run may hide it
    [("ab", LATE)],  # a piece's text, whole from now on
    [("x\n", LATE)],  # holds "\n", which is found first: never found
    [("[ENT]", LATE), ("[ENT] a", LATE)],
  ],
)
def test_added_tokens_become_pieces(folder, pieces, tokens):
  """tokenizer.model lacks them: said, and the library's ids come out."""
  (folder / MODEL).write_bytes(pieces)
  add(folder, *tokens)
  found = tokenizer_files.read(folder, ROWS)
  assert same_ids(found, library(folder))
  assert found.source == TOKENS
  new = tokens[0][0].replace(" ", SPACE)
  assert new in Tokenizer(found.model).pieces
  assert any(MODEL in note and repr(new) in note for note in found.warned)


def test_a_token_without_a_row_is_left_out(folder, pieces):
  """As the published folder's <image_soft_token>: no program can embed it."""
  (folder / MODEL).write_bytes(pieces)
  rows = Tokenizer(pieces).vocab_size
  add(folder, ("<image_soft_token>", {"special": True}))
  found = tokenizer_files.read(folder, rows)
  assert found.model == pieces and found.warned == ()
  assert f"'<image_soft_token>' has the id {rows} and no row" in found.aside[0]


def renamed(folder):
  """A spare piece is given a name, a common way to a new token."""
  tree = json.loads((folder / TOKENS).read_text())
  vocab = tree["model"]["vocab"]
  vocab["[ENT]"] = vocab.pop("<unused3>")
  next(r for r in tree["added_tokens"] if r["content"] == "<unused3>")[
    "content"
  ] = "[ENT]"
  (folder / TOKENS).write_text(json.dumps(tree))


def not_added(folder):
  """A token is left in the vocabulary, and no longer searched for."""
  rows = json.loads((folder / TOKENS).read_text())["added_tokens"]
  change(folder, added_tokens=[r for r in rows if r["content"] != "<unused1>"])


@pytest.mark.parametrize(
  ("fault", "said"),
  [
    (renamed, r"1 piece is another \(first id 8: '<unused3>', not '\[ENT\]'"),
    (not_added, "it finds '<unused1>' otherwise in a text"),
    (lambda f: (f / MODEL).write_bytes(b"version https://git-lfs"), "it is no"),
  ],
)
def test_two_files_of_two_models(folder, pieces, fault, said):
  (folder / MODEL).write_bytes(pieces)
  fault(folder)
  found = tokenizer_files.read(folder, ROWS)
  assert found.source == TOKENS and same_ids(found, library(folder))
  assert re.search(said, found.warned[0])


def without(key):
  def fault(folder):
    tree = json.loads((folder / TOKENS).read_text())
    del tree[key]
    (folder / TOKENS).write_text(json.dumps(tree))

  return fault


def merges(edit):
  """A fault: other merges."""

  def fault(folder):
    tree = json.loads((folder / TOKENS).read_text())
    found = edit(tree["model"]["merges"])
    change(folder, model_={"merges": found})

  return fault


def second(rows):
  """The second of two merges that make one piece, not the last of all."""
  made = ["".join(row) for row in rows]
  return next(
    rows[n]
    for n in range(len(rows) - 1)
    if made[n].strip(SPACE) and made[n - 1] == made[n] != made[-1]
  )


def vocabulary(edit):
  def fault(folder):
    tree = json.loads((folder / TOKENS).read_text())
    edit(tree["model"]["vocab"])
    change(folder, model_=tree["model"])

  return fault


def holed(vocab):
  vocab["[ENT]"] = len(vocab) + 1


def beside(name, **tree):
  return lambda folder: (folder / name).write_text(json.dumps(tree))


def configured(**tree):
  return lambda folder: configure(folder, **tree)


def adding(text, **flags):
  return lambda folder: add(folder, (text, flags))


def changed(**sections):
  return lambda folder: change(folder, **sections)


NORMALIZERS, POSTS = edits.NORMALIZERS, edits.POST_PROCESSORS
REFUSED = {
  "another kind": (changed(model_={"type": "Unigram"}), "is Unigram, not BPE"),
  "no bytes": (
    changed(model_={"byte_fallback": False}),
    "byte_fallback is not",
  ),
  "a byte too few": (
    vocabulary(lambda vocab: vocab.pop("<0x41>")),
    "the piece '<0x41>' is missing",
  ),
  "dropout": (changed(model_={"dropout": 0.1}), "dropout makes ids random"),
  "affixes": (
    changed(model_={"continuing_subword_prefix": "##"}),
    "a piece in a word differs",
  ),
  "whole words": (
    lambda folder: [
      vocabulary(lambda vocab: vocab.update(zqzq=len(vocab)))(folder),
      change(folder, model_={"ignore_merges": True}),
    ],
    "ignore_merges is true, and no merge makes the piece 'zqzq'",
  ),
  "lower case": (changed(normalizer=NORMALIZERS[1]), "else: Lowercase; take"),
  "NFKC": (changed(normalizer=NORMALIZERS[4]), r"Sequence\(NFKC, Replace\)"),
  "a space before": (changed(normalizer=NORMALIZERS[6]), r"\(Prepend, Repl"),
  "spaces as they are": (changed(normalizer=None), "nothing else: none"),
  "words apart": (
    changed(pre_tokenizer=edits.PRE_TOKENIZERS[4]),
    "splits texts: Whitespace",
  ),
  "all removed": (
    changed(pre_tokenizer=edits.PRE_TOKENIZERS[2]),
    "splits texts: Split",
  ),
  "no EOS": (changed(post_processor=POSTS[1]), "read as 'BOS pieces', by"),
  "no BOS": (changed(post_processor=POSTS[2]), "read as 'pieces EOS', by"),
  "BOS twice": (changed(post_processor=POSTS[3]), "'BOS BOS pieces EOS'"),
  "the wrong way round": (
    changed(post_processor=POSTS[4]),
    "read as 'EOS pieces BOS'",
  ),
  "another BOS": (changed(post_processor=POSTS[5]), "read as '5 pieces EOS'"),
  "neither": (without("post_processor"), "read as 'pieces', by"),
  "no such processor": (
    changed(post_processor={"type": "Foo"}),
    "its post_processor cannot be read",
  ),
  "a merge too few": (
    merges(lambda rows: [row for row in rows if row != second(rows)]),
    "are not merged, though '.*' is a piece",
  ),
  "merges mixed up": (
    merges(
      lambda rows: [*(r for r in rows if r != second(rows)), second(rows)]
    ),
    "the merges of '.*' stand among those of other pieces",
  ),
  "a merge of no piece": (
    merges(lambda rows: [*rows, ["q", "\u5b57"]]),
    "which is no piece",
  ),
  "no merges": (merges(lambda rows: {}), "merges are no list of pairs"),
  "a gap": (vocabulary(holed), "comes after a gap, where"),
  "an id twice": (
    vocabulary(lambda vocab: vocab.update(red=5)),
    "comes twice, where",
  ),
  "white space taken in": (adding("[ENT]", lstrip=True), "has lstrip, rstrip"),
  "a word alone": (adding("[ENT]", single_word=True), "has lstrip, rstrip"),
  "one cuts the other": (
    adding("[ENT]<unused", normalized=True),
    r"'\[ENT\]<unused' ends as '<unused\d+>' begins, which is found first",
  ),
  "a piece again": (adding(" the"), "would be the piece '\u2581the' of id"),
  "another class": (
    configured(tokenizer_class="LlamaTokenizerFast"),
    "tokenizer_class='LlamaTokenizerFast' is not supported",
  ),
  "another file": (
    configured(fast_tokenizer_files=["tokenizer.4.0.json"]),
    "fast_tokenizer_files=",
  ),
  "a list of tokens too short": (
    configured(added_tokens_decoder={}),
    "added_tokens_decoder has no '<mask>', tokenizer.json has it as 4",
  ),
  "a list of tokens too long": (
    lambda folder: configure(
      folder,
      tokenizer_class="TokenizersBackend",
      added_tokens_decoder={"800": edits.added("[ENT]", 800)},
    ),
    r"added_tokens_decoder has '\[ENT\]' as 800, tokenizer.json has none",
  ),
  "a token that nobody adds": (
    configured(extra_special_tokens=["[Q]"]),
    r"extra_special_tokens names '\[Q\]', tokenizer.json has no '\[Q\]'",
  ),
  "another one": (
    beside("special_tokens_map.json", cls_token="[CLS]"),
    r"special_tokens_map.json: cls_token names '\[CLS\]'",
  ),
  "an old list": (
    beside("added_tokens.json", **{"[ENT]": 900}),
    r"added_tokens.json has '\[ENT\]' as 900, tokenizer.json has no",
  ),
  "arguments of the module": (
    beside("sentence_bert_config.json", tokenizer_args={"add_eos_token": 0}),
    "tokenizer_args.add_eos_token=0 is not supported",
  ),
  "another tokenizer": (
    beside("sentence_bert_config.json", tokenizer_name_or_path="bert"),
    "tokenizer_name_or_path='bert' is another tokenizer",
  ),
  "no file at all": (lambda f: (f / TOKENS).unlink(), "has neither"),
  "half a file": (
    lambda f: (f / TOKENS).write_text('{"model": '),
    "tokenizer.json cannot be read",
  ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_refused_by_name(folder, name):
  fault, message = REFUSED[name]
  fault(folder)
  with pytest.raises(BadInput, match=message) as caught:
    tokenizer_files.read(folder, ROWS)
  assert "\n" not in str(caught.value)
  assert any(mark in str(caught.value) for mark in (";", ":"))


def test_a_decoder_needs_no_eos(folder):
  change(folder, post_processor=POSTS[1])
  assert tokenizer_files.read(folder, ROWS, ends=False).warned == ()


@pytest.mark.parametrize(
  ("sections", "settings"),
  [
    ({}, {"truncation_side": "left"}),
    (
      {
        "truncation": {
          "direction": "Left",
          "max_length": 9,
          "strategy": "LongestFirst",
          "stride": 0,
        }
      },
      {},
    ),
  ],
)
def test_a_cut_on_the_other_side_is_refused(folder, sections, settings):
  change(folder, **sections)
  configure(folder, **settings)
  with pytest.raises(BadInput, match="long texts lose their end here"):
    tokenizer_files.read(folder, ROWS)
  tokenizer_files.read(folder, ROWS, ends=False)  # of which none are cut


def test_special_tokens_that_are_split_are_text(folder):
  """transformers has <mask> as a special token, unless its name is null."""
  piece = Tokenizer(tokenizer_files.read(folder, ROWS).model).pieces.index
  mask = piece("<mask>")
  for more, found in ({}, False), ({"mask_token": None}, True):
    configure(folder, split_special_tokens=True, **more)
    ours = Tokenizer(tokenizer_files.read(folder, ROWS).model)
    assert (mask in ours.encode("a <mask> b")) == found


def alone(folder, pieces) -> None:
  (folder / TOKENS).unlink()
  (folder / MODEL).write_bytes(pieces)


def test_a_model_alone_needs_its_flags(folder, pieces):
  """Without tokenizer.json, tokenizer_config.json decides on BOS and EOS."""
  alone(folder, pieces)
  configure(folder, add_bos_token=True, add_eos_token=True)
  found = tokenizer_files.read(folder, ROWS)
  assert found.model == pieces and found.source == MODEL
  assert found.warned[0].endswith(
    "runs of more than 16 spaces elsewhere than is done here"
  )
  configure(folder, add_bos_token=True)
  note, _ = tokenizer_files.read(folder, ROWS).warned
  assert "has no add_eos_token, without which transformers makes no EOS" in note
  configure(folder, add_bos_token=True, add_eos_token=False)
  with pytest.raises(BadInput, match="add_eos_token=False is not supported"):
    tokenizer_files.read(folder, ROWS)


def test_tokens_added_to_a_model_alone(folder, pieces):
  alone(folder, pieces)
  size = Tokenizer(pieces).vocab_size
  configure(folder, add_bos_token=True, add_eos_token=True)
  beside("added_tokens.json", **{"[ENT]": size, "<mask>": 4})(folder)
  found = tokenizer_files.read(folder, ROWS)
  assert size in Tokenizer(found.model).encode("a [ENT] b")
  assert "lacks '[ENT]', which the files beside it add" in found.warned[-1]
  assert "no row" in tokenizer_files.read(folder, size).aside[0]
  beside("added_tokens.json", **{"[ENT]": size + 1})(folder)
  with pytest.raises(BadInput, match="which does not fit"):
    tokenizer_files.read(folder, ROWS)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"eos_token": "<unused3>"}, "eos_token is '<unused3>', the piece 1 of"),
    ({"cls_token": "the"}, "cls_token names 'the', which tokenizer.model does"),
    ({"extra_special_tokens": []}, "extra_special_tokens is read in several"),
    ({"split_special_tokens": True}, "split_special_tokens is true, and '<mas"),
  ],
)
def test_what_versions_make_of_a_model_alone(folder, pieces, settings, message):
  alone(folder, pieces)
  configure(folder, add_bos_token=True, add_eos_token=True, **settings)
  with pytest.raises(BadInput, match=message):
    tokenizer_files.read(folder, ROWS)


def test_a_model_one_level_up_is_said(folder, pieces):
  (folder / TOKENS).rename(folder.parent / "elsewhere")
  (folder.parent / MODEL).write_bytes(pieces)
  configure(folder, add_bos_token=True, add_eos_token=True)
  note, _ = tokenizer_files.read(folder, ROWS).warned
  assert str(folder.parent / MODEL) in note


@pytest.fixture
def saved(exported, tmp_path) -> pathlib.Path:
  """Our export, with a tokenizer as transformers 5 saves it."""
  copy = shutil.copytree(exported, tmp_path / "saved")
  tree = json.loads((copy / CONFIG).read_text())
  for key in ("added_tokens_decoder", "add_bos_token", "add_eos_token"):
    del tree[key]
  (copy / CONFIG).write_text(json.dumps(tree))
  (copy / "special_tokens_map.json").unlink()
  return copy


def test_load_says_which_file_decides(saved, exported):
  with warnings.catch_warnings():
    warnings.simplefilter("error", eg.Notice)
    same = eg.load(saved).tokenizer.model == eg.load(exported).tokenizer.model
  assert same
  renamed(saved)
  with pytest.warns(eg.Notice) as warned:
    model = eg.load(saved)
  said = " ".join(str(warning.message) for warning in warned)
  assert f"{saved}: tokenizer.model is left aside" in said
  assert "1 piece is another (first id 8: '<unused3>', not '[ENT]')" in said
  assert 8 in model.tokenizer.encode("a[ENT]b")


def test_load_and_teach_refuse_texts_without_eos(saved):
  change(saved, post_processor=POSTS[1])
  with pytest.raises(BadInput, match="read as 'BOS pieces', by an EmbeddingG"):
    eg.load(saved)
  config = teachers.TeachConfig(str(saved), 0, "float32", 0)
  with pytest.raises(BadInput, match="read as 'BOS pieces', by an EmbeddingG"):
    teachers.teacher_of(config)
  (saved / TOKENS).unlink()
  with pytest.raises(BadInput, match="add_bos_token=None is not supported"):
    teachers.teacher_of(config)


def bases(folder, pieces) -> list[pathlib.Path]:
  """Folders that are to be edited: as written by us, by transformers, both."""
  transformers = pytest.importorskip("transformers", minversion="5")
  transformers.logging.set_verbosity_error()
  config = {"model_type": "gemma3_text", "vocab_size": ROWS}
  ours = folder.parent / "ours"
  alone_ = folder.parent / "alone"
  for path in (ours, alone_):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / MODEL).write_bytes(pieces)
  flags = {"add_bos_token": True, "add_eos_token": True}
  configure(alone_, tokenizer_class="GemmaTokenizer", **flags)
  (ours / TOKENS).write_bytes(tokenizer_json(pieces))
  (ours / CONFIG).write_text(json.dumps(tokenizer_config(pieces, 64)))
  found = [ours, alone_]
  for name, source in ("resaved", ours), ("theirs", alone_):
    path = folder.parent / name
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(path)
    (path / "config.json").write_text(json.dumps(config))
    found.append(path)
  return found


def ids_of(transformers, folder):
  """The library's ids; None if it cannot read the folder."""
  try:
    read = transformers.AutoTokenizer.from_pretrained(folder)
    return [
      read(text, truncation=True, max_length=LONGEST)["input_ids"]
      for text in TEXTS
    ]
  except Exception:  # it raises many kinds, for faults that it does not name
    return None


@pytest.mark.parametrize(
  "seeds", [range(40), pytest.param(range(40, 340), marks=pytest.mark.slow)]
)
def test_random_edits_are_never_silent(folder, pieces, seeds):
  """Each gives the ids of transformers, or is refused, or is said."""
  transformers = pytest.importorskip("transformers", minversion="5")
  started = bases(folder, pieces)
  counts = {"same": 0, "said": 0, "refused": 0}
  for seed in seeds:
    r = random.Random(seed)
    place = folder.parent / "edited"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(r.choice(started), place)
    for _ in range(r.choice([1, 1, 1, 2])):
      edits.edit(r, place)
    try:
      found = tokenizer_files.read(place, ROWS)
    except BadInput:
      counts["refused"] += 1
      continue
    rows, _ = Tokenizer(found.model).encode_batch(TEXTS, LONGEST)
    theirs = ids_of(transformers, place)
    if theirs is None or theirs == [row.tolist() for row in rows]:
      counts["same"] += 1
    else:
      assert found.warned, f"seed {seed} is silently different"
      counts["said"] += 1
  assert min(counts.values()) > 0, counts
