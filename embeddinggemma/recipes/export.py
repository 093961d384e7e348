"""Export of a recipe's final models to the formats of other runtimes."""

import dataclasses
import pathlib
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console

from embeddinggemma import doctor
from embeddinggemma.config import suggest
from embeddinggemma.convert import formats
from embeddinggemma.convert import verbs as convert
from embeddinggemma.convert.card import scores
from embeddinggemma.convert.certify import runtimes
from embeddinggemma.convert.formats import FORMATS
from embeddinggemma.convert.write import exporting
from embeddinggemma.types import BadInput


@dataclasses.dataclass(frozen=True)
class ExportConfig:
  """The formats that a recipe exports its models to.

  A model that was trained for a precision is written, in each format, with the
  type that holds its integers. Where a format's runtime is not installed, the
  certificate says that nothing has checked the export.
  """

  formats: tuple[str, ...]  # of the final model
  quantised: tuple[str, ...]  # of the models trained for a precision

  def __post_init__(self) -> None:
    for name in ("formats", "quantised"):
      for form in getattr(self, name):
        if form not in FORMATS:
          known = suggest(form, list(FORMATS))
          raise BadInput(
            f"export.{name} holds {form!r}, which is unknown{known}"
          )

  @property
  def runtimes(self) -> dict[str, str]:
    """Format -> the package that runs its exports here; "" for none.

    It belongs to the task's key: with another runtime, exports are made anew.
    """
    forms = sorted({*self.formats, *self.quantised})
    found = {form: runtimes.find(form) for form in forms}
    return {form: r.through if r else "" for form, r in found.items()}


class Exported(NamedTuple):
  """The result of the task `export`.

  A row per export: {"model", "format", "dtype", "bytes", "seconds", "place",
  "verdict", "cosine"}, where "place" is relative to the task's folder and
  "cosine" the smallest between a text's exported and original vectors.
  """

  exports: list[dict[str, Any]]


def require_held(path: pathlib.Path, forms: Iterable[str]) -> None:
  """Raise BadInput if a format cannot hold a checkpoint's model.

  It reads no weights, so that a recipe can ask before it trains.
  """
  for form in forms:
    how = formats.opened(form)
    for fault, found in how.faults(
      exporting.opened(how, str(path), None)
    ).items():
      if found:
        raise BadInput(
          f"export: {form} cannot hold {fault}; choose other layers, or leave"
          " it out of --config.export"
        )


def export_all(
  models: Mapping[str, pathlib.Path],
  forms: Mapping[str, tuple[str, ...]],
  directory: pathlib.Path,
  console: Console,
  scored: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Exported:
  """Export each model, by name, to DIRECTORY/NAME/FORMAT.

  `scored` has scores of some of them for the model card, as summary.json has
  those of its final model.

  Raises Stopped for an export that the doctor or its runtime refuses.
  """
  examine = lambda place: doctor.check_or_stop(place, console)
  rows = []
  for name, path in models.items():
    of_run = scores.of_summary(scored.get(name, {}))
    known = (of_run,) if of_run else ()
    for form in forms[name]:
      place, began = pathlib.Path(name) / form, time.perf_counter()
      found = convert.export_model(
        str(path),
        form,
        directory / place,
        None,
        False,
        examine,
        console,
        scores=known,
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
  return Exported(rows)
