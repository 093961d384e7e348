"""The verb `shrink`: a small model out of a large one."""

import pathlib
import re
from collections.abc import Sequence

from absl import flags

from embeddinggemma.cli.flags import console, folder_of, say, show
from embeddinggemma.students import shrink as shrinking
from embeddinggemma.students import texts
from embeddinggemma.students.cuts import Cut
from embeddinggemma.students.vocabulary import Pruned
from embeddinggemma.terminal.console import Terminal
from embeddinggemma.terminal.table import Table
from embeddinggemma.types import BadInput

_NUMBER = re.compile(r"(\d+)(?:\.(\d{1,3}))?(k?)", re.IGNORECASE | re.ASCII)
_SHOWN = 10  # rows of the table


def shrink(values: flags.FlagValues) -> None:
  """Write a model with some of the layers and pieces of another."""
  size = None if values.vocabulary is None else _size(values.vocabulary)
  if size is not None and values.data is None:
    raise BadInput(
      "--vocabulary needs --data=DIR: texts or pairs whose pieces are kept"
    )
  if size is None and values.data is not None:
    raise BadInput("--data is for --vocabulary=N, whose pieces it decides")
  workdir, shown = folder_of(values.workdir), console()
  plan = shrinking.planned(values.model, workdir, values.layers, size)
  read = texts.Texts([], [])
  if size is not None:
    read = texts.read(
      pathlib.Path(values.data),
      values.skip_bad_rows,
      values.fields or "",
      lambda line: shown.print(line, highlight=False, soft_wrap=True),
    )
  found = shrinking.cut(plan, workdir, *read)
  if values.json:
    say(found.as_json())
    return
  kept = (f"{n} ({kind})" for n, kind in zip(found.layers, found.kinds))
  show(
    f"{found.place}",
    f"layers {', '.join(kept)}; {found.parameters:,} of {found.before:,}"
    " parameters",
  )
  if found.pruned:
    _show_vocabulary(found.pruned, size or 0)


def _size(given: str) -> int:
  """A number of pieces, such as 64000, 64k or 64.5k."""
  found = _NUMBER.fullmatch(given)
  if found and (found[3] or not found[2]):
    thousandths = (found[2] or "").ljust(3, "0")
    size = int(found[1] + thousandths) if found[3] else int(found[1])
    if size:
      return size
  raise BadInput(f"--vocabulary={given}: give a number, such as 64k")


def _show_vocabulary(pruned: Pruned, size: int) -> None:
  """Print what was cut, and what that does to the texts."""
  whole = pruned.whole
  few = f", fewer than {size:,}, since the texts use no more"
  show(
    f"{len(pruned.ids):,} pieces{few if len(pruned.ids) < size else ''}; of the"
    f" {pruned.used:,} that the texts use {pruned.lost:,} were cut;"
    f" {whole.share:.1%} of tokens are cut as before"
  )
  if pruned.lost:
    show(
      f"{whole.needing:.1%} of the texts need a piece that was cut: there are"
      f" {whole.tokens:.3f} times as many tokens, {whole.bytes:.2%} of them single"
      " bytes"
    )
  if len(pruned.parts) > 1:
    Terminal(stderr=False).print(_table(pruned.parts))


def _table(parts: Sequence[Cut]) -> Table:
  """The texts that fare worst, and what half of the others have at least."""
  rows = [
    (
      part.data,
      f"{part.texts:,}",
      f"{part.share:.1%}",
      f"{part.tokens:.2f}",
      f"{part.bytes:.1%}",
    )
    for part in parts[:_SHOWN]
  ]
  rest = parts[_SHOWN:]
  if rest:
    middle = rest[len(rest) // 2]
    count = sum(part.texts for part in rest)
    least = f"{rest[0].share:.1%}, half from {middle.share:.1%}"
    rows.append((f"{len(rest)} others", f"{count:,}", least, "", ""))
  header = ("data", "texts", "cut as before", "tokens", "bytes")
  return Table(header, rows)
