"""Text for which a vocabulary has no pieces: it is encoded byte by byte.

Such text is right, but longer than it need be, and a model learns little of it.
A vocabulary that was made for other text, or cut to it, does this silently.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int
from rich.console import Console

from embeddinggemma.data.tokenizer import Tokenizer

MANY = 0.05  # share of tokens that are single bytes above which it is said
FEWEST = 1000  # tokens; of fewer, a share says little


def in_bytes(
  tokenizer: Tokenizer, rows: Iterable[Int[np.ndarray, "_"]]
) -> tuple[int, int]:
  """How many of the tokens of some texts are single bytes, and of how many."""
  ids = np.concatenate([np.zeros(0, np.int32), *rows])
  return int(tokenizer.is_byte[ids].sum()), len(ids)


def say(few: int, many: int, console: Console) -> None:
  """Print the note on texts that were encoded, if there is one."""
  if line := note({"these texts": (few, many)}):
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def note(counted: Mapping[str, tuple[int, int]]) -> str:
  """What to say of texts, by what `in_bytes` counted of them; "" for nothing.

  `counted` has a name for each kind of texts; those with many bytes are named.
  """
  shares = {
    name: few / many for name, (few, many) in counted.items() if many >= FEWEST
  }
  worst = sorted(
    (name for name, share in shares.items() if share > MANY),
    key=lambda name: -shares[name],
  )
  if not worst:
    return ""
  named = ", ".join(f"{shares[name]:.0%} of those of {name}" for name in worst)
  return (
    "note: the vocabulary has no piece for some characters; of the tokens, single"
    f" bytes are {named}"
  )
