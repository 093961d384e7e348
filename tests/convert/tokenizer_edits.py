"""Random edits of the files that a folder has for its tokenizer.

Each changes one thing, as a tool, a person or an accident would. Used by
test_tokenizer_read.py, which says what must come of them.
"""

import json
import pathlib
import random
from collections.abc import Callable
from typing import Any

TOKENS, CONFIG, MODEL = (
  "tokenizer.json",
  "tokenizer_config.json",
  "tokenizer.model",
)
TEXTS = ("[ENT]", "[NEW tok]", "red", " the", "\u2581to", "x\n", "\u2581" * 2)
_SPACES = {
  "type": "Replace",
  "pattern": {"String": " "},
  "content": "\u2581",
}


def _sequence(*steps: Any) -> Any:
  return {"type": "Sequence", "normalizers": list(steps)}


NORMALIZERS = (
  None,
  {"type": "Lowercase"},
  _sequence(),
  _sequence(_SPACES),
  _sequence({"type": "NFKC"}, _SPACES),
  _sequence(_SPACES, {"type": "Lowercase"}),
  _sequence({"type": "Prepend", "prepend": "\u2581"}, _SPACES),
  _SPACES | {"pattern": {"Regex": " "}},
  _SPACES | {"pattern": {"Regex": " +"}},
)
_SPLIT = {
  "type": "Split",
  "pattern": {"String": " "},
  "behavior": "Removed",
  "invert": False,
}
PRE_TOKENIZERS = (
  None,
  _SPLIT,
  _SPLIT | {"invert": True},
  _SPLIT | {"pattern": {"String": "\u2581"}, "behavior": "Isolated"},
  {"type": "Whitespace"},
  {"type": "Digits", "individual_digits": True},
  {"type": "Sequence", "pretokenizers": []},
)


def template(parts: str, **ids: int) -> Any:
  """A post-processor: "bos $ eos" with the ids of its tokens."""
  kinds = {"$": {"Sequence": {"id": "A", "type_id": 0}}}
  ids = {"bos": 2, "eos": 1} | ids
  kinds |= {n: {"SpecialToken": {"id": n, "type_id": 0}} for n in ids}
  single = [kinds[part] for part in parts.split()]
  return {
    "type": "TemplateProcessing",
    "single": single,
    "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {
      name: {"id": name, "ids": [n], "tokens": [name]}
      for name, n in ids.items()
    },
  }


POST_PROCESSORS = (
  None,
  template("bos $"),
  template("$ eos"),
  template("bos bos $ eos"),
  template("eos $ bos"),
  template("bos $ eos", bos=5),
  {"type": "BertProcessing", "sep": ["e", 1], "cls": ["b", 2]},
)


def added(text: str, number: int, **flags: bool) -> dict[str, Any]:
  """An entry of added_tokens."""
  names = ("single_word", "lstrip", "rstrip", "normalized", "special")
  return {"id": number, "content": text, **dict.fromkeys(names, False)} | flags


def _of_vocabulary(r: random.Random, tree: Any) -> None:
  vocab = tree["model"]["vocab"]
  one, two = r.sample(list(vocab), 2)
  kind = r.randrange(4)
  if kind == 0:
    vocab[one], vocab[two] = vocab[two], vocab[one]
  elif kind == 1:
    del vocab[one]
  elif kind == 2:
    vocab["[ENT]"] = vocab.pop(one)
  else:
    vocab["[ENT]"] = len(vocab) + r.choice([0, 0, 3])


def _of_merges(r: random.Random, tree: Any) -> None:
  merges = tree["model"]["merges"]
  one, two = r.randrange(len(merges)), r.randrange(len(merges))
  kind = r.randrange(6)
  if kind == 0:
    merges[one], merges[two] = merges[two], merges[one]
  elif kind == 1:
    del merges[one]
  elif kind == 2:
    del merges[one:]
  elif kind == 3:
    merges.insert(two, merges[one])
  elif kind == 4:
    merges.reverse()
  else:
    tree["model"]["merges"] = [" ".join(pair) for pair in merges]


def _of_added(r: random.Random, tree: Any) -> None:
  rows, vocab = tree["added_tokens"], tree["model"]["vocab"]
  one = r.choice(rows)
  kind = r.randrange(7)
  if kind == 0:
    rows.remove(one)
  elif kind == 1:
    rows.remove(one)
    vocab.pop(one["content"], None)
  elif kind == 2:
    flag = r.choice(["lstrip", "single_word", "normalized", "special"])
    one[flag] = not one[flag]
  elif kind == 3:
    vocab["[ENT]"] = vocab.pop(one["content"], one["id"])
    one["content"] = "[ENT]"
  elif kind == 4:
    r.shuffle(rows)
  else:
    text, flags = r.choice(TEXTS), ("normalized", "special")
    number = vocab.get(text, max(len(vocab), rows[-1]["id"] + 1))
    rows.append(added(text, number, **{f: r.random() < 0.5 for f in flags}))


def _of_sections(r: random.Random, tree: Any) -> None:
  kind = r.randrange(6)
  if kind == 0:
    tree["normalizer"] = r.choice(NORMALIZERS)
  elif kind == 1:
    tree["pre_tokenizer"] = r.choice(PRE_TOKENIZERS)
  elif kind == 2:
    tree["post_processor"] = r.choice(POST_PROCESSORS)
  elif kind == 3:
    del tree[r.choice(list(tree))]
  elif kind == 4:
    flag = r.choice(["byte_fallback", "fuse_unk", "ignore_merges"])
    tree["model"][flag] = not tree["model"].get(flag)
  else:
    side = r.choice(["Left", "Right"])
    tree["truncation"] = {
      "direction": side,
      "max_length": 9,
      "strategy": "LongestFirst",
      "stride": 0,
    }


_CLASSES = ("PreTrainedTokenizerFast", "LlamaTokenizerFast", "Foo", None)
_VALUES: dict[str, tuple[Any, ...]] = {
  "add_bos_token": (True, False),
  "add_eos_token": (True, False),
  "split_special_tokens": (True, False),
  "do_lower_case": (True, False),
  "add_prefix_space": (True, False),
  "tokenizer_class": _CLASSES,
  "truncation_side": ("left", "right"),
  "extra_special_tokens": ([], ["red"], {"q_token": "[Q]"}, ["<unused1>"]),
  "additional_special_tokens": (["red"], ["[Q]"], ["<unused1>"]),
  "mask_token": ("<mask>", "red", "[CLS]", None),
  "eos_token": ("<eos>", "<unused3>"),
  "added_tokens_decoder": ({}, {"500": added("[ENT]", 500)}),
  "fast_tokenizer_files": (["tokenizer.json"], ["tokenizer.4.0.json"]),
}


def _of_config(r: random.Random, tree: Any) -> None:
  listed = tree.get("added_tokens_decoder")
  if listed and r.random() < 0.3:
    number = r.choice(list(listed))
    flag = r.choice(["rstrip", "normalized", "special", ""])
    if flag:
      listed[number][flag] = not listed[number][flag]
    else:
      del listed[number]
  elif tree and r.random() < 0.2:
    del tree[r.choice(list(tree))]
  else:
    key = r.choice(list(_VALUES))
    tree[key] = r.choice(_VALUES[key])


_BESIDE = (
  ("added_tokens.json", {"[ENT]": 500}),
  ("added_tokens.json", {"red": 7}),
  ("added_tokens.json", {"<mask>": 4}),
  ("added_tokens.json", {"[ENT]": 600}),
  ("special_tokens_map.json", {"mask_token": "<mask>"}),
  ("special_tokens_map.json", {"cls_token": "[CLS]"}),
  ("special_tokens_map.json", {"bos_token": "<eos>"}),
  ("special_tokens_map.json", {"additional_special_tokens": ["red"]}),
)
_OF_TOKENS: tuple[Callable[[random.Random, Any], None], ...] = (
  _of_vocabulary,
  _of_merges,
  _of_added,
  _of_added,
  _of_sections,
)


def edit(r: random.Random, folder: pathlib.Path) -> None:
  """Change one file of a folder, or what one says."""
  choice = r.random()
  if choice < 0.6 and (folder / TOKENS).exists():
    _rewrite(r, folder / TOKENS, r.choice(_OF_TOKENS))
  elif choice < 0.85:
    _rewrite(r, folder / CONFIG, _of_config)
  elif choice < 0.95:
    name, tree = r.choice(_BESIDE)
    (folder / name).write_text(json.dumps(tree))
  else:
    (folder / r.choice([TOKENS, CONFIG, MODEL])).unlink(missing_ok=True)


def _rewrite(
  r: random.Random,
  path: pathlib.Path,
  change: Callable[[random.Random, Any], None],
) -> None:
  tree = json.loads(path.read_text()) if path.exists() else {}
  if path.name == CONFIG or {"model", "added_tokens"} <= tree.keys():
    change(r, tree)
    path.write_text(json.dumps(tree))
