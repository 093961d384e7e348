"""How the package is built, in numbers: to be compared with another version's.

  python tests/house.py [PACKAGE ...]

Of each folder of sources (this one's by default): modules that lie loose in its
root; floors, the longest chain of imports between units (a unit is a folder or
a loose module of the root); arrows, pairs of units of which one imports the
other; circles of units and of files; `isinstance` of a stage's config outside the folder of
stages; and files and functions that name a key of a stage's config, on average
over the keys that only one kind of stage has.
"""

import ast
import pathlib
import re
import statistics
import sys
from collections.abc import Iterator

NAME = "embeddinggemma"
HERE = pathlib.Path(__file__).parent.parent / NAME
_CONFIG = re.compile(r"(Pair|Qat|Language|Adapt)Config")
# Of one kind of stage each; names that nothing else has.
KEYS = (
  "decoder_from",
  "hold_steps",
  "separate_gradients",
  "denoisers",
  "teaches_itself",
  "vocab_block",
  "false_negative_margin",
  "teacher_width",
)


def parsed(package: pathlib.Path) -> dict[str, ast.Module]:
  """File, relative to the package -> its tree."""
  files = sorted(package.rglob("*.py"))
  return {
    path.relative_to(package).as_posix(): ast.parse(path.read_text("utf-8"))
    for path in files
  }


def unit_of(name: str) -> str:
  """The folder, or loose module, of the root that a file belongs to."""
  return name.split("/")[0].removesuffix(".py")


def modules(tree: ast.AST) -> Iterator[str]:
  """Every module that a tree imports, functions included."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield node.module or ""
      if node.module == NAME:
        yield from (f"{NAME}.{alias.name}" for alias in node.names)


def arrows(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
  """Unit -> the other units that it imports."""
  units = {unit_of(name) for name in trees}
  found: dict[str, set[str]] = {unit: set() for unit in units}
  for name, tree in trees.items():
    for module in modules(tree):
      top, _, rest = module.partition(".")
      other = rest.split(".")[0]
      if top == NAME and other in units - {unit_of(name)}:
        found[unit_of(name)].add(other)
  return found


def floors(imports: dict[str, set[str]]) -> dict[str, int]:
  """Unit -> how many units stand below it, one on the other; -1: in a circle."""
  done: dict[str, int] = {}

  def floor(unit: str, above: tuple[str, ...]) -> int:
    if unit in above:
      return -1
    if unit not in done:
      below = [floor(other, (*above, unit)) for other in imports[unit]]
      done[unit] = -1 if -1 in below else 1 + max(below, default=-1)
    return done[unit]

  for unit in imports:
    floor(unit, ())
  return done


def circles(trees: dict[str, ast.Module]) -> int:
  """Files that import each other, directly or through others."""
  modules_of = {
    ".".join([NAME, *name.removesuffix(".py").split("/")]).removesuffix(
      ".__init__"
    ): name
    for name in trees
  }

  def imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
      if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
          inner = f"{node.module}.{alias.name}"
          found.add(modules_of.get(inner) or modules_of.get(node.module, ""))
    return found - {""}

  below = {name: imported(tree) - {name} for name, tree in trees.items()}

  def reached(name: str) -> set[str]:
    seen, left = set(), [name]
    while left:
      for other in below[left.pop()] - seen:
        seen.add(other)
        left.append(other)
    return seen

  return sum(name in reached(name) for name in trees)


def examined(trees: dict[str, ast.Module]) -> int:
  """`isinstance` of a stage's config outside the folder of stages."""
  return sum(
    isinstance(node, ast.Call)
    and getattr(node.func, "id", "") == "isinstance"
    and any(
      _CONFIG.fullmatch(getattr(part, "id", "")) for part in ast.walk(node)
    )
    for name, tree in trees.items()
    if not name.startswith("training/stages/")
    for node in ast.walk(tree)
  )


def named(trees: dict[str, ast.Module], key: str) -> tuple[int, int]:
  """Files, and functions or classes, that name a key."""
  files, functions = 0, 0
  for tree in trees.values():
    hits = [node for node in tree.body if _names(node, key)]
    files += bool(hits)
    functions += len(hits)
  return files, functions


def _names(node: ast.AST, key: str) -> bool:
  for part in ast.walk(node):
    if isinstance(part, ast.Attribute) and part.attr == key:
      return True
    if isinstance(part, ast.Name | ast.arg | ast.keyword):
      if key in (getattr(part, "id", ""), getattr(part, "arg", "")):
        return True
    if isinstance(part, ast.Constant) and part.value == key:
      return True
  return False


def numbers(package: pathlib.Path) -> dict[str, float]:
  """What the head of this file says, by name."""
  trees = parsed(package)
  imports = arrows(trees)
  levels = floors(imports)
  trips = [named(trees, key) for key in KEYS]
  return {
    "modules in the root": sum("/" not in name for name in trees),
    "floors": 1 + max(levels.values()),
    "units in a circle": sum(level < 0 for level in levels.values()),
    "files in a circle": circles(trees),
    "arrows between units": sum(map(len, imports.values())),
    "isinstance of a stage's config": examined(trees),
    "files that name a key": statistics.mean(t[0] for t in trips),
    "functions that do": statistics.mean(t[1] for t in trips),
  }


if __name__ == "__main__":
  packages = [pathlib.Path(path) for path in sys.argv[1:]] or [HERE]
  columns = [numbers(package) for package in packages]
  for title in columns[0]:
    cells = " | ".join(f"{column[title]:g}" for column in columns)
    print(f"| {title} | {cells} |")
