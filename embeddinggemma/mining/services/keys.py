"""Keys of services: read from the environment, never shown."""

import ipaddress
import os
import re
import urllib.parse

from embeddinggemma.types import BadInput

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
# Names of parameters of an address that hold a secret.
_SECRET = re.compile(r"(?i)key|token|secret|sig$|signature|passw|auth")
_SHOWN = "***"
_ELSEWHERE = (
  ", which would be recorded; put it into an environment variable and name that"
  " in service.key"
)


def require_variable(name: str) -> None:
  """Raise BadInput, without the value, for what may be no variable's name.

  Some paste the key itself, which must not be shown or recorded. A variable
  that is set may have any name.
  """
  if name and name not in os.environ and not _VARIABLE.fullmatch(name):
    raise BadInput(
      "service.key is the name of the environment variable that holds the key,"
      " such as OPENAI_API_KEY, not the key (what was given is not shown)"
    )


def key_of(variable: str) -> str:
  """The key in an environment variable; "" if no variable is named.

  Raises BadInput if it is not set, or holds what no key does.
  """
  if not variable:
    return ""
  key = os.environ.get(variable, "").strip()
  if not key:
    raise BadInput(
      f"the service needs a key, and {variable} is not set; export"
      f" {variable}=... in the shell that starts this"
    )
  if not (key.isascii() and key.isprintable() and " " not in key):
    raise BadInput(
      f"{variable} holds a character that no key has, such as a space or a line"
      " end; set it again (its value is not shown)"
    )
  return key


def without(key: str, text: str) -> str:
  """A text with every occurrence of a key hidden."""
  for form in {key, urllib.parse.quote(key, safe="")} - {""}:
    text = text.replace(form, _SHOWN)
  return text


def is_local(host: str | None) -> bool:
  """Whether a host's name is this machine's loopback."""
  try:
    return ipaddress.ip_address(host or "").is_loopback
  except ValueError:  # a name
    return host == "localhost"


def require_safe(address: str, has_key: bool) -> None:
  """Raise BadInput for an address with a secret, or to which a key goes openly.

  Of what may be secret, nothing is shown.
  """
  if "@" in address:  # a password with a "/" would else be taken for a port
    raise BadInput(f"the address holds a password{_ELSEWHERE}")
  if not address.isascii() or any(map(str.isspace, address)):
    raise BadInput(
      f"{address!r} is no address (a space, or a character beyond ASCII)"
    )
  try:
    parts = urllib.parse.urlsplit(address)
    queried = urllib.parse.parse_qsl(parts.query)
    host, _ = parts.hostname, parts.port
  except ValueError as error:
    raise BadInput(f"{address} is no address ({error})") from None
  if any(_SECRET.search(name) for name, _ in queried):
    raise BadInput(f"the address at {host} holds a secret{_ELSEWHERE}")
  if parts.scheme == "http" and has_key and not is_local(host):
    raise BadInput(
      f"the key would go to {host} over plain http, where others can read it;"
      " use https"
    )
