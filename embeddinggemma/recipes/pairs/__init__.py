"""The recipe that finetunes a base model on the user's own pairs.

It forecasts time and memory first, and measures afterwards what was forgotten.
"""

from embeddinggemma.recipes.pairs.config import PairsConfig, build
from embeddinggemma.recipes.pairs.result import plan

__all__ = ["PairsConfig", "build", "plan"]
