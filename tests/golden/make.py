"""What users see of configs and flags, to be compared with what they saw.

  python tests/golden/make.py

Writes configs.json (every config file with every preset, resolved) and
help.txt (every --help) anew. A difference is a change of the command line:
it belongs in the message of the commit that makes it.
"""

import contextlib
import importlib.util
import io
import json
import pathlib
from typing import Any

from embeddinggemma import config as config_lib
from embeddinggemma import presets
from embeddinggemma.cli import main

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"


def configs() -> dict[str, Any]:
  """'NAME.py:PRESET' -> {'optimizer.lr': value, ...}, as JSON."""
  resolved = {}
  for path in sorted(CONFIGS.glob("*.py")):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sized = path.stem not in ("mine", "pairs", "student", "teach")
    for preset in presets.PRESETS if sized else ("",):
      config = module.get_config(preset or None)
      name = f"{path.name}:{preset}".rstrip(":")
      resolved[name] = config_lib.flat(
        json.loads(config.to_json_best_effort(sort_keys=True))
      )
  return resolved


def helps() -> str:
  """What every --help prints."""
  names = [[], *([name] for name in main.VERBS)]
  with contextlib.redirect_stdout(io.StringIO()) as out:
    for name in names:
      assert main.call([*name, "--help"]) == 0
      print()
  return out.getvalue()


def as_text(resolved: dict[str, Any]) -> str:
  """A line a key, so that a difference is read as one."""
  return json.dumps(resolved, indent=0) + "\n"


if __name__ == "__main__":
  (HERE / "configs.json").write_text(as_text(configs()))
  (HERE / "help.txt").write_text(helps())
