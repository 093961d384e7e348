"""Finetuning on the user's own pairs, with a forecast, and what it forgot."""

from embeddinggemma.recipes.pairs.config import PairsConfig, about, build
from embeddinggemma.recipes.pairs.result import show, summary
from embeddinggemma.recipes.pairs.stages import Run, steps

__all__ = ["PairsConfig", "Run", "about", "build", "show", "steps", "summary"]
