"""What --fields says: which column is what, how labels and quotes are read."""

import dataclasses
import shlex
from collections.abc import Mapping

from embeddinggemma.data.tables import labels
from embeddinggemma.types import BadInput

ROLES = (
  "query",
  "positive",
  "negative",
  "title",
  "task",
  "lang",
  "label",
  "ignore",
)
_SINGLE = ("query", "title", "task", "lang", "label")  # roles of one column
OPTIONS = {"quote": ("none",)}  # of files, beside the roles of columns
EXAMPLE = "--fields=query:question,positive:answer"


@dataclasses.dataclass(frozen=True)
class Fields:
  """What --fields says: columns by role, and how labels and quotes are read."""

  text: str = ""  # as it was given
  columns: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )
  rule: labels.Rule | None = None  # what makes a label that of a positive
  quotes: bool = True  # whether quotes in CSV and TSV enclose fields

  @property
  def numbered(self) -> bool:
    """Whether columns are numbers from 1, as of a file without names."""
    given = [name for names in self.columns.values() for name in names]
    return bool(given) and all(name.isdigit() for name in given)

  def of(self, role: str) -> tuple[str, ...]:
    """The columns of a role; () if none was given."""
    return self.columns.get(role, ())

  def with_(self, more: str) -> str:
    """The flag to write in a shell, with more than was given.

    What was given is left out where more is said of its role or its column.
    """
    given = [part.strip() for part in self.text.split(",") if part.strip()]
    said = [_role_and_column(part) for part in more.split(",")]
    again = {role for role, _ in said} & set(_SINGLE)
    names = {name for _, name in said}
    kept = []
    for part in given:
      role, name = _role_and_column(part)
      if role in OPTIONS or (role not in again and name not in names):
        kept.append(part)
    return flag(*kept, more)


def _role_and_column(part: str) -> tuple[str, str]:
  role, _, name = (side.strip() for side in part.partition(":"))
  return role, labels.column(name) if role == "label" else name


def flag(*parts: str) -> str:
  """The flag with these parts, as it is written in a shell."""
  return f"--fields={shlex.quote(','.join(parts))}"


def parse(text: str) -> Fields:
  """The fields of "query:question,positive:answer,label:score>=0.8,...".

  A role may come several times. Raises BadInput, with an example, for a part
  that is not ROLE:COLUMN, an unknown role, and a rule of anything but a label.
  """
  columns: dict[str, list[str]] = {}
  rule, quotes = None, True
  for part in filter(None, (part.strip() for part in text.split(","))):
    role, colon, name = part.partition(":")
    role, name = role.strip(), name.strip()
    if role in OPTIONS and name in OPTIONS[role]:
      quotes = False
      continue
    if not (colon and name) or role not in ROLES:
      raise BadInput(
        f"--fields: {part!r} is not ROLE:COLUMN; roles are {', '.join(ROLES)},"
        f" as in {EXAMPLE}; rename a column whose name has a comma"
      )
    if role == "label":
      name, rule = labels.parse(name)
    columns.setdefault(role, []).append(name)
  for role in _SINGLE:
    if len(columns.get(role, ())) > 1:
      raise BadInput(
        f"--fields gives {role!r} the columns {' and '.join(columns[role])};"
        " it takes one"
      )
  named = [name for names in columns.values() for name in names]
  for name in named:
    if named.count(name) > 1:
      raise BadInput(f"--fields names the column {name!r} twice; name it once")
  found = {role: tuple(names) for role, names in columns.items()}
  return Fields(text.strip(), found, rule, quotes)
