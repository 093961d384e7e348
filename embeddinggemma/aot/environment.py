"""What must be set before JAX is imported, so that libtpu compiles in peace.

Without a TPU, libtpu asks a metadata server for one and prints what it misses;
two that compile at once stop each other at a lock file. The values below are
for the process that compiles: on a host with TPUs, nothing else may have them.
"""

import importlib.util
import os

# The accelerator type is only to be present: any topology can be compiled.
QUIET = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  # What comes from the cache, the compiler has nothing to say about.
  "JAX_ENABLE_COMPILATION_CACHE": "false",
}


def prepare() -> None:
  """Sets the environment of this process; nothing is to run on a device."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  for name, value in QUIET.items():
    os.environ.setdefault(name, value)


def require_libtpu() -> None:
  """BadInput with the command that installs it, where libtpu is missing."""
  from embeddinggemma.types import BadInput  # which imports JAX

  if importlib.util.find_spec("libtpu") is None:
    raise BadInput(
      "compile needs the TPU compiler, which needs no TPU: pip install libtpu"
    )
