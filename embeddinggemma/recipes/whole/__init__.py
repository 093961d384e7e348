"""The paper's recipe, from raw text to a model (arXiv 2509.20354)."""

from embeddinggemma.recipes.whole.config import RecipeConfig, build
from embeddinggemma.recipes.whole.result import plan

__all__ = ["RecipeConfig", "build", "plan"]
