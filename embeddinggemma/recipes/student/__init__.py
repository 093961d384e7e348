"""The recipe that cuts a small model out of a base and distils it.

A few layers and pieces of the base are trained to give the base's own vectors
of the user's texts, then on the user's pairs if there are any, then for weights
of four bits (paper sections 2.2 and 3.5).
"""

from embeddinggemma.recipes.student.config import StudentConfig, build
from embeddinggemma.recipes.student.result import plan

__all__ = ["StudentConfig", "build", "plan"]
