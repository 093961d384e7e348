"""Presets: models and the sizes of their trainings, by name; see PRESETS."""

from embeddinggemma.presets import (
  embeddinggemma_300m,
  gemma3_270m,
  laptop,
  tiny,
)
from embeddinggemma.presets.preset import Preset
from embeddinggemma.types import BadInput

PRESETS: dict[str, Preset] = {
  "embeddinggemma_300m": embeddinggemma_300m.PRESET,
  "gemma3_270m": gemma3_270m.PRESET,
  "laptop": laptop.PRESET,
  "tiny": tiny.PRESET,
}


def preset(name: str) -> Preset:
  """The preset of a name; BadInput, with the known names, if there is none."""
  if name not in PRESETS:
    raise BadInput(f"unknown preset {name!r}; use one of {', '.join(PRESETS)}")
  return PRESETS[name]
