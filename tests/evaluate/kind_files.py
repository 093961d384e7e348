"""Small tasks of every kind in their formats on disk, and a model of words."""

import json
import pathlib
import zlib

import numpy as np

WIDTH = 16


def jsonl(path: pathlib.Path, rows) -> pathlib.Path:
  """The rows as a JSONL file, with the folders that it needs."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def settings(folder: pathlib.Path, **named) -> None:
  """A task.json of these settings."""
  (folder / "task.json").write_text(json.dumps(named))


def beir(folder: pathlib.Path, corpus, queries, qrels) -> pathlib.Path:
  """A BEIR folder of {id: text}, {id: text} and {query: {document: grade}}."""
  rows = [
    {"_id": key, "title": "", "text": text} for key, text in corpus.items()
  ]
  jsonl(folder / "corpus.jsonl", rows)
  rows = [{"_id": key, "text": text} for key, text in queries.items()]
  jsonl(folder / "queries.jsonl", rows)
  lines = ["query-id\tcorpus-id\tscore"]
  for query, judged in qrels.items():
    lines += [f"{query}\t{key}\t{grade}" for key, grade in judged.items()]
  (folder / "qrels").mkdir(exist_ok=True)
  (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
  return folder


def by_first_word(text: str, noise: float = 0.6) -> np.ndarray:
  """A vector near that of the first word, as a model of topics gives."""
  word = np.random.default_rng(zlib.crc32(text.split()[0].encode()))
  own = np.random.default_rng(zlib.crc32(text.encode()))
  return word.normal(size=WIDTH) + noise * own.normal(size=WIDTH)


def by_chance(text: str) -> np.ndarray:
  """A vector that has nothing to do with any other text's."""
  return np.random.default_rng(zlib.crc32(text.encode())).normal(size=WIDTH)


def of_few(text: str) -> np.ndarray:
  """One of three vectors, whose products are exact: most scores tie."""
  return np.eye(WIDTH)[zlib.crc32(text.encode()) % 3]


def collapsed(text: str) -> np.ndarray:
  """The same vector for every text."""
  del text
  return np.eye(WIDTH)[0]


MODELS = {
  "topics": by_first_word,
  "chance": by_chance,
  "few": of_few,
  "collapsed": collapsed,
}


def vectors(model: str, texts) -> np.ndarray:
  """Unit vectors of texts without their prompts."""
  found = np.array([MODELS[model](text) for text in texts], np.float32)
  return found / np.linalg.norm(found, axis=1, keepdims=True)


def encoder(model: str):
  """The model as a TextEncoder."""
  return lambda texts, prompt_name, titles=(): vectors(model, texts)
