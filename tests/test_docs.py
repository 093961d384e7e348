"""Every command of README.md and docs/ is run, on tiny models, or checked.

The blocks of a page are taken in their order, in a folder that all pages share:
a command that another page has run is not run again. Each command is first read
as it is written, so that an unknown flag, config key or value fails, and then
run with what SMALL adds. Not run here:

- models behind an API or in other packages, which tests/mining and tests/convert
  ask, and mteb, whose data are on the Hub and which tests/convert runs (SERVICE);
- the whole recipe, which tests/test_recipe.py runs (ELSEWHERE);
- launches on pods, which are rendered (--dry-run) and whose commands are checked
  against the slice; and `compile`, which tests/tpu runs where libtpu is;
- what installs, needs an account, or is another project's program (FOREIGN,
  PACKAGES), and the benchmarks, whose files and flags must be there.

Anything else fails, with its page and line.
"""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest

from embeddinggemma import generations
from embeddinggemma.aot import examine
from embeddinggemma.cli import check, main
from embeddinggemma.cli.flags import parse
from embeddinggemma.cli.verbs import VERBS
from embeddinggemma.data import sources
from embeddinggemma.launch import launch
from embeddinggemma.recipes import pairs, student, whole
from embeddinggemma.recipes.whole import config as recipe

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("README.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
# What a page takes from others, which are then read first.
BEFORE = {
  "docs/evaluation.md": ("README.md",),
  "docs/export.md": ("README.md",),
  "docs/python.md": ("README.md", "docs/search.md"),
}
LANGUAGES = {"bash", "python", "jsonl", "dockerfile", "bibtex"}
LINES = 170  # of README

ONE_LAYER = "--config.model.num_layers=1"
# Verb and config -> what makes it short; beside the preset, which is `tiny`. With
# these, and the fixtures' data, most programs are those that other tests compile
# (test_language, test_finetuning, test_qat, weights/test_clock_pairs).
SMALL = {
  ("train", "pretrain"): ("--config.steps=6", ONE_LAYER),
  ("train", "adapt"): (
    "--config.steps=6",
    ONE_LAYER,
    "--config.decoder.num_layers=1",
    "--config.every_checkpoint=2",
    "--config.average=2",
  ),
  ("train", "prefinetune"): ("--config.steps=2", ONE_LAYER),
  ("train", "finetune"): (
    "--config.steps=2",
    "--config.every_checkpoint=1",
    "--config.negatives=2",
    "--config.loss.teacher_width=24",
    ONE_LAYER,
  ),
  ("train", "qat"): ("--config.steps=2", ONE_LAYER),
  ("teach", "teach"): ("--config.width=24",),
  ("shrink", ""): ("--layers=1", "--vocabulary=400"),
  # The words of the pairs are few, and the model has learnt nothing.
  ("mine", "mine"): (
    "--config.search=stemmed",
    "--config.negatives=2",
    "--config.near_words=2",
  ),
  ("mixture", "mixture"): (
    "--config.finetune.model.num_layers=1",
    "--config.finetune.negatives=0",
    "--config.search.steps=1",
    "--config.search.dirichlet=1",
    "--config.search.proposed=1",
    "--config.search.optimizer.name=random",
  ),
  ("run", "pairs"): (
    "--config.steps=2",
    "--config.batch_size=16",
    "--config.general.queries=20",
    "--config.general.suite=general",
  ),
}
# Preset of configs/recipe.py -> the test that has its runs on small models, and
# how that names the preset.
ELSEWHERE = {
  "laptop": (ROOT / "tests" / "test_recipe.py", "tiny"),
  "student": (ROOT / "tests" / "recipes" / "test_student_recipe.py", "student"),
}
# The program of another project -> the commands that may be named.
FOREIGN = {
  "sky": re.compile(r"sky check gcp"),
  "llama-server": re.compile(
    r"llama-server -m (\S+) --embedding( -(c|b|ub) \d+)*"
  ),
  "source": re.compile(r"source \.venv/bin/activate"),
}
# What is not here; tests/mining has teachers that are on loopback, and
# tests/convert models of other packages.
SERVICE = r"--config\.teacher=(gemini:|https?://)|--mteb=|--model=.*sentence-transformers:"
PACKAGES = {"skypilot[gcp]", "libtpu", "xllamacpp", "sentence-transformers"}
SHELL = {"echo", "mkdir", "printf"}
PLACEHOLDERS = {"--flag", "--config.some.key"}


class Command(NamedTuple):
  """A line of a block of shell, or a block of Python."""

  place: str  # PAGE:LINE
  language: str
  text: str


def fences(page: str, text: str) -> Iterator[tuple[int, str, str]]:
  """(first line, language, text) of each fenced block."""
  language, first, kept = "", 0, []
  inside = False
  for number, line in enumerate(text.splitlines(), 1):
    if not line.startswith("```"):
      if inside:
        kept.append(line)
    elif inside:
      yield first, language, "\n".join(kept)
      inside = False
    else:
      language, first, kept, inside = line[3:].strip(), number + 1, [], True
      assert language in LANGUAGES, (
        f"{page}:{number}: a block of {language!r}; use one of {LANGUAGES}"
      )
  assert not inside, f"{page}:{first}: the block has no end"


def commands(page: str, text: str) -> Iterator[Command]:
  """Those of a page, in their order."""
  for first, language, block in fences(page, text):
    if language == "python":
      yield Command(f"{page}:{first}", language, block)
    if language != "bash":
      continue
    whole, begun = "", first
    for number, line in enumerate(block.splitlines(), first):
      begun = begun if whole else number
      whole += line.removesuffix("\\")
      if not line.endswith("\\") and whole.strip():
        yield Command(f"{page}:{begun}", language, " ".join(whole.split()))
        whole = ""


def read(page: str) -> str:
  return (ROOT / page).read_text(encoding="utf-8")


def inline(page: str) -> Iterator[tuple[str, str]]:
  """(PAGE:LINE, text) of what stands between backticks in the prose."""
  inside = False
  for number, line in enumerate(read(page).splitlines(), 1):
    if line.startswith("```"):
      inside = not inside
    elif not inside:
      for span in re.findall(r"`([^`]+)`", line):
        yield f"{page}:{number}", span


def understand(argv: Sequence[str]) -> None:
  """Reads a verb as it is written; BadInput for what it would refuse."""
  verb, *flags = argv
  check.check(argv, devices=1, ring=1, slices=1)
  if "--help" in flags or verb not in ("run", "compile"):
    return
  values, _ = parse(verb, VERBS[verb], flags)
  tree = values.config.to_dict()
  if verb == "compile":
    slice_ = generations.parse(values.topology)
    examine.config_of(tree, values.stage)
    train = [word for word in flags if word.startswith("--config")]
    check.check(
      ["train", *train, "--workdir=w"],
      slice_.devices,
      max(slice_.sizes),
      values.num_slices,
    )
  elif "distil" in tree:
    student.build({**tree, "layers": "1"})  # the base here has three
  elif "base" in tree:
    pairs.build(tree)
  else:
    recipe.check(whole.build(tree))


def config_of(argv: Sequence[str]) -> tuple[str, str]:
  """The config's file and preset, of the last that is given."""
  given = [word for word in argv if word.startswith("--config=")]
  if not given:
    return "", ""
  path, _, arg = given[-1].partition("=")[2].partition(":")
  preset = arg.partition(",")[0]
  return pathlib.Path(path).stem, "" if "=" in preset else preset


def small(argv: Sequence[str]) -> list[str]:
  """The verb as this test runs it."""
  name, preset = config_of(argv)
  name = preset if name == "recipe" else name
  large = re.compile(r"(--config=.*\.py):(laptop|embeddinggemma_300m)\b")
  shrunk = [large.sub(r"\1:tiny", word) for word in argv]
  return [*shrunk, *SMALL.get((argv[0], name), ())]


def captured(call: Callable[[], int]) -> str:
  """What a call prints that must end well."""
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    assert call() == 0
  return out.getvalue()


def ask(words: Sequence[str], given: str = "") -> str:
  """What launch._ask does, without a process for each question."""
  _, *rest = words
  if words[0] == "bash":
    done = subprocess.run(
      words, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
  if rest[:2] == ["-m", "embeddinggemma"]:
    return captured(lambda: main.call(rest[2:]))
  sizes = dict(word[2:].split("=") for word in rest[2:])
  for line in given.splitlines():
    check.check(shlex.split(line), **{k: int(v) for k, v in sizes.items()})
  return ""


ENVIRONMENT = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}


class World:
  """The folder in which all pages are read, and what was run there."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._read: set[str] = set()
    self._ran: dict[str, str] = {}  # command -> page

  def read(self, page: str) -> None:
    """Runs the commands of a page, after those of the pages before it."""
    if page in self._read:
      return
    for other in BEFORE.get(page, ()):
      self.read(other)
    self._read.add(page)
    self.run(page, read(page))

  def run(self, page: str, text: str) -> None:
    """Runs the commands of a page's text, or says which fails."""
    names: dict[str, object] = {}
    for command in commands(page, text):
      if self._ran.setdefault(command.text, page) != page:
        continue  # by another page
      try:
        if command.language == "python":
          line = int(command.place.rpartition(":")[2])
          code = "\n" * (line - 1) + command.text
          exec(compile(code, str(ROOT / page), "exec"), names)
        else:
          self._shell(command.text)
      except Exception as error:
        raise AssertionError(f"{command.place}: {error!r}") from error

  def _shell(self, text: str) -> None:
    program, *rest = words = shlex.split(text, comments=True)
    if program == "embeddinggemma":
      self._verb(rest)
    elif program == "bash":
      self._script(*rest)
    elif program == "pip":
      _check_pip(rest)
    elif program == "python":
      self._python(*rest)
    elif program in FOREIGN:
      self._foreign(words)
    elif program in SHELL:
      subprocess.run(["bash", "-ec", text], check=True, cwd=self.folder)
    else:
      raise AssertionError(f"no test runs {text!r}")

  def _verb(self, argv: Sequence[str]) -> None:
    if "--help" in argv:
      assert main.call(argv) == 0
      return
    understand(argv)
    if argv[0] == "compile":
      return
    name, preset = config_of(argv)
    if (argv[0], name) == ("run", "recipe") and preset in ELSEWHERE:
      place, called = ELSEWHERE[preset]
      covered = place.read_text(encoding="utf-8")
      assert f"configs/recipe.py:{called}" in covered
      keys = [w.partition("=")[0] for w in argv if w.startswith("--config.")]
      assert all(key in covered for key in keys), f"{place} lacks {keys}"
      return
    if any(re.match(SERVICE, word) for word in argv):
      return
    argv = small(argv)
    assert main.call(argv) == 0, shlex.join(argv)

  def _script(self, path: str, *words: str) -> None:
    script = ROOT / path
    name = script.stem
    if "--help" in words:
      asked = ["bash", str(script), "--help"]
      subprocess.run(asked, check=True, env=ENVIRONMENT)
    elif name == "local":
      self._verb(self._what_local_starts(words))
    elif name == "smoke":  # tests/tpu/test_smoke.py has it without the flag
      ask(["bash", str(script), *words, "--dry-run"])
    elif name in launch.ROUTES:
      cut = words.index("--")
      route = [name, *words[:cut], "--dry-run", *words[cut:]]
      assert captured(lambda: launch.run(route))
    else:
      raise AssertionError(f"no test runs {path}")

  def _what_local_starts(self, words: Sequence[str]) -> list[str]:
    """The verb of launch/local.sh, whose environment is a stand-in here."""
    root = self.folder / "checkout"
    bin_ = root / ".venv" / "bin"
    if not root.exists():
      shutil.copytree(ROOT / "launch", root / "launch")
      bin_.mkdir(parents=True)
      shutil.copy(ROOT / "pyproject.toml", root)
      shutil.copy(ROOT / "pyproject.toml", root / ".venv" / "installed.toml")
      for program in ("python", "embeddinggemma"):
        (bin_ / program).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (bin_ / program).chmod(0o755)
    done = subprocess.run(
      ["bash", "launch/local.sh", *words],
      cwd=root,
      check=True,
      capture_output=True,
      text=True,
    )
    return done.stdout.splitlines()

  def _python(self, *words: str) -> None:
    if words[0] == "-c":
      exec(words[1], {})
      return
    path, *rest = words
    text = read(path)  # a benchmark, which is run by hand
    assert path.startswith("tests/benchmarks/")
    for word in rest:
      flag = word.partition("=")[0]
      assert not flag.startswith("--") or f'"{flag}"' in text, flag

  def _foreign(self, words: Sequence[str]) -> None:
    found = FOREIGN[words[0]].fullmatch(" ".join(words))
    assert found, f"{shlex.join(words)}: not as FOREIGN has it"
    if words[0] == "llama-server":
      with open(found[1], "rb") as file:
        assert file.read(4) == b"GGUF"


def _check_pip(words: Sequence[str]) -> None:
  verb, *named = words
  assert verb == "install"
  project = tomllib.loads(read("pyproject.toml"))["project"]
  for word in named:
    if extras := re.fullmatch(r"(?:\.|embeddinggemma)\[(.+)\]", word):
      known = project["optional-dependencies"]
      assert set(extras[1].split(",")) <= set(known), word
    else:
      assert word in {"-e", ".", *PACKAGES}, word


@pytest.fixture(scope="module")
def world(tmp_path_factory, trained, data_folder, write_pairs) -> World:
  """A folder with what the pages take as given, in the names they give it."""
  folder = tmp_path_factory.mktemp("docs")
  small_model, clock = _of_weights("small"), _of_weights("test_clock_pairs")
  small_model.write(folder / "embeddinggemma-300m")
  write_pairs(folder / "my_pairs", clock.clock(clock.SMALL.pairs))
  clock.brief(folder / "general")
  for name in ("texts", "pairs", "my_texts"):
    shutil.copytree(data_folder, folder / name)
  # In the place of what launch/local.sh and the recipe `student` leave.
  laptop = folder / "runs" / "laptop"
  shutil.copytree(trained, laptop)
  argv = ["index", f"--model={laptop}", f"--input={ROOT / 'launch'}"]
  assert main.call([*argv, f"--output={laptop / 'index'}"]) == 0
  shutil.copytree(laptop, folder / "runs" / "small")
  return World(folder)


def _of_weights(name: str) -> types.ModuleType:
  """A file of tests/weights, which is not on this test's path."""
  path = ROOT / "tests" / "weights" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(f"docs_{name}", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def there(world, monkeypatch) -> World:
  """The world, as the current folder."""
  monkeypatch.chdir(world.folder)
  monkeypatch.setattr(launch, "_ask", ask)
  return world


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.slow
def test_the_commands_of_a_page(there, page):
  there.read(page)


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ("embeddinggemma query --modle=m x", "unknown flag '--modle'"),
    ("embeddinggemma trian --workdir=w", "unknown verb 'trian'"),
    (
      "embeddinggemma train --config=configs/qat.py:laptop,spec=int3"
      " --workdir=w",
      "int3",
    ),
    (
      "embeddinggemma train --config=configs/finetune.py:laptop --workdir=w"
      " --config.optimizer.lrr=1",
      "unknown config key 'optimizer.lrr'",
    ),
    (
      "bash launch/local.sh --config.sed=1",
      "unknown config key 'sed'",
    ),
    (
      "bash launch/sky.sh --name=a --topology=v5e:4x4 --bucket=gs://mine --"
      " train --workdir=/bucket/w --config=configs/finetune.py:tiny,dat=x",
      "unknown config argument 'dat'",
    ),
    (
      "bash launch/sky.sh --nam=a --topology=v5e:4x4 -- train --workdir=w",
      "--nam",
    ),
    ("bash launch/smoke.sh --wrokdir=w", "--wrokdir"),
    (
      "embeddinggemma compile --config=configs/adapt.py:tiny --topology=v5e:3x3",
      "v5e:3x3",
    ),
    ("python tests/benchmarks/soak.py --kill=20", "--kill"),
    ("pip install '.[gpu]'", "gpu"),
    ("curl https://example.org", "no test runs 'curl"),
    ("bash launch/environment.sh", "no test runs launch/environment.sh"),
    ("embeddinggemma evaluate --model=none --output=o.json", "none"),
  ],
)
def test_a_wrong_command_fails_with_its_line(there, wrong, message):
  text = f"# Title\n\n```bash\n{wrong}\n```\n"
  with pytest.raises(AssertionError) as raised:
    there.run("page.md", text)
  said = str(raised.value)
  assert said.startswith("page.md:4: ") and message in said


def test_a_block_without_a_language_fails():
  with pytest.raises(AssertionError, match=r"page\.md:2: a block of ''"):
    list(commands("page.md", "a\n```\nls\n```\n"))


def test_commands_in_the_prose_are_run_somewhere():
  ran = {c.text for page in PAGES for c in commands(page, read(page))}
  for page in PAGES:
    for place, span in inline(page):
      script = re.match(r"bash (launch/\w+\.sh)", span)
      if script and script[1] == "launch/test.sh":
        continue  # its flags are checked below; CI runs it
      if script or re.match(r"embeddinggemma (?!VERB)\S+ --", span):
        assert span in ran, f"{place}: {span!r} is in no block that is run"


def test_flags_in_the_prose_are_there(config_keys):
  texts = [*ROOT.glob("launch/*.sh"), *ROOT.glob("tests/benchmarks/*.py")]
  known = {
    flag
    for path in texts
    for flag in re.findall(r"--[a-z][\w-]*", path.read_text(encoding="utf-8"))
  }
  for verb in VERBS.values():
    known |= {f"--{flag}" for flag in (*verb.required, *verb.optional)}
  known |= {"--embedding"}  # of llama-server
  for page in PAGES:
    for place, span in inline(page):
      for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", span):
        if flag in PLACEHOLDERS:
          continue
        if flag.startswith("--config."):
          assert flag.removeprefix("--config.") in config_keys, (
            f"{place}: {flag}"
          )
        elif not flag.startswith("--xla_"):
          assert flag in known, f"{place}: no program of ours takes {flag}"


@pytest.fixture(scope="module")
def config_keys() -> set[str]:
  """Every key that --config. may name in some shipped config."""
  found: set[str] = set()
  for path in sorted(ROOT.glob("configs/*.py")):
    for preset in ("laptop", "pairs", "student"):
      if preset == "laptop" or path.stem == "recipe":
        argv = [f"--config={path}:{preset}", "--workdir=w"]
        values, _ = parse("train", VERBS["train"], argv)
        found |= set(_flat(values.config))
  return found


def _flat(tree: object, prefix: str = "") -> Iterator[str]:
  for key in tree if hasattr(tree, "keys") else ():
    yield f"{prefix}{key}"
    yield from _flat(tree[key], f"{prefix}{key}.")


def test_verbs_and_flags_are_listed():
  rows = re.findall(
    r"^\| `(\w+)` \|.*\| ([^|]*) \|$", read("docs/verbs.md"), re.M
  )
  listed = {
    verb: set(re.findall(r"`--(\w+)`", flags))
    for verb, flags in rows
    if verb in VERBS
  }
  assert listed == {
    name: {*verb.required, *verb.optional} for name, verb in VERBS.items()
  }


@pytest.mark.parametrize("page", PAGES)
def test_pairs_are_pairs(page, tmp_path):
  for first, language, block in fences(page, read(page)):
    if language == "jsonl":
      path = tmp_path / f"{first}" / "pairs.jsonl"
      path.parent.mkdir()
      path.write_text(block + "\n", encoding="utf-8")
      rows, _ = sources.read_pairs(path.parent)
      assert len(rows) == len(block.splitlines()), f"{page}:{first}"
      assert all(json.loads(line) for line in block.splitlines())


def test_the_readme_is_short():
  assert len(read("README.md").splitlines()) <= LINES


@pytest.mark.parametrize("page", [*PAGES, "BUILD.md"])
def test_links_lead_somewhere(page):
  for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
    if re.match(r"https?:", target):
      continue
    path, _, anchor = target.partition("#")
    place = (ROOT / page).parent / path if path else ROOT / page
    assert place.exists(), f"{page}: {target} does not exist"
    if anchor:
      headings = re.findall(r"^#+ (.*)$", place.read_text("utf-8"), re.M)
      slugs = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
      }
      assert anchor in slugs, f"{page}: {target}: no such heading"
