"""What is launched: a command, on a slice, under a name; checked at once.

Every route renders a request into a text. No text contains a secret, only its
name; its value is stored where the route keeps secrets.
"""

import dataclasses
import re
import shlex

from embeddinggemma.config import at_least
from embeddinggemma.generations import Slice
from embeddinggemma.types import BadInput

# Exit codes after which a run is started again: a checkpoint was saved, or a
# peer or the process itself died. Any other code is final. As in XPK.
RESTART = (42, *range(127, 256))
CAPACITIES = ("spot", "on-demand", "flex", "reserved")
SCRIPTS = ("smoke", "pipeline")  # scripts of launch/, usable in place of a verb
BUCKET = "/bucket"  # where each host mounts it
GRACE = 30  # seconds between SIGTERM and SIGKILL; spot machines give no more

_NAME = "[a-z]([-a-z0-9]*[a-z0-9])?"  # a label of RFC 1035, as all routes need
_LONGEST = 40  # a pod's name, to which JobSet adds, may have 63 characters
_SECRET = re.compile(
  "(token|secret|passwd|password|api_?key|credentials?)=.", re.IGNORECASE
)
# Words in the name of an environment variable that suggest a secret.
_SECRETS = frozenset(
  "token secret passwd password passphrase pass pat key apikey credential"
  " credentials".split()
)


@dataclasses.dataclass(frozen=True)
class Launch:
  """A command of this project on one slice, or on several at once.

  Raises:
    BadInput: a name that a route refuses; a count below 1; several slices of
      one host; a secret or a control character in the command.
  """

  name: str
  slice: Slice
  command: tuple[str, ...]  # a verb or one of SCRIPTS, and its flags
  bucket: str = ""  # gs://NAME, mounted at BUCKET
  capacity: str = "spot"  # one of CAPACITIES
  reservation: str = ""  # its name, for capacity "reserved"
  slices: int = 1
  restarts: int = 50
  env: tuple[str, ...] = ()  # NAME=VALUE
  secrets: tuple[str, ...] = ()  # names of secrets, without values

  def __post_init__(self) -> None:
    _require_name("--name", self.name)
    at_least("--num_slices", self.slices, 1)
    at_least("--restarts", self.restarts, 1)
    if self.slices > 1 and self.slice.hosts == 1:
      raise BadInput(
        f"--num_slices={self.slices}: {self.slice.name} is a single host, and"
        " slices of one host cannot be joined; take a larger --topology"
      )
    if self.capacity not in CAPACITIES:
      raise BadInput(
        f"--capacity={self.capacity}: give one of {', '.join(CAPACITIES)}"
      )
    if self.reservation and self.capacity != "reserved":
      raise BadInput("--reservation needs --capacity=reserved")
    if self.bucket and not re.fullmatch(
      "gs://[a-z0-9][-_.a-z0-9]+[a-z0-9]", self.bucket
    ):
      raise BadInput(
        f"--bucket={self.bucket}: give gs://NAME, without a folder"
      )
    _check_command(self.command, self.bucket)
    for word in self.env:
      if not re.match(r"[A-Za-z_]\w*=", word, re.ASCII):
        raise BadInput(f"--env={word}: give NAME=VALUE")
      _require_printable("--env", word)
      variable = word.partition("=")[0]
      if not _SECRETS.isdisjoint(variable.lower().split("_")):
        raise _secret(variable)
    for name in self.secrets:
      if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise BadInput("--secret takes the NAME of a variable, never its value")
    _refuse_secrets(self.env)


def _require_name(flag: str, name: str) -> None:
  if not re.fullmatch(_NAME, name) or len(name) > _LONGEST:
    raise BadInput(
      f"{flag}={name}: give at most {_LONGEST} small letters, digits and '-',"
      " beginning with a letter, such as gemma-finetune"
    )


def require_word(flag: str, word: str, needed: bool = False) -> None:
  """Raise BadInput unless a flag's value is one printable word.

  An empty value is accepted unless the flag is `needed`.
  """
  if needed and not word:
    raise BadInput(f"{flag} is empty; give a value")
  if re.search(r"\s", word) or not word.isprintable():
    raise BadInput(f"{flag}={word!r}: give one word")


def _require_printable(where: str, word: str) -> None:
  if not word.isprintable():  # a line's end would end a script's quotation
    raise BadInput(f"{where}: {word!r} has control characters; leave them out")


def _check_command(command: tuple[str, ...], bucket: str) -> None:
  if not command:
    raise BadInput(
      "there is no command; put it after --, such as -- train"
      f" --config=configs/finetune.py --workdir={BUCKET}/finetune"
    )
  for word in command:
    _require_printable("the command", word)
    if not bucket and f"{BUCKET}/" in word:
      raise BadInput(f"{word}: {BUCKET} is there with --bucket=gs://NAME")
  _refuse_secrets(command)


def _refuse_secrets(words: tuple[str, ...]) -> None:
  for word in words:
    if found := _SECRET.search(word):
      raise _secret(word[: found.end() - 1])


def _secret(name: str) -> BadInput:
  return BadInput(
    f"{name}...: a secret would be written into files; give its name as"
    " --secret=NAME, and its value to the engine"
  )


def last_line(launch: Launch) -> str:
  """The shell line that replaces the shell by the command.

  The command thus receives the signals that the shell would get.
  """
  first, *rest = launch.command
  if first in SCRIPTS:
    words = ["bash", f"launch/{first}.sh", *rest]
  else:
    words = ["python", "-m", "embeddinggemma", first, *rest]
  return f"exec {shlex.join(words)}"


def environment(launch: Launch) -> dict[str, str]:
  """The environment variables of the command."""
  return dict(word.split("=", 1) for word in launch.env)


def who(slice: str, host: str, count: int) -> str:
  """The shell line by which launch/pipeline.sh knows its process of how many.

  `slice` and `host` are shell words; process 0-0 does what is done once.
  """
  return f"export LAUNCH_HOST={slice}-{host} LAUNCH_HOSTS={count}"
