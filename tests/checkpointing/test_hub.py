"""Checkpoints from a local stand-in of the hub; the real one is not asked."""

import hashlib
import http.server
import json
import pathlib
import threading

import jax
import numpy as np
import pytest

from genvs_jax.checkpointing import hub
from genvs_jax.checkpointing import pretrained

huggingface_hub = pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn(http.server.BaseHTTPRequestHandler):
  """Lists and hands out the files of `folder` as repository ours/cars."""

  folder: pathlib.Path

  def do_HEAD(self):
    self.do_GET(body=False)

  def do_GET(self, body=True):
    parts = self.path.partition("?")[0].strip("/").split("/")
    if parts[:4] == ["api", "models", "ours", "cars"]:
      revision = parts[5] if len(parts) > 5 else "main"
      if revision not in ("main", "v1", COMMIT):
        return self.answer(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
      names = [
        str(p.relative_to(self.folder))
        for p in sorted(self.folder.rglob("*"))
        if p.is_file()
      ]
      content = {
        "id": "ours/cars",
        "sha": COMMIT,
        "siblings": [{"rfilename": name} for name in names],
      }
      if len(parts) > 4 and parts[4] == "tree":
        content = [
          {
            "type": "file",
            "path": name,
            "size": (self.folder / name).stat().st_size,
            "oid": hashlib.sha1(name.encode()).hexdigest(),
          }
          for name in names
        ]
      return self.answer(200, json.dumps(content).encode(), body)
    if parts[:3] == ["ours", "cars", "resolve"]:
      file = self.folder.joinpath(*parts[4:])
      if file.is_file():
        return self.answer(200, file.read_bytes(), body)
    return self.answer(404, b"", body, {"X-Error-Code": "RepoNotFound"})

  def answer(self, code, content, body, headers=()):
    self.send_response(code)
    self.send_header("Content-Length", str(len(content)))
    self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
    self.send_header("X-Repo-Commit", COMMIT)
    for name, value in dict(headers).items():
      self.send_header(name, value)
    self.end_headers()
    if body:
      self.wfile.write(content)

  def log_message(self, *args):
    pass


@pytest.fixture(scope="module")
def repository(trained_workdir, tmp_path_factory):
  """A folder with a small checkpoint in a subfolder."""
  folder = tmp_path_factory.mktemp("repository")
  pretrained.save(str(folder / "small"), pretrained.load(trained_workdir))
  return folder


@pytest.fixture
def stand_in(repository, tmp_path, monkeypatch):
  """The hub, with that repository."""
  handler = type("Handler", (StandIn,), {"folder": repository})
  server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  endpoint = f"http://localhost:{server.server_port}"
  download = huggingface_hub.snapshot_download

  def local(*args, **kwargs):
    return download(
      *args, **kwargs, endpoint=endpoint, cache_dir=str(tmp_path / "cache")
    )

  monkeypatch.setattr(huggingface_hub, "snapshot_download", local)
  yield
  server.shutdown()


def test_a_checkpoint_is_found_by_its_address(stand_in, trained_workdir):
  theirs = pretrained.load(trained_workdir)
  for address in ("hf://ours/cars/small", "hf://ours/cars/small@v1"):
    ours = pretrained.load(address)
    assert ours.step == theirs.step
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-11, atol=2**-25),
    ours.variables["field"],
    theirs.variables["field"],
  )


@pytest.mark.parametrize(
  "address, sentence",
  [
    ("hf://ours", "expected hf://USER/REPO"),
    ("hf://theirs/cars", r"hf://theirs/cars cannot be fetched: "),
    ("hf://ours/cars@v9", r"hf://ours/cars@v9 cannot be fetched: "),
    ("hf://ours/cars/large", "ours/cars has no folder large"),
  ],
)
def test_what_is_not_there_is_one_sentence(stand_in, address, sentence):
  with pytest.raises(ValueError, match=sentence) as caught:
    hub.fetch(address)
  assert "\n" not in str(caught.value)
