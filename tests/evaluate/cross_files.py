"""Small files in the layouts of XOR-Retrieve and XTREME-UP, for tests."""

import csv
import gzip
import json
import zlib
from pathlib import Path

import numpy as np

from embeddinggemma import lexical
from embeddinggemma.evaluation.cross import scores

TOPICS = ("river", "violin", "glacier", "harbour", "lantern", "orchard")
WIDTH = 256  # of the stand-in's vectors
DEV = "xor_dev_retrieve_eng_span_v1_1.jsonl"
# Of a passage: topic n was found in year 1900 + n.
PASSAGES = [
  (str(n + 1), f'The {topic} was found in {1900 + n}. It is "old".', topic)
  for n, topic in enumerate(TOPICS)
]


def scored(module, source, order) -> dict[str, float]:
  """The scores of a benchmark whose passages are found in this order."""
  judged = module.judged(source, {8: np.array(order)})[8]
  languages = source.languages, judged, module.LANGUAGES
  return scores.of_questions(*languages).values


def write_jsonl(path: Path, rows: list) -> Path:
  """A file of rows; a text is written as it is."""
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
  path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
  return path


def write_tsv(path: Path, rows: list, header=("id", "text", "title")) -> Path:
  """A TSV as DPR's; packed if its name says so."""
  opened = gzip.open if path.suffix == ".gz" else open
  with opened(path, "wt", encoding="utf-8", newline="") as file:
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerows([header, *rows] if header else rows)
  return path


def question(number: int, lang: str, answers: list, text: str = "") -> dict:
  """A line of XOR-TyDi; the question names its topic, as no real one does."""
  text = text or f"{TOPICS[number]} {lang}?"
  row = {"id": f"{lang}-{number}", "question": text, "answers": answers}
  return row | {"lang": lang, "split": "dev"}


def write_xor(folder: Path, rows: list | None = None) -> Path:
  """A folder of XOR-Retrieve, by default of three languages."""
  write_jsonl(
    folder / DEV,
    rows
    or [
      question(0, "fi", ["1900"]),
      question(1, "fi", ["1066"]),
      question(2, "ru", ["yes", "1902"]),
      question(3, "ja", ["no"]),
      question(4, "ja", ["1904"]),
    ],
  )
  write_tsv(folder / "psgs_w100.tsv", PASSAGES)
  return folder


def write_xtreme(folder: Path, langs=("hi", "ta", "brx"), split="test") -> Path:
  """A folder of XTREME-UP's cross-lingual retrieval, a question a topic."""
  write_jsonl(
    folder / "index.jsonl",
    [{"id": n, "title": t, "context": f"About a {t}."} for n, t in _numbered()],
  )
  for lang in langs:
    rows = [
      {"id": n, "title": t, "context": "", "question": f"{t} {lang}?"}
      for n, t in _numbered()
    ]
    write_jsonl(folder / split / f"{lang}.jsonl", rows)
  return folder


def _numbered():
  return [(f"x{n}", topic) for n, topic in enumerate(TOPICS)]


def bag_of_words(texts, prompt_name, titles=()):
  """A model's stand-in: counts of hashed words, at unit length."""
  del prompt_name
  titles = titles or [""] * len(texts)
  vectors = np.full((len(texts), WIDTH), 1e-3, np.float32)
  for row, title, text in zip(vectors, titles, texts, strict=True):
    for word in lexical.tokens(f"{title} {text}"):
      row[zlib.crc32(word.encode()) % WIDTH] += 1
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
