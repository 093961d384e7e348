"""The verb `shrink`: a small model out of a large one."""

import pathlib

from absl import flags

from embeddinggemma.cli.flags import folder_of, show
from embeddinggemma.data import sources, text
from embeddinggemma.students import shrink as shrinking
from embeddinggemma.types import BadInput


def shrink(values: flags.FlagValues) -> None:
  """Write a model with some of the layers and pieces of another."""
  size = None if values.vocabulary is None else _size(values.vocabulary)
  if size is not None and values.data is None:
    raise BadInput(
      "--vocabulary needs --data=DIR: texts or pairs whose pieces are kept"
    )
  if size is None and values.data is not None:
    raise BadInput("--data is for --vocabulary=N, whose pieces it decides")
  workdir = folder_of(values.workdir)
  texts = _texts(pathlib.Path(values.data)) if size is not None else []
  found = shrinking.shrink(values.model, workdir, values.layers, size, texts)
  show(
    f"{found.place}",
    f"layers {', '.join(map(str, found.layers))}; {found.parameters:,} of"
    f" {found.before:,} parameters",
  )
  if cut := found.pruned:
    show(
      f"{len(cut.ids):,} pieces; of the {cut.used:,} that the texts use"
      f" {cut.lost:,} were cut; {cut.share:.1%} of tokens are cut as before"
    )


def _size(given: str) -> int:
  """A number of pieces, such as 64000 or 64k."""
  number, thousand = given.removesuffix("k"), given.endswith("k")
  if not number.isdecimal() or not int(number):
    raise BadInput(f"--vocabulary={given}: give a number, such as 64k")
  return int(number) * (1000 if thousand else 1)


def _texts(path: pathlib.Path) -> list[str]:
  """The texts of a folder or file of pairs, or of running text."""
  if sources.has_pairs(path):
    pairs, _ = sources.read_pairs(path)
    return [found for _, found in text.pair_texts(pairs)]
  return [found for _, found in text.read_texts(path, False, [])]
