"""Shell lines that every host of a slice runs before the command."""


def lines(*text: str) -> str:
  """Join lines into one text."""
  return "\n".join(text) + "\n"


def install(venv: str) -> tuple[str, ...]:
  """Install the checkout in the current folder, unless that has been done.

  Python comes from uv: that of the machine images (3.10) is too old.
  """
  return (
    "export PATH=~/.local/bin:$PATH",
    "command -v uv >/dev/null || python3 -m pip install --quiet --user uv",
    f"[[ -d {venv} ]] || uv venv --quiet --python 3.12 {venv}",
    f"uv pip install --quiet --python {venv}/bin/python -e '.[tpu]'",
  )


def prepare() -> tuple[str, ...]:
  """Commands to run before every start.

  They enable huge pages, which JAX asks for from v5e on, and remove libtpu's
  lock file, which a preempted process leaves and which would stop the next one.
  """
  return (
    "echo always | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
    " >/dev/null || true",
    "sudo rm -f /tmp/libtpu_lockfile",
  )
