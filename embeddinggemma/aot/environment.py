"""Environment variables that libtpu needs to compile without a TPU.

They must be set before JAX is imported. Without a TPU, libtpu asks a metadata
server for one and prints what it misses, and two processes that compile at the
same time stop each other by a lock file. The values are only for a process that
compiles: on a host with TPUs, no other process may have them.
"""

import importlib.util
import os

# The accelerator type must be set, but any topology can be compiled for.
QUIET = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  # A program from the cache would come without the compiler's dumps.
  "JAX_ENABLE_COMPILATION_CACHE": "false",
}


def prepare() -> None:
  """Set the environment of this process, which must not run on a device."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  for name, value in QUIET.items():
    os.environ.setdefault(name, value)


def require_libtpu() -> None:
  """Raise BadInput with the command that installs libtpu if it is missing."""
  from embeddinggemma.types import BadInput  # which imports JAX

  if importlib.util.find_spec("libtpu") is None:
    raise BadInput(
      "compile needs the TPU compiler, which needs no TPU: pip install libtpu"
    )
