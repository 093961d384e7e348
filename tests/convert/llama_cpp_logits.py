"""llama.cpp's tokens of texts, and its logits of what comes next: MODEL ASK REPLY.

ASK holds {"texts", "logits": bool}, REPLY a list of {"ids", "logits"}. A
process of its own, since llama.cpp ends the one that it runs in when a file is
not to its liking. The server gives log probabilities, which are logits but for
a number that all share.
"""

import json
import pathlib
import sys
import urllib.request

import xllamacpp

EVERY = 2**20  # more than any vocabulary has
BOS = 2


def main(model: str, ask: str, reply: str) -> None:
  """Answers a request."""
  asked = json.loads(pathlib.Path(ask).read_text())
  params = xllamacpp.CommonParams()
  params.model.path = model
  params.warmup = False
  params.n_gpu_layers = 0
  params.n_ctx = params.n_batch = params.n_ubatch = 1024
  params.n_parallel = 1
  params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
  server = xllamacpp.Server(params)

  def post(route: str, **body):
    request = urllib.request.Request(
      server.listening_address + route,
      json.dumps(body).encode(),
      {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
      return json.load(answer)

  rows = []
  for text in asked["texts"]:
    found = post("/tokenize", content=text, add_special=False)
    rows.append({"ids": found["tokens"]})
    if asked["logits"]:
      made = post(
        "/completion",
        prompt=[BOS, *found["tokens"]],
        n_predict=1,
        n_probs=EVERY,
        temperature=0,
        cache_prompt=False,
      )
      places = made["completion_probabilities"][0]["top_logprobs"]
      rows[-1]["logits"] = [(p["id"], p["logprob"]) for p in places]
  pathlib.Path(reply).write_text(json.dumps(rows))


if __name__ == "__main__":
  main(*sys.argv[1:])
