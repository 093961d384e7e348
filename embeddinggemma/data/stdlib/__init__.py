"""Training pairs and evaluations from the Python that is installed.

Reads Python's standard library and the documented packages beside it, and
writes pairs in the groups of the paper's mixture (section 2.3) and evaluation
folders from standard-library modules that training never sees. Nothing is
random: choices follow from hashes, so one environment always gives the same
corpus, byte for byte.
"""

import collections
import importlib.util
import pathlib
import re
import sysconfig
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from embeddinggemma.data import sources
from embeddinggemma.data.stdlib import code_pairs, held_out, python_source
from embeddinggemma.data.stdlib.python_source import Module, digest

PACKAGES = ("numpy", "scipy", "jax", "flax", "optax", "sklearn", "matplotlib")
SALT = "embeddinggemma"
TEST_PERCENT, VALIDATION_PERCENT = 20, 11
PACKAGE_PERCENT = 40  # of the packages' files: enough for a laptop's training
MAX_QUERIES = {"test": 1000, "validation": 300}  # of code retrieval
# Newer Pythons removed these; held out, they would be half of the test on an
# old one and absent on a new one.
REMOVED = frozenset(
  "aifc asynchat asyncore audioop binhex cgi cgitb chunk crypt distutils "
  "formatter imghdr imp lib2to3 mailcap msilib nis nntplib ossaudiodev parser "
  "pipes smtpd sndhdr spwd sre sunau symbol telnetlib uu xdrlib".split()
)
FAMILIES = {  # modules that are near copies of each other share a side
  "ntpath": "os",
  "posixpath": "os",
  "genericpath": "os",
  "collections_abc": "collections",
  "sre_compile": "re",
  "sre_constants": "re",
  "sre_parse": "re",
}


class Root(NamedTuple):
  """A folder of Python source; `name` is "" for the standard library."""

  name: str
  path: pathlib.Path


class Library(NamedTuple):
  """The modules on each side of the split."""

  train: list[Module]
  validation: list[Module]
  test: list[Module]


def installed_roots(packages: Sequence[str] = PACKAGES) -> list[Root]:
  """The standard library, and those of `packages` that are installed."""
  roots = [Root("", pathlib.Path(sysconfig.get_path("stdlib")))]
  for name in packages:
    spec = importlib.util.find_spec(name)  # finds the file, does not import
    if spec and spec.origin:
      roots.append(Root(name, pathlib.Path(spec.origin).parent))
  return roots


def side(root: str, module: str) -> str:
  """The side of the split for a module, by the hash of its top-level name.

  The private half of a module (_pydecimal, _strptime) goes with the public
  one; packages and removed modules are always for training.
  """
  top = re.sub(r"^_(py(?=decimal|datetime|io|long))?", "", module.split(".")[0])
  top = FAMILIES.get(top, top)
  if root or top in REMOVED:
    return "train"
  percent = digest(SALT, top) % 100
  if percent < TEST_PERCENT:
    return "test"
  held_out = percent < TEST_PERCENT + VALIDATION_PERCENT
  return "validation" if held_out else "train"


def read_library(roots: Iterable[Root]) -> Library:
  """Reads every module below the roots onto its side."""
  library = Library([], [], [])
  for root in roots:
    for name, path in python_source.python_files(root.path):
      full = ".".join(filter(None, (root.name, name)))
      if root.name and digest(SALT, full) % 100 >= PACKAGE_PERCENT:
        continue
      module = python_source.read_module(full, path)
      if module:
        getattr(library, side(root.name, name)).append(module)
  return library


def write_test(
  directory: pathlib.Path, max_queries: int, root: pathlib.Path | None = None
) -> dict[str, int]:
  """Write a small test of general quality; returns {task: rows}.

  It comes from the standard library's held-out modules: code retrieval with up
  to `max_queries` queries, documentation with half as many, and similarity of
  short texts with twice as many. There is no clustering and no classification,
  since with so few texts their scores vary by chance more than by what a model
  forgets. Nothing else is read, so it takes seconds. `root` is the folder of a
  standard library, by default the installed one.
  """
  library = root or pathlib.Path(sysconfig.get_path("stdlib"))
  files = python_source.python_files(library)
  found = [
    python_source.read_module(name, path)
    for name, path in files
    if side("", name) == "test"
  ]
  modules = [module for module in found if module]
  test = held_out.held_out(modules, set(), 4 * max_queries)
  few = {
    "code": test.retrieval["code"][:max_queries],
    "documentation": test.retrieval["documentation"][: max_queries // 2],
  }
  test = test._replace(retrieval=few, classification=[])
  held_out.write(directory, test)
  return {name: rows for name, rows in test.counts().items() if rows}


def write_corpus(
  directory: pathlib.Path, roots: Sequence[Root] | None = None
) -> dict[str, dict[str, int]]:
  """Write DIRECTORY/{train,validation,test}; returns {side: {task: rows}}.

  Compared without case and white space, no text of validation or test is in
  train, and none of test is in validation. `roots` are by default those that
  are installed.
  """
  library = read_library(installed_roots() if roots is None else roots)
  test = held_out.held_out(library.test, set(), MAX_QUERIES["test"])
  seen = test.texts()
  validation = held_out.held_out(
    library.validation, seen, MAX_QUERIES["validation"]
  )
  seen |= validation.texts()
  train = [
    pair._replace(
      negatives=tuple(n for n in pair.negatives if held_out.apart([n], seen))
    )
    for pair in code_pairs.pairs(library.train)
    if held_out.apart((pair.query, pair.positive), seen)
  ]
  sources.write_corpus(directory, train, (), ())
  held_out.write(directory / "validation", validation)
  held_out.write(directory / "test", test)
  return {
    "train": dict(collections.Counter(pair.task for pair in train)),
    "validation": validation.counts(),
    "test": test.counts(),
  }
