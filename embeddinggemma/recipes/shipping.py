"""What a recipe ships: its models in the formats of other runtimes."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from embeddinggemma import doctor
from embeddinggemma.config import suggest
from embeddinggemma.convert import verbs as convert
from embeddinggemma.convert.certify import runtimes
from embeddinggemma.types import BadInput


@dataclasses.dataclass(frozen=True)
class ExportConfig:
  """Formats of the final model, and of those trained for a precision.

  The integers of the latter are what a format is for: of each, it takes the
  type that holds them. A runtime that is not installed has checked nothing,
  which the certificate says.
  """

  formats: tuple[str, ...]
  quantised: tuple[str, ...]

  def __post_init__(self) -> None:
    for name in ("formats", "quantised"):
      for form in getattr(self, name):
        if form not in convert.FORMATS:
          known = suggest(form, list(convert.FORMATS))
          raise BadInput(
            f"export.{name} holds {form!r}, which is unknown{known}"
          )

  @property
  def runtimes(self) -> dict[str, str]:
    """What checks each format here: with another one, exports are made anew."""
    forms = sorted({*self.formats, *self.quantised})
    found = {form: runtimes.find(form) for form in forms}
    return {form: r.through if r else "" for form, r in found.items()}


def export_all(
  models: Mapping[str, pathlib.Path],
  formats: Mapping[str, tuple[str, ...]],
  directory: pathlib.Path,
  console: Console,
) -> list[dict[str, Any]]:
  """Exports each model, by name, to DIRECTORY/NAME/FORMAT.

  Returns [{"model", "format", "dtype", "bytes", "seconds", "place",
  "verdict", "cosine"}]. Raises Stopped for one that its runtime refuses.
  """
  examine = lambda place: doctor.check_or_stop(place, console)
  rows = []
  for name, path in models.items():
    for form in formats[name]:
      place, began = pathlib.Path(name) / form, time.perf_counter()
      found = convert.export_model(
        str(path), form, directory / place, None, False, examine, console
      )
      files = [p for p in (directory / place).rglob("*") if p.is_file()]
      rows.append(
        {
          "model": name,
          "format": form,
          "dtype": found["dtype"],
          "bytes": sum(p.stat().st_size for p in files),
          "seconds": time.perf_counter() - began,
          "place": str(place),
          "verdict": found["verdict"],
          "cosine": found.get("cosine", {}).get("min"),
        }
      )
  return rows
