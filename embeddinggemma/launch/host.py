"""What each host of a slice does before the command, by line of a shell."""


def lines(*text: str) -> str:
  """Lines as one text."""
  return "\n".join(text) + "\n"


def install(venv: str) -> tuple[str, ...]:
  """Installs the checkout in the current folder, once.

  The images' own Python is 3.10, older than this project takes.
  """
  return (
    "export PATH=~/.local/bin:$PATH",
    "command -v uv >/dev/null || python3 -m pip install --quiet --user uv",
    f"[[ -d {venv} ]] || uv venv --quiet --python 3.12 {venv}",
    f"uv pip install --quiet --python {venv}/bin/python -e '.[tpu]'",
  )


def prepare() -> tuple[str, ...]:
  """Before every start.

  JAX asks for huge pages from v5e on. The lock of a process that a preemption
  killed stops the next one.
  """
  return (
    "echo always | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
    " >/dev/null || true",
    "sudo rm -f /tmp/libtpu_lockfile",
  )
