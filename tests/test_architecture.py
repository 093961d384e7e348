"""Imports go one way, and heavy packages are loaded only where they are used."""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import house
import pytest
from house import modules, unit_of

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "embeddinggemma"


def table() -> dict[str, int]:
  """Unit -> its floor, as BUILD.md has them."""
  rows = re.findall(
    r"^\| (\d+) \| `(\w+)` \|", (ROOT / "BUILD.md").read_text(), re.MULTILINE
  )
  return {unit: int(floor) for floor, unit in rows}


LEVEL = table()
PAGES = (
  "README.md",
  "BUILD.md",
  *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(PACKAGE).as_posix() for path in FILES]

# Third-party package -> the only files that import it.
ONLY_IN = {
  "flax": lambda name: name.startswith("model/"),
  "orbax": lambda name: name in ("checkpoint.py", "training/checkpoints.py"),
  "mteb": lambda name: name.startswith("evaluation/"),
  "ml_collections": lambda name: name == "cli/flags.py",
  "nltk": lambda name: name == "evaluation/cross/words.py",
  "seqio": lambda name: name == "data/seqio_tasks.py",
  "vizier": lambda name: name == "mixture/optimizer.py",
}
DEFERRED = {"mteb", "nltk", "seqio", "vizier", "tensorflow", "torch"}


def parsed(name: str) -> ast.Module:
  return ast.parse((PACKAGE / name).read_text(encoding="utf-8"))


def own_units(name: str) -> set[str]:
  """Units of the package that a file imports."""
  parts = [module.split(".") for module in modules(parsed(name))]
  return {p[1] for p in parts if p[0] == "embeddinggemma" and len(p) > 1}


def test_every_unit_has_a_floor():
  assert {unit_of(name) for name in NAMES} == set(LEVEL)


def test_the_house_stays_small():
  numbers = house.numbers(PACKAGE)
  assert numbers["modules in the root"] <= 16
  assert numbers["floors"] <= 11
  assert numbers["units in a circle"] == 0
  assert numbers["files in a circle"] == 0
  assert numbers["isinstance of a stage's config"] == 0


@pytest.mark.parametrize("page", PAGES)
def test_files_that_pages_name_are_there(page):
  text = (ROOT / page).read_text()
  names = re.findall(r"`(\w+/[\w/.]+\.(?:py|sh|md|toml))`", text)
  there = lambda name: (ROOT / name).exists() or (PACKAGE / name).exists()
  assert [name for name in names if not there(name)] == []


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_down(name):
  unit = unit_of(name)
  for other in own_units(name) - {unit}:
    assert LEVEL[other] < LEVEL[unit], f"{name} imports {other}"


@pytest.mark.parametrize("name", NAMES)
def test_third_party_imports_have_their_place(name):
  found = {module.split(".")[0] for module in modules(parsed(name))}
  for package, allowed in ONLY_IN.items():
    assert package not in found or allowed(name), f"{name} imports {package}"
  if name.startswith("data/") and name != "data/loader.py":
    assert not found & {"jax", "jaxlib", "optax"}, f"{name} imports JAX"


@pytest.mark.parametrize("name", NAMES)
def test_heavy_packages_are_imported_in_functions(name):
  top = [
    node
    for node in parsed(name).body
    if not isinstance(node, ast.FunctionDef | ast.ClassDef)
  ]
  found = {m.split(".")[0] for node in top for m in modules(node)}
  assert not found & DEFERRED


@pytest.mark.parametrize(
  "code",
  [
    "import embeddinggemma",
    "from embeddinggemma.cli import main; main.call(['--help'])",
    "from embeddinggemma.cli import main; main.call(['run', '--help'])",
  ],
)
def test_the_start_is_light(code):
  heavy = sorted(DEFERRED | {"jax", "numpy"})
  check = f"import sys; print([m for m in {heavy} if m in sys.modules])"
  done = subprocess.run(
    [sys.executable, "-c", f"{code}; {check}"],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=True,
  )
  assert done.stdout.splitlines()[-1] == "[]"


def test_training_starts_no_backend_before_processes_are_one():
  code = (
    "import embeddinggemma.cli.training; from jax._src import xla_bridge;"
    " print(xla_bridge._backends)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert done.stdout == b"{}\n", done.stderr


def public(tree: ast.Module) -> Iterator[ast.AST]:
  """Public functions and classes of a module, and public methods."""
  for node in tree.body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      if not node.name.startswith("_"):
        yield node
        if isinstance(node, ast.ClassDef):
          yield from (
            child
            for child in node.body
            if isinstance(child, ast.FunctionDef)
            and not child.name.startswith("_")
          )


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_documented_and_typed(name):
  tree = parsed(name)
  if tree.body:
    assert ast.get_docstring(tree), f"{name} has no docstring"
  for node in public(tree):
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    assert ast.get_docstring(node), f"{name}: {node.name} has no docstring"
    if isinstance(node, ast.FunctionDef):
      assert node.returns is not None, f"{name}: {node.name} has no return type"


@pytest.mark.parametrize("name", NAMES)
def test_no_function_is_longer_than_a_page(name):
  for node in ast.walk(parsed(name)):
    if isinstance(node, ast.FunctionDef):
      lines = (node.end_lineno or node.lineno) - node.lineno + 1
      assert lines <= 80, f"{name}: {node.name} has {lines} lines"
