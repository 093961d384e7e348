"""The report on a compiled step as one page of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from embeddinggemma.aot import estimate

_GIB = 2**30


def as_page(found: Mapping[str, Any]) -> str:
  """The report as text, with shardings and what would fit if requested."""
  lines = [*_head(found), "", *_memory(found)]
  if found["cycles"] is not None:
    lines += ["", *_work(found), "", *_network(found), "", *_dearest(found)]
  if found.get("fit") is not None:
    lines += ["", *_fit(found["fit"])]
  if found.get("shardings"):
    lines += ["", *_shardings(found["shardings"])]
  return "\n".join(lines)


def _head(found: Mapping[str, Any]) -> Iterator[str]:
  slices = f"{found['num_slices']} x " if found["num_slices"] > 1 else ""
  mesh = " x ".join(f"{name} {size}" for name, size in found["mesh"].items())
  versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
  yield (
    f"{found['stage']} on {slices}{found['topology']}: {found['devices']}"
    f" devices, mesh {mesh}"
  )
  yield f"  {found['parameters']:,} parameters, batch_size {found['batch_size']:,}"
  yield f"  {found['batch']}"
  yield f"  compiled in {found['compile_seconds']:.0f} s, nothing run: {versions}"


def _memory(found: Mapping[str, Any]) -> Iterator[str]:
  hbm = found["hbm"]
  verdict = "fits" if found["fits"] else "DOES NOT FIT"
  yield (
    f"HBM of a device, GiB: {verdict}, needs"
    f" {hbm['needed_bytes'] / _GIB:.2f} of {hbm['capacity_bytes'] / _GIB:.2f}"
  )
  if found["message"]:
    yield f"  the compiler: {found['message']}"
  parts = ("arguments", "outputs", "temporaries", "code")
  yield "  " + ", ".join(
    f"{part} {hbm[part + '_bytes'] / _GIB:.2f}" for part in parts
  )
  yield "  largest temporaries (those not alive together share memory)"
  for row in hbm["largest"]:
    yield (
      f"    {row['bytes'] / _GIB:7.3f} x {row['count']:<4} {row['shape']:<26}"
      f" {row['source']}"
    )


def _work(found: Mapping[str, Any]) -> Iterator[str]:
  line = found["roofline"]
  yield "Work of a step (estimates)"
  yield (
    f"  model FLOPs {found['model_flops']:.4g} over all devices;"
    f" compiled {found['compiled_flops']:.4g}:"
    f" recompute factor {found['recompute_factor']:.2f}"
  )
  yield (
    f"  compiler cycles {found['cycles']:,} and kernels"
    f" {_ms(found['kernel_seconds'])}: {_ms(found['cycle_seconds'])},"
    f" MFU {_rate(found['cycle_mfu'])}"
  )
  for row in found["uncounted"]:
    yield (
      f"    without cycles: {row['count']} x {row['kind']} of"
      f" {row['elements']:,} elements  {row['source']}"
    )
  for name in found["unknown_loops"]:
    yield f"    counted once, its trip count being unknown: {name}"
  yield (
    f"  roofline max(products {_ms(line['compute_seconds'])}, HBM"
    f" {_ms(line['hbm_seconds'])}) + ICI {_ms(line['ici_seconds'])} + DCN"
    f" {_ms(line['dcn_seconds'])}: {_ms(found['step_seconds'])},"
    f" MFU {_rate(found['mfu'])}"
  )
  yield f"    leaves out: {estimate.LEAVES_OUT}"
  for row in found["kernels"]:
    known = (
      "" if row["flops"] is not None else ", products unknown: bytes alone"
    )
    yield (
      f"  kernel {row['name']} x {row['times']}: {_ms(row['seconds'])}{known}"
      f"  {row['source']}"
    )


def _network(found: Mapping[str, Any]) -> Iterator[str]:
  yield (
    f"Collectives of a step ({found['collectives_in_loops']} of them in loops)"
  )
  for row in found["collectives"]:
    yield (
      f"  {row['kind']:<20} over {' x '.join(row['axes']) or 'none':<12}"
      f" {row['count']:>5} times {row['bytes'] / 2**20:12,.1f} MiB"
    )


def _dearest(found: Mapping[str, Any]) -> Iterator[str]:
  yield "Most expensive, of the compiler's cycles"
  for row in found["fusions"]:
    share = row["cycles"] / max(found["cycles"], 1)
    yield (
      f"  {share:6.1%} {row['cycles']:>13,} x {row['times']:<5}"
      f" {row['name']:<30} {row['source']}"
    )


def _fit(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  yield "What would fit"
  for row in rows:
    changed = " ".join(f"--config.{k}={v}" for k, v in row["change"].items())
    verdict = "fits" if row["fits"] else "does not fit"
    needed = row["needed_bytes"] / _GIB
    yield f"  {changed:<40} {verdict}: needs {needed:.2f} GiB"
  if not any(row["fits"] for row in rows):
    yield (
      "  None of them does: what is left are parameters, gathered"
      " embeddings and\n  logits. Use a smaller batch_size, more chips, or a"
      " larger mesh.fsdp."
    )


def _shardings(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  yield "State: shape, spec, bytes of a device"
  for row in rows:
    shape = "x".join(map(str, row["shape"])) or "scalar"
    yield f"  {row['path']:<64} {shape:<16} {row['spec']:<24} {row['bytes']:,}"


def _ms(seconds: float) -> str:
  return f"{seconds * 1e3:.2f} ms"


def _rate(value: float | None) -> str:
  return "-" if value is None else f"{value:.3f}"
