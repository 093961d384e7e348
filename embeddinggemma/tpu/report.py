"""What a compiled step needs and costs, as JSON."""

from typing import Any

from embeddinggemma.tpu import collectives, hlo
from embeddinggemma.tpu.compiling import Compiled


def as_json(compiled: Compiled) -> dict[str, Any]:
  """The report; figures are of one device unless they say otherwise."""
  program = compiled.program
  if program is None:
    return {"fits": False}
  parsed = hlo.parse(program.as_text())
  memory = program.memory_analysis()
  found = collectives.find(parsed, compiled.mesh.size)
  costs = sorted(
    ((n * (i.cycles or 0), n, i) for n, _, i in parsed.walk(fused=False)),
    key=lambda x: -x[0],
  )
  return {
    "fits": True,
    "cycles": sum(c for c, _, _ in costs),
    "hbm": {
      "arguments_bytes": memory.argument_size_in_bytes,
      "temporaries_bytes": memory.temp_size_in_bytes,
    },
    "collectives": collectives.summary(found, compiled.mesh),
    "fusions": [
      {"cycles": c, "times": n, "name": i.name, "source": parsed.source(i)}
      for c, n, i in costs[:10]
    ],
    "seconds": round(compiled.seconds, 1),
  }
