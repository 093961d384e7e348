"""What a folder of weights holds beside what was read, and why it is left.

A file that could change vectors and is not read is warned of by name.
"""

import pathlib
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

_WEIGHTS = r"[^/]*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|npz|npy|pkl)"
# Pattern of a path in the folder -> why it cannot change the vectors of the
# model that was read. The first that fits counts.
_REASONS: tuple[tuple[str, str], ...] = (
  (r"(.*/)?\.[^/]+(/.*)?", "hidden; no part of the model"),
  (r"(.*/)?(README|LICEN[CS]E|NOTICE|USE_POLICY|TERMS)[^/]*", "text"),
  (r"(.*/)?[^/]*\.(md|txt|rst|pdf|html|png|jpe?g|svg|gif|ipynb)", "text"),
  (
    r"(.*/)?(embeddinggemma|certificate)\.json",
    "what an export of ours says of itself",
  ),
  (
    r"(onnx|openvino|coreml|tflite)/.*|.*\.(onnx|onnx_data|tflite)",
    "weights for other runtimes",
  ),
  (
    r"(original|consolidated)/.*|consolidated[^/]*\.\w+",
    "weights in another layout",
  ),
  (r"(checkpoint-\d+|checkpoints|runs|logs|eval|wandb)/.*", "of a training"),
  (
    r"(.*/)?(optimizer|scheduler|scaler|rng_state[^/]*|training_args"
    r"|trainer_state)\.(pt|pth|bin|json|safetensors)",
    "of a training",
  ),
  (r"(.*/)?(events\.out\.tfevents[^/]*|[^/]*\.(log|csv|tsv))", "of a training"),
  (r"(.*/)?[^/]*\.py", "code; none is run"),
  (r"(.*/)?[^/]*\.gguf", "a model of its own; give the file as --from"),
  (
    r"(generation_config|chat_template)\.\w+|.*\.jinja",
    "for writing text, which an embedder does not do",
  ),
  (
    r"(.*/)?(pytorch_model|tf_model|flax_model|model)[^/]*\.(bin|h5|msgpack)"
    r"(\.index\.json)?",
    "pickles; the safetensors beside them come first",
  ),
  (
    r"(.*/)?(model\.safetensors\.index\.json"
    r"|model-\d+-of-\d+\.safetensors)",
    "model.safetensors comes before shards",
  ),
  (
    r"(.*/)?sentence_[\w-]+_config\.json",
    "sentence_bert_config.json comes first",
  ),
  (
    r"(.*/)?(tokenizer\.(model|json)|tokenizer_config\.json"
    r"|special_tokens_map\.json|added_tokens\.json|vocab\.\w+|merges\.txt)",
    "the tokenizer for other programs; `doctor` compares it",
  ),
)
# A file of such a kind that nobody knows could matter.
_COULD = re.compile(rf"(.*/)?({_WEIGHTS}|[^/]*\.(json|model|ya?ml))")


class Left(NamedTuple):
  """The files that were not read."""

  reasons: Mapping[str, str]  # file, or folder and its number of files -> why
  warned: tuple[str, ...]  # of files that could matter


def in_folder(root: pathlib.Path, read: Collection[str]) -> Left:
  """Every file of a folder that is not among those read.

  Args:
    root: the folder.
    read: paths in it.
  """
  grouped: dict[str, list[str]] = {}
  unknown: list[str] = []
  for path in sorted(root.rglob("*")):
    name = path.relative_to(root).as_posix()
    if not path.is_file() or name in read:
      continue
    reason = next((r for p, r in _REASONS if re.fullmatch(p, name)), "")
    if not reason and _COULD.fullmatch(name):
      unknown.append(name)
      reason = "not known here, not read"
    grouped.setdefault(reason or "no file of a model", []).append(name)
  opened = {_first(name) for name in read}
  reasons = {
    name: why
    for why, files in grouped.items()
    for name in _by_folder(files, opened)
  }
  warned = (
    f"not read: {', '.join(_by_folder(unknown, opened))} of {root}; if that"
    " decides what the model computes, other programs give other vectors",
  )
  return Left(reasons, warned if unknown else ())


def _first(name: str) -> str:
  """The folder that a path begins with; the path if there is none."""
  return name.partition("/")[0] + "/" if "/" in name else name


def _by_folder(names: list[str], opened: Collection[str]) -> list[str]:
  """The names; those in a folder that was not opened as FOLDER/ and a number."""
  counts: dict[str, list[str]] = {}
  for name in names:
    place = name if _first(name) in opened else _first(name)
    counts.setdefault(place, []).append(name)
  return [
    files[0] if len(files) == 1 else f"{place} ({len(files)} files)"
    for place, files in counts.items()
  ]
