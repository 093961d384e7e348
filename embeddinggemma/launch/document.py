"""YAML as a person writes it: scripts as blocks, exit codes on one line."""

import re
from collections.abc import Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
  """Writes equal values out instead of linking them by anchors and aliases."""

  def ignore_aliases(self, data: Any) -> bool:
    return True


# Strings that PyYAML leaves unquoted and kubectl's Go parser would read as
# another type: y, 1e-5, 0o17.
_NO_TEXT = re.compile(
  r"y|n|[-+]?(\.\d+|\d+(\.\d*)?)(e[-+]?\d+)?|[-+]?0o[0-7_]+", re.IGNORECASE
)


def _text(dumper: _Dumper, text: str) -> yaml.Node:
  quoted = "'" if _NO_TEXT.fullmatch(text) else None
  style = "|" if "\n" in text else quoted
  return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


def _tuple(dumper: _Dumper, values: tuple) -> yaml.Node:
  return dumper.represent_sequence("tag:yaml.org,2002:seq", values, True)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(tuple, _tuple)


def to_yaml(tree: Mapping[str, Any]) -> str:
  """A tree as YAML, keys in their order; a tuple stays on its line."""
  return yaml.dump(
    tree, Dumper=_Dumper, sort_keys=False, width=10**6, allow_unicode=True
  )
