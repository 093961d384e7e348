"""A program: vectors of a GGUF file from llama.cpp, by xllamacpp.

Its arguments are the paths of the request and of the reply. Beside what every
program gets, the request may say how many "threads" compute, how many texts are
in a micro-batch ("together"), and the "tokens" of one.
"""

import importlib
import json
import pathlib
import sys
from typing import Any


def main(request: str, reply: str) -> None:
  """Answer a request; a file that llama.cpp cannot use ends the process."""
  # By name: it says nothing of its types.
  xllamacpp: Any = importlib.import_module("xllamacpp")
  asked = json.loads(pathlib.Path(request).read_text())
  params = xllamacpp.CommonParams()
  params.model.path = asked["artefact"]
  params.embedding = True
  params.warmup = False
  params.n_gpu_layers = 0
  # A text must fit into one micro-batch, or the process is aborted.
  params.n_batch = params.n_ubatch = max(
    asked["longest"], asked.get("tokens", 0)
  )
  params.n_parallel = together = asked.get("together", 1)
  params.n_ctx = max(params.n_batch, together * asked["longest"])
  # Threads wait for each other by spinning: on a busy machine, one is faster.
  threads = asked.get("threads", 1)
  params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
  # It would round keys and values to float16, and sum in it.
  off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
  params.flash_attn_type = off
  server = xllamacpp.Server(params)
  vectors: list[Any] = []
  items = asked["items"]
  for given in [items] if together > 1 else items:
    found = server.handle_embeddings({"input": given, "embd_normalize": -1})
    found = json.loads(found) if isinstance(found, str) else found
    if "data" not in found:
      sys.exit(f"error: {json.dumps(found)}")
    rows = sorted(found["data"], key=lambda row: row["index"])
    vectors += [row["embedding"] for row in rows]
  versions = {"xllamacpp": xllamacpp.__version__}
  tree = {"vectors": vectors, "versions": versions}
  pathlib.Path(reply).write_text(json.dumps(tree))


if __name__ == "__main__":
  main(*sys.argv[1:])
