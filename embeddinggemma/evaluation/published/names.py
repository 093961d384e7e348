"""Which task of a table is meant by the name of a task that was scored."""

import difflib
from collections.abc import Iterable, Mapping

_NEAR = 3  # names that a message suggests


def plain(name: str) -> str:
  """A name without what people spell differently: case and punctuation."""
  return "".join(c for c in name.casefold() if c.isalnum())


def find(
  given: Iterable[str], known: Iterable[str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
  """The tasks of a table that were scored, and the names that are none.

  A name may have folders before it: "data/STS12" is STS12. Case and punctuation
  do not count, versions do: STS22 is not STS22.v2.

  Returns {name in the table: name as given}, {name as given: names that are
  near}. Two names of one task are both unknown, with that task as their near
  name, unless one of them is spelled as in the table.
  """
  table = {plain(name): name for name in known}
  meant: dict[str, list[str]] = {}
  unknown: dict[str, list[str]] = {}
  for name in given:
    if found := _meant(name, table):
      meant.setdefault(found, []).append(name)
    else:
      unknown[name] = near(name, table)
  matched: dict[str, str] = {}
  for task, names in meant.items():
    same = [n for n in names if n == task or n.endswith(f"/{task}")]
    chosen = names if len(names) == 1 else same if len(same) == 1 else []
    if chosen:
      matched[task] = chosen[0]
    unknown.update({name: [task] for name in names if name not in chosen})
  return matched, unknown


def near(name: str, table: Mapping[str, str]) -> list[str]:
  """The tasks whose names are nearest to one; `table` has them by `plain`."""
  parts = map(plain, name.split("/"))
  found = [
    table[close]
    for end in dict.fromkeys((*_plain_ends(name), *parts))
    for close in difflib.get_close_matches(end, table, _NEAR, 0.7)
  ]
  return list(dict.fromkeys(found))[:_NEAR]


def _meant(name: str, table: Mapping[str, str]) -> str:
  return next((table[end] for end in _plain_ends(name) if end in table), "")


def _plain_ends(name: str) -> list[str]:
  """The name with all folders before it, with fewer, and alone."""
  parts = name.split("/")
  return [plain("/".join(parts[i:])) for i in range(len(parts))]
