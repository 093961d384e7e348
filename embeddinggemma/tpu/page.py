"""The report as one page."""

import json
from typing import Any


def as_page(found: dict[str, Any]) -> str:
  """One page of text."""
  return json.dumps(found, indent=1)
