"""Finetuning on the user's own pairs, with a forecast, and what it forgot."""

from embeddinggemma.recipes.pairs.config import PairsConfig, build
from embeddinggemma.recipes.pairs.result import plan

__all__ = ["PairsConfig", "build", "plan"]
