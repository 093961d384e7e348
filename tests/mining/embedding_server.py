"""A server on loopback that speaks OpenAI's protocol and Gemini's, or misbehaves.

Its vectors say which text they are of, or are those of a model. `behave` is a list of what to do with
the next requests, each once; then it behaves.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import threading

import numpy as np

WIDTH = 8


def vector(text, kind="", width=WIDTH):
  """The vector of a text, under a task type."""
  digest = hashlib.sha256(f"{kind}|{text}".encode()).digest()
  draw = np.random.default_rng(list(digest)).normal(size=width)
  return [float(np.float32(x)) for x in draw]


class Server(http.server.ThreadingHTTPServer):
  """What was asked is in `requests`; see the module."""

  daemon_threads = True

  def __init__(self, vector_of):
    self.vector_of = vector_of
    super().__init__(("127.0.0.1", 0), Handler)
    self.requests, self.behave, self.headers = [], [], []
    self.answered = 0

  @property
  def address(self):
    return f"http://127.0.0.1:{self.server_port}/v1/embeddings"

  @property
  def texts(self):
    """All texts that were asked for, in order."""
    return [text for _, texts in self.requests for text in texts]


@contextlib.contextmanager
def serving(vector_of=None):
  """A server that runs within the block; `vector_of`: text -> its vector."""
  server = Server(vector_of)
  thread = threading.Thread(target=server.serve_forever, args=(0.02,))
  thread.start()
  try:
    yield server
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers one request."""

  def log_message(self, *args):
    pass

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    server = self.server
    if ":batchEmbedContents" in self.path:
      asked = body["requests"]
      kinds = [one.get("taskType", "") for one in asked]
      texts = [one["content"]["parts"][0]["text"] for one in asked]
      width = asked[0].get("outputDimensionality", WIDTH)
      found = [vector(t, k, width) for t, k in zip(texts, kinds)]
      rows = [{"values": row} for row in found]
      tree = {"embeddings": rows}
      server.requests.append((kinds, texts))
    else:
      texts = body["input"]
      width = body.get("dimensions", WIDTH)
      usual = lambda text: vector(text, width=width)
      found = [*map(server.vector_of or usual, texts)]
      rows = [{"index": n, "embedding": row} for n, row in enumerate(found)]
      tree = {"data": rows, "model": body.get("model", "served")}
      server.requests.append((body, texts))
    server.headers.append(dict(self.headers))
    act = server.behave.pop(0) if server.behave else None
    if act is None:
      self.send(200, tree)
    else:
      act(self, tree)

  def send(self, status, tree, headers=(), length=None):
    """Answer with JSON, or with the bytes that are given."""
    body = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    self.send_response(status)
    for name, value in headers:
      self.send_header(name, value)
    self.send_header("Content-Length", str(length or len(body)))
    self.end_headers()
    self.wfile.write(body)
    if status == 200:
      self.server.answered += 1


def well(handler, tree):
  """Answer as it should."""
  handler.send(200, tree)


def status(code, body=b"{}", *headers):
  """Answer with a status."""
  return lambda handler, tree: handler.send(code, body, headers)


def with_rows(change):
  """Answer with other rows than is right."""

  def act(handler, tree):
    name = "data" if "data" in tree else "embeddings"
    handler.send(200, {**tree, name: change(tree[name])})

  return act


def with_vector(value):
  """Answer with another vector of the second text, or of the only one."""

  def change(rows):
    name = "values" if "values" in rows[0] else "embedding"
    place = min(1, len(rows) - 1)
    return [
      {**row, name: value} if n == place else row for n, row in enumerate(rows)
    ]

  return with_rows(change)


def cut_off(handler, tree):
  """Break off in the middle of an answer."""
  body = json.dumps(tree).encode()
  handler.send(200, body[: len(body) // 2], length=len(body))
  handler.close_connection = True


def hang_up(handler, tree):
  """Close the connection without an answer."""
  del tree
  handler.close_connection = True
  handler.connection.close()


def as_base64(handler, tree):
  """Answer with vectors in base64, as OpenAI may."""
  coded = lambda row: base64.b64encode(np.float32(row).tobytes()).decode()
  rows = [{**row, "embedding": coded(row["embedding"])} for row in tree["data"]]
  handler.send(200, {**tree, "data": rows})
