"""Finetuning on the user's own pairs, with a forecast, and what it forgot."""

from embeddinggemma.pairs.config import PairsConfig, about, build
from embeddinggemma.pairs.result import show, summary
from embeddinggemma.pairs.steps import Run, steps

__all__ = ["PairsConfig", "Run", "about", "build", "show", "steps", "summary"]
