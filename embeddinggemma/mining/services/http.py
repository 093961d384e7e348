"""A POST of JSON by the standard library, without redirects."""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from embeddinggemma.mining.services import keys
from embeddinggemma.mining.services.faults import (
  Nonsense,
  Unreachable,
  refused,
  words_of,
)

_MOST = 2**30  # bytes of an answer


class _Stays(urllib.request.HTTPRedirectHandler):
  """Follows no redirect: the key would go where nobody sent it."""

  def redirect_request(self, *request: Any, **more: Any) -> None:
    """None: the redirect is an error with its status."""
    del request, more


def post(
  address: str, value: Any, headers: Mapping[str, str], timeout: float
) -> Any:
  """The JSON value that an address answers with.

  The proxy of the environment is used, but for this machine itself.

  Raises:
    Refused: the status is none of success.
    Unreachable: there is no connection, or no answer in `timeout` seconds.
    Nonsense: the answer is no JSON, or is cut off.
  """
  host = urllib.parse.urlsplit(address).hostname
  proxies = [urllib.request.ProxyHandler({})] if keys.is_local(host) else []
  opener = urllib.request.build_opener(_Stays(), *proxies)
  body = json.dumps(value).encode()
  asked = urllib.request.Request(
    address,
    body,
    {"Content-Type": "application/json", "Accept": "application/json"}
    | {"User-Agent": "embeddinggemma", **headers},
  )
  try:
    with opener.open(asked, timeout=timeout) as answer:
      body = answer.read(_MOST)
      if answer.length:  # what is left of the length that was announced
        raise Nonsense(f"the answer breaks off after {len(body):,} bytes")
      return parsed(body)
  except urllib.error.HTTPError as error:
    with error:
      raise _refused(error) from None
  except http.client.IncompleteRead as error:
    raise Nonsense(
      f"the answer breaks off after {len(error.partial):,} bytes"
    ) from None
  except urllib.error.URLError as error:
    raise Unreachable(f"no connection ({error.reason})") from None
  except TimeoutError:
    raise Unreachable(f"no answer in {timeout:g} s") from None
  except (OSError, http.client.HTTPException) as error:
    said = str(error) or type(error).__name__
    raise Unreachable(f"the connection broke ({said})") from None


def _refused(error: urllib.error.HTTPError) -> Exception:
  headers = dict(error.headers.items()) if error.headers else {}
  try:
    body = error.read(2**16)
  except (OSError, http.client.HTTPException):
    body = b""
  if 300 <= error.code < 400 and headers.get("Location"):
    body = f"it redirects to {headers['Location']}; give that address".encode()
  return refused(error.code, body, headers)


def parsed(body: bytes) -> Any:
  """The JSON value of a body; Nonsense, with its first words, for none."""
  if not body.strip():
    raise Nonsense("the answer is empty")
  try:
    return json.loads(body)
  except (ValueError, RecursionError):
    text = body.decode("utf-8", "replace")
    end = text.rstrip()[-1:]
    looks = text.lstrip()[:1] in ("{", "[") and end not in ("}", "]")
    what = "JSON that breaks off" if looks else "no JSON"
    raise Nonsense(f"the answer is {what}: {words_of(text)[:100]!r}") from None
