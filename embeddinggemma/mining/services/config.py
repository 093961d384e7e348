"""How a model behind an API is asked."""

import dataclasses

from embeddinggemma import config as config_lib


@dataclasses.dataclass(frozen=True)
class ServiceConfig:
  """Which model an API is asked for, within which limits, at which price."""

  model: str = ""  # as the endpoint names it; after `gemini:` it stands there
  dimensions: int = 0  # that the service is asked for; 0: as many as it gives
  # What an endpoint's model wants before a text: "none"; "embeddinggemma", for
  # our own prompts; or a JSON file {"query": ..., "document": ...}.
  prompts: str = "none"
  # The environment variable that holds the key, never the key itself; "": of
  # Gemini GEMINI_API_KEY, of an endpoint none.
  key: str = ""
  batch: int = 32  # texts a request; TEI takes no more
  requests_per_minute: float = 0.0  # 0: no limit
  tokens_per_minute: float = 0.0
  timeout: float = 60.0  # seconds that an answer may take
  tries: int = 6  # of a request to which the service answers 429 or 5xx
  longest_wait: float = (
    300.0  # seconds; a longer one ends the run, to go on later
  )
  price_per_million: float = 0.0  # of tokens, to show what it costs; 0: unknown
  ask_above: int = 100_000  # tokens from which a person is asked first
  yes: bool = False  # go on without asking, as --yes

  def __post_init__(self) -> None:
    for name in ("batch", "tries"):
      config_lib.at_least(f"service.{name}", getattr(self, name), 1)
    config_lib.above_zero("service.timeout", self.timeout)
    for name in (
      "dimensions",
      "requests_per_minute",
      "tokens_per_minute",
      "longest_wait",
      "price_per_million",
      "ask_above",
    ):
      config_lib.at_least(f"service.{name}", getattr(self, name), 0)
