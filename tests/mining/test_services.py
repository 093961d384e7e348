"""Teachers behind an API: within limits, nothing paid twice, nothing shown."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import embedding_server as servers
import numpy as np
import pytest

from embeddinggemma.cli import main
from embeddinggemma.data import prompts
from embeddinggemma.mining import teacher
from embeddinggemma.mining.services import asking, faults, forecast, keys
from embeddinggemma.mining.services.answers import Answers, Sent
from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.mining.teacher import Item
from embeddinggemma.mining.teachers import gemini
from embeddinggemma.types import BadInput

SECRET = "sk-ab/12+cd34ef56"
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def server():
  with servers.serving() as found:
    yield found


@pytest.fixture
def naps(monkeypatch):
  """Seconds that were waited, without waiting."""
  waited = []
  monkeypatch.setattr(asking.time, "sleep", waited.append)
  return waited


@pytest.fixture
def pairs(tmp_path):
  """A file of 15 pairs, all texts of which differ."""
  rows = [{"query": f"q {n}", "positive": f"p {n}"} for n in range(15)]
  file = tmp_path / "pairs.jsonl"
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return file


def teach(server, pairs, *more, output="taught"):
  argv = [
    "teach",
    "--config=configs/teach.py",
    f"--data={pairs}",
    f"--output={pairs.parent / output}",
  ]
  if server is not None:
    argv.append(f"--config.teacher={server.address}")
  return main.call([*argv, "--config.service.batch=4", *more])


def taught(pairs, output="taught"):
  return teacher.open_vectors(pairs.parent / output)


def one_line(capsys):
  """The last line on stderr, which alone starts with `error:`."""
  lines = capsys.readouterr().err.splitlines()
  assert [x for x in lines if x.startswith("error:")] == lines[-1:], lines
  return lines[-1]


def test_vectors_are_those_of_the_endpoint(server, pairs, capsys):
  model = ["--config.service.model=small"]
  assert teach(server, pairs, *model) == 0
  err = capsys.readouterr().err
  assert "small at 127.0.0.1: texts to ask: 30; tokens: about 30 (bytes" in err
  assert "requests: at least 8; at no price that is known" in err
  assert "licence: not known (state it" in err
  vectors = taught(pairs)
  found = vectors.rows(teacher.keys_of([Item("retrieval", "q 3", "")]))[0]
  want = np.array(servers.vector("q 3"), np.float32)
  np.testing.assert_allclose(found, want / np.linalg.norm(want), atol=1e-3)
  assert vectors.width == servers.WIDTH
  assert sorted(server.texts) == sorted({*server.texts})
  assert len(server.requests[0][1]) == 1, "the first goes alone"
  assert server.requests[1][0]["model"] == "small"
  assert "Authorization" not in server.headers[0]
  origin = vectors.about["origin"]
  assert origin["kind"] == "endpoint" and origin["name"] == "small"
  assert origin["answered_by"] == "small" and len(origin["dates"]) == 1
  # Again, and for more texts: only those are asked.
  count = len(server.requests)
  assert teach(server, pairs, *model) == 0
  assert len(server.requests) == count
  with pairs.open("a") as file:
    file.write('{"query": "q 3", "positive": "another"}\n')
  server.requests.clear()
  assert teach(server, pairs, *model) == 0
  assert server.texts == ["another"]
  assert (
    "texts to ask: 1, beside 30 answered; tokens" in capsys.readouterr().err
  )


def test_prompts_are_those_that_the_model_wants(server, pairs, tmp_path):
  assert teach(server, pairs, "--config.service.prompts=embeddinggemma") == 0
  assert prompts.query_text("retrieval", "q 1") in server.texts
  assert prompts.DOCUMENT + "p 1" in server.texts
  own = tmp_path / "own.json"
  own.write_text('{"query": "query: ", "passage": "passage: "}')
  server.requests.clear()
  given = [f"--config.service.prompts={own}"]
  assert teach(server, pairs, *given, output="other") == 0
  assert {"query: q 1", "passage: p 1"} <= {*server.texts}


@pytest.mark.parametrize(
  ("act", "said"),
  [
    (servers.with_rows(lambda rows: rows[:-1]), "3 vectors for 4 texts"),
    (servers.with_rows(lambda rows: rows * 2), "has the indices"),
    (servers.with_rows(lambda rows: []), "0 vectors for 4 texts"),
    (servers.with_rows(lambda rows: [1, 2]), "no list 'data' of objects"),
    (servers.with_vector([1.0, 2.0]), "has 2 dimensions, not 8"),
    (servers.with_vector([float("nan")] * 8), "is not finite"),
    (servers.with_vector([1e300] * 8), "is not finite"),
    (servers.with_vector([0.0] * 8), "is zero"),
    (servers.with_vector([None] * 8), "is no list of numbers"),
    (servers.with_vector(["1"] * 8), "is no list of numbers"),
    (servers.with_vector("no base64!"), "is no list of numbers"),
    (servers.with_vector([[1.0] * 8] * 3), "is a matrix: one for every token"),
    (servers.status(200, b"<html><h1>Log in</h1>"), "is no JSON: 'Log in'"),
    (servers.status(200, b""), "the answer is empty"),
    (servers.status(200, b"null"), "no list 'data' of objects: null"),
    (servers.status(200, b'{"error": {"message": "busy"}}'), "objects: busy"),
    (servers.cut_off, "the answer breaks off after"),
    (servers.status(200, b'{"data": [{"ind'), "is JSON that breaks off"),
    (
      servers.status(302, b"", ("Location", "https://elsewhere/x")),
      "status 302: it redirects to https://elsewhere/x",
    ),
    (servers.status(404, b"no such page"), "status 404: no such page"),
    (
      servers.status(400, b'{"error": {"message": "batch is too large"}}'),
      "status 400: batch is too large (of 4 texts at once, service.batch)",
    ),
  ],
)
def test_nonsense_is_one_line_and_what_was_paid_stays(
  server, pairs, capsys, act, said
):
  server.behave = [servers.well, servers.well, act]
  assert teach(server, pairs) == 2
  line = one_line(capsys)
  assert said in line
  assert re.search(r"the (\d) answers so far are kept", line), line
  asked = [text for _, texts in server.requests[:2] for text in texts]
  server.requests.clear()
  assert teach(server, pairs) == 0
  assert not {*asked} & {*server.texts}, "nothing is paid for twice"


def test_the_good_vectors_of_a_bad_answer_stay(server, pairs):
  server.behave = [servers.well, servers.with_vector([0.0] * 8)]
  assert teach(server, pairs) == 2
  bad = server.requests[1][1][1]
  good = {*server.requests[1][1]} - {bad}
  server.requests.clear()
  assert teach(server, pairs) == 0
  assert bad in server.texts and not good & {*server.texts}


def test_the_index_decides_the_order_and_base64_is_read(server, pairs):
  turned = servers.with_rows(lambda rows: rows[::-1])
  server.behave = [turned, turned, servers.as_base64, turned]
  assert teach(server, pairs, "--config.dtype=float32") == 0
  vectors = taught(pairs)
  for text in server.texts:
    item = Item("retrieval" if text[0] == "q" else "document", text, "")
    want = np.array(servers.vector(text), np.float32)
    found = vectors.rows(teacher.keys_of([item]))[0]
    np.testing.assert_allclose(found, want / np.linalg.norm(want), atol=1e-6)


def test_it_waits_as_the_service_asks_and_tries_again(
  server, pairs, naps, capsys
):
  quota = b'{"error": {"message": "quota of a minute"}}'
  server.behave = [
    servers.well,
    servers.status(429, quota, ("Retry-After", "7")),
    servers.status(503, b"overloaded"),
    servers.status(500, b'{"detail": [{"msg": "Please retry in 2.5s."}]}'),
    servers.hang_up,
  ]
  assert teach(server, pairs) == 0
  err = capsys.readouterr().err
  assert "status 429: quota of a minute; try 2 of 6 in 7 s" in err
  assert "status 503: overloaded; try 3 of 6 in" in err
  waited = [seconds for seconds in naps if seconds]
  assert waited[0] == 7 and 2 <= waited[1] <= 2.5 and waited[2] == 2.5
  assert "try 5 of 6" in err and len(waited) == 4


def test_waiting_has_an_end(server, pairs, naps, capsys):
  server.behave = [servers.status(503, b"down")] * 9
  assert teach(server, pairs, "--config.service.tries=3") == 2
  assert "status 503: down, 3 times" in one_line(capsys)
  assert len(server.requests) == 3
  day = ("Retry-After", "86400")
  server.behave = [servers.status(429, b"quota of a day", day)]
  assert teach(server, pairs) == 2
  assert "asks to wait 86,400 s, more than" in one_line(capsys)
  dead = f"--config.teacher=http://127.0.0.1:{unused_port()}/v1/embeddings"
  naps.clear()
  assert teach(None, pairs, dead) == 2
  assert re.search(r"no connection \(.*; is it there\?", one_line(capsys))
  assert not any(naps), "an address that never answered is not waited for"


def unused_port():
  import socket

  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def test_what_is_gone_is_waited_for_once(naps, tmp_path):
  """The next texts are refused at once: a run has more than one task."""
  calls = []

  def ask(key, texts, kind):
    calls.append(texts)
    if len(calls) > 1:
      raise faults.Unreachable("no connection")
    return asking.Reply([[1.0, 2.0]])

  service = asking.Service("s", {}, ask, "", 100)
  answers = Answers(tmp_path, {})
  asker = asking.Asker(service, ServiceConfig(tries=3), answers, print)
  asker.fill([Sent("", "a")])
  with pytest.raises(BadInput, match="no connection, 3 times"):
    asker.fill([Sent("", "b")])
  waited = len([n for n in naps if n])
  assert waited == 2
  with pytest.raises(BadInput, match="is it there"):
    asker.fill([Sent("", "c")])
  assert len([n for n in naps if n]) == waited and len(calls) == 5


def test_a_service_that_is_slow_is_asked_again(server, pairs, naps):
  slow = lambda handler, tree: time.sleep(0) or stop.wait(2)
  import threading

  stop = threading.Event()
  server.behave = [servers.well, slow]
  assert teach(server, pairs, "--config.service.timeout=0.2") == 0
  stop.set()
  assert server.requests[1][1] == server.requests[2][1]


def test_limits_of_a_minute_are_kept(server, pairs, naps, capsys):
  limits = ["--config.service.requests_per_minute=60"]
  limits += ["--config.service.tokens_per_minute=120"]
  assert teach(server, pairs, *limits) == 0
  assert "at least 1 min by its limits" in capsys.readouterr().err
  # One text is a token; four take two seconds of 120 a minute.
  assert naps[0] == 0 and 0.9 < naps[1] <= 1 and 1.9 < naps[2] <= 2


def test_a_large_run_is_asked_for_before_any_request(
  server, pairs, capsys, monkeypatch
):
  dear = ["--config.service.ask_above=10"]
  dear += ["--config.service.price_per_million=200000"]
  assert teach(server, pairs, *dear) == 2
  line = one_line(capsys)
  assert "texts to ask: 30; tokens: about 30" in line
  assert "about $6.00 at $200000 a million tokens" in line
  assert "nothing was asked yet: add --yes" in line
  assert server.requests == []
  terminal = lambda answer: type(
    "Terminal", (), {"isatty": lambda s: True, "readline": lambda s: answer}
  )()
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
  monkeypatch.setattr(sys, "stdin", terminal("n\n"))
  assert teach(server, pairs, *dear) == 1
  assert "since you did not say yes" in capsys.readouterr().err
  monkeypatch.setattr(sys, "stdin", terminal(""))
  assert teach(server, pairs, *dear) == 1
  assert server.requests == []
  monkeypatch.setattr(sys, "stdin", terminal("y\n"))
  assert teach(server, pairs, *dear) == 0
  assert teach(server, pairs, *dear, "--yes", output="other") == 0


def test_a_key_is_read_from_the_environment_and_never_shown(
  server, pairs, naps, capsys, monkeypatch
):
  named = "--config.service.key=MY_KEY"
  monkeypatch.delenv("MY_KEY", raising=False)
  assert teach(server, pairs, named) == 2
  assert "needs a key, and MY_KEY is not set" in one_line(capsys)
  assert server.requests == []
  monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
  echo = json.dumps({"error": {"message": f"bad key {SECRET}"}}).encode()
  server.behave = [
    servers.status(429, echo, ("Retry-After", "1")),
    servers.well,
    servers.status(401, echo),
  ]
  assert teach(server, pairs, named) == 2
  said = capsys.readouterr().err
  assert "status 401: bad key ***" in said and "bad key ***; try 2" in said
  assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
  assert teach(server, pairs, named) == 0
  said += capsys.readouterr().err
  kept = [p.read_bytes() for p in pairs.parent.rglob("*") if p.is_file()]
  assert SECRET not in said and SECRET.encode() not in b"".join(kept)


@pytest.mark.parametrize(
  ("argument", "said"),
  [
    (f"service.key={SECRET}", "not the key (what was given is not shown)"),
    ("service.key=AIzaSyAbc", "not the key (what was given is not shown)"),
    (f"teacher=https://me:{SECRET}@h/v1/embeddings", "holds a password"),
    ("teacher=https://h:port/v1/embeddings", "is no address ("),
    (f"teacher=https://h/v1/embeddings?api-key={SECRET}", "holds a secret"),
    ("teacher=https://h/a b/embeddings", "is no address (a space"),
    ("teacher=https://h/ä/embeddings", "is no address (a space"),
    ("teacher=https://h/v1", "do you mean https://h/v1/embeddings?"),
    ("teacher=http://h.example/v1/embeddings", "over plain http"),
    ("service.prompts=none.json", "is neither none, embeddinggemma nor a JSON"),
    ("service.batch=0", "service.batch=0 must be at least 1"),
    ("service.tries=0", "service.tries=0 must be at least 1"),
    ("service.timeout=0", "service.timeout=0.0 must be above 0"),
  ],
)
def test_what_is_refused_before_any_request(
  server, pairs, capsys, monkeypatch, argument, said
):
  monkeypatch.setenv("MY_KEY", SECRET)
  argv = ["--config.service.key=MY_KEY", f"--config.{argument}"]
  assert teach(server, pairs, *argv) == 2
  line = one_line(capsys)
  assert said in line and SECRET not in line
  assert server.requests == []
  assert not (pairs.parent / "taught.answers").exists()


def test_settings_of_a_service_for_a_teacher_that_is_none(pairs, capsys):
  assert teach(None, pairs) == 2  # the batch size of `teach`
  assert "service.batch=4 is for a model behind an API" in one_line(capsys)


def test_keys_with_odd_characters_are_not_shown(monkeypatch):
  monkeypatch.setenv("MY_KEY", "abc\r\ndef")
  with pytest.raises(BadInput, match="a character that no key has") as caught:
    keys.key_of("MY_KEY")
  assert "abc" not in str(caught.value)
  assert keys.without("a/b", "x a/b a%2Fb y") == "x *** *** y"
  assert keys.without("", "as it is") == "as it is"


def test_only_loopback_is_local():
  for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"):
    assert keys.is_local(host)
  for host in ("127.0.0.1.example", "10.0.0.1", "localhost.example", "", None):
    assert not keys.is_local(host)


def test_a_model_that_changes_on_the_way_is_said(server, pairs, capsys):
  other = lambda handler, tree: handler.send(200, {**tree, "model": "newer"})
  server.behave = [servers.well, other]
  assert teach(server, pairs) == 2
  assert "answers is 'newer', and was 'served' before" in one_line(capsys)


def test_dimensions_are_asked_for(server, pairs, capsys):
  assert teach(server, pairs, "--config.service.dimensions=5") == 0
  assert taught(pairs).width == 5
  server.behave = [servers.with_vector([1.0] * 8)]
  argv = ["--config.service.dimensions=6"]
  assert teach(server, pairs, *argv, output="other") == 2
  line = one_line(capsys)
  assert "has 8 dimensions, not 6; does the model give them?" in line


def test_a_kill_loses_the_request_in_flight_alone(server, pairs, tmp_path):
  """The process is killed as it waits for the fourth answer."""
  hang = lambda handler, tree: handler.rfile.read(1)
  server.behave = [servers.well] * 3 + [hang]
  argv = [sys.executable, "-m", "embeddinggemma", "teach"]
  argv += ["--config=configs/teach.py", f"--data={pairs}"]
  argv += [f"--output={tmp_path / 'taught'}", "--config.service.batch=4"]
  argv += [f"--config.teacher={server.address}"]
  with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL) as child:
    while len(server.requests) < 4 and child.poll() is None:
      time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
  answered = {text for _, texts in server.requests[:3] for text in texts}
  assert len(answered) == 9
  server.requests.clear()
  server.behave = []
  assert teach(server, pairs) == 0
  assert not answered & {*server.texts}
  assert len(server.texts) == 21


def test_rows_that_a_kill_left_in_part_are_cut_off(tmp_path):
  sent = [Sent("", f"text {n}") for n in range(3)]
  vectors = np.eye(3, 4, dtype=np.float32)
  Answers(tmp_path, {"model": "m"}).add(sent, vectors)
  for path in (*tmp_path.glob("*.keys"), *tmp_path.glob("*.vectors")):
    with path.open("r+b") as file:
      file.truncate(path.stat().st_size - 3)
  found = Answers(tmp_path, {"model": "m"})
  assert [one in found for one in sent] == [True, True, False]
  found.add(sent[2:], vectors[:1])
  again = Answers(tmp_path, {"model": "m"})
  np.testing.assert_array_equal(again.of(sent[::-1]), vectors[[0, 1, 0]])
  other = Answers(tmp_path, {"model": "n"})
  assert len(other) == 0 and Sent("", "text 0") not in other
  assert Sent("kind", "text 0") not in again


def test_the_words_of_a_service_and_its_wait():
  deep = '{"error": {"errors": [{"message": "a\\n b"}]}}'
  assert faults.words_of(deep) == "a b"
  assert faults.words_of("<p>Bad <b>Gateway</b></p>") == "Bad Gateway"
  assert faults.words_of("") == "no words"
  assert faults.words_of("x" * 999).endswith("xxx...")
  later = time.strftime(
    "%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90)
  )
  assert 80 < (faults.wait_of({"Retry-After": later}) or 0) <= 90
  info = '{"@type": "x.RetryInfo", "retryDelay": "34s"}'
  assert faults.wait_of({}, info) == 34
  assert faults.wait_of({"retry-after": "soon"}) is None
  assert faults.wait_of({}) is None


def test_long_texts_do_not_all_go_together(server, pairs):
  answers = Answers(pairs.parent / "kept", {})
  answers.add([Sent("", "before")], np.ones((1, 2), np.float32))
  service = asking.Service("s", {}, None, "", 100)
  asker = asking.Asker(service, ServiceConfig(), answers, print)
  sent = [Sent("", f"{n}" * 200_000) for n in range(5)]
  assert [len(b) for b in asker._batches(sent)] == [2, 2, 1]


def test_the_forecast_of_a_text_is_a_quarter_of_its_bytes():
  assert forecast.tokens_of(Sent("", "abcd" * 5)) == 5
  assert forecast.tokens_of(Sent("", "")) == 1
  assert forecast.tokens_of(Sent("", "海" * 4)) == 3


def gemini_on(server, monkeypatch, key=SECRET):
  pytest.importorskip("google.genai", reason="the extra `gemini`")
  monkeypatch.setenv("GEMINI_API_KEY", key)
  base = f"http://127.0.0.1:{server.server_port}"
  monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", base)
  return "--config.teacher=gemini:gemini-embedding-001"


def test_gemini_gets_task_types(server, pairs, capsys, monkeypatch):
  named = gemini_on(server, monkeypatch)
  dims = ["--config.service.dimensions=4", "--config.dtype=float32"]
  assert teach(None, pairs, named, *dims) == 0
  err = capsys.readouterr().err
  assert "terms of gemini-embedding-001: the Gemini API Additional" in err
  assert "texts to ask: 30;" in err and SECRET not in err
  kinds = dict(zip(server.texts, [k for ks, _ in server.requests for k in ks]))
  assert kinds["q 1"] == "RETRIEVAL_QUERY"
  assert kinds["p 1"] == "RETRIEVAL_DOCUMENT"
  assert all(len({*kinds}) == 1 for kinds, _ in server.requests)
  assert server.headers[0]["x-goog-api-key"] == SECRET
  vectors = taught(pairs)
  want = np.array(servers.vector("p 1", "RETRIEVAL_DOCUMENT", 4), np.float32)
  found = vectors.rows(teacher.keys_of([Item("document", "p 1", "")]))[0]
  np.testing.assert_allclose(found, want / np.linalg.norm(want), atol=1e-6)
  origin = vectors.about["origin"]
  assert (
    origin["name"] == "gemini-embedding-001" and "forbid" in origin["terms"]
  )


def test_later_models_of_gemini_read_prompts(server, pairs, monkeypatch):
  named = gemini_on(server, monkeypatch).replace("001", "2")
  assert teach(None, pairs, named) == 0
  assert {kind for kinds, _ in server.requests for kind in kinds} == {""}
  assert prompts.DOCUMENT + "p 1" in server.texts
  assert len(server.texts) == 30


@pytest.mark.parametrize(
  ("act", "said"),
  [
    (servers.with_rows(lambda rows: rows[:-1]), "3 vectors for 4 texts"),
    (servers.with_vector([1.0, 2.0]), "has 2 dimensions, not 8"),
    (servers.with_vector([0.0] * 8), "is zero"),
    (servers.with_vector(None), "is no list of numbers"),
    (servers.with_vector(["x"] * 8), "cannot be read"),
    (servers.status(200, b"<html>Log in"), "cannot be read"),
    (servers.status(200, b"{}"), "0 vectors for 4 texts"),
    (servers.cut_off, "breaks off"),
    (
      servers.status(
        403, b'{"error": {"code": 403, "message": "no", "status": "X"}}'
      ),
      "status 403: no",
    ),
  ],
)
def test_gemini_that_misbehaves(
  server, pairs, capsys, monkeypatch, naps, act, said
):
  named = gemini_on(server, monkeypatch)
  server.behave = [servers.well, servers.well, act]
  assert teach(None, pairs, named) == 2
  line = one_line(capsys)
  assert said in line and "the" in line and SECRET not in line
  asked = [text for _, texts in server.requests[:2] for text in texts]
  server.requests.clear()
  assert teach(None, pairs, named) == 0
  assert not {*asked} & {*server.texts}


def test_gemini_waits_by_itself_and_only_here(
  server, pairs, capsys, monkeypatch, naps
):
  named = gemini_on(server, monkeypatch)
  quota = {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}
  quota["details"] = [{"@type": "x/google.rpc.RetryInfo", "retryDelay": "9s"}]
  server.behave = [
    servers.status(429, json.dumps({"error": quota}).encode()),
    servers.hang_up,
  ]
  assert teach(None, pairs, named) == 0
  assert 9 in naps and len([n for n in naps if n]) == 2
  assert "status 429: quota; try 2 of 6 in 9 s" in (capsys.readouterr().err)


def test_gemini_needs_its_package_and_a_key(pairs, capsys, monkeypatch):
  pytest.importorskip("google.genai")
  named = "--config.teacher=gemini:gemini-embedding-001"
  monkeypatch.delenv("GEMINI_API_KEY", raising=False)
  assert teach(None, pairs, named) == 2
  said = capsys.readouterr().err
  assert "texts to ask: 30;" in said, "the figures come first"
  assert "GEMINI_API_KEY is not set" in said.splitlines()[-1]
  monkeypatch.setenv("GEMINI_API_KEY", SECRET)
  monkeypatch.setattr(gemini, "_is_installed", lambda: False)
  gemini._client.cache_clear()
  assert teach(None, pairs, named) == 2
  assert "pip install 'embeddinggemma[gemini]'" in one_line(capsys)
  bare = "--config.teacher=gemini-embedding-2"
  assert teach(None, pairs, bare) == 2
  assert "pip install 'embeddinggemma[gemini]'" in one_line(capsys)
  for name in ("gemini:", "gemini: "):
    assert teach(None, pairs, f"--config.teacher={name}") == 2
    assert "as in gemini:gemini-embedding-001" in one_line(capsys)
