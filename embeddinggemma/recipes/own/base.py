"""What is asked of the base of a recipe, before any work."""

from embeddinggemma.data import prompts
from embeddinggemma.loading import Model
from embeddinggemma.training import inputs
from embeddinggemma.types import BadInput

TABLE = "embedding$"  # the pattern of the largest tensor's path


def check_prompts(base: Model) -> None:
  """Raise BadInput for a base that was trained with other prompts than ours.

  Under ours it would be worse, and nothing would say so.
  """
  name = inputs.other_prompts(base.prompts)
  if name:
    raise BadInput(
      f"{base.name}: its prompt {name!r} is {base.prompts[name]!r}, but pairs"
      f" are trained with {prompts.PROMPTS[name]!r}; use a base with ours"
    )
