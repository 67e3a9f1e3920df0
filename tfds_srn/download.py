"""Fetches one file over HTTP, or from Google Drive by its id."""

import hashlib
import json
import pathlib
import re

import requests

_CHUNK = 1 << 16  # bytes
_TIMEOUT = 60  # seconds without an answer


def fetch(url: str, folder: pathlib.Path) -> pathlib.Path:
  """Downloads `url` into `folder` and returns the file; reuses a whole one.

  Bytes go to a `.part` file that is renamed when it is complete. A second call
  goes on where the first was cut off if the server can and has the same file
  still. Files of different addresses never share a name.

  Args:
    url: http(s) address, or the id of a public Google Drive file.
    folder: made if missing.

  Raises:
    OSError: if the server refuses, sends a web page instead of a file, or
      closes the connection early.
  """
  name, address = _resolve(url)
  folder.mkdir(parents=True, exist_ok=True)
  target, part = folder / name, folder / f"{name}.part"
  if target.exists():
    return target
  try:
    _download(address, part)
  except requests.RequestException as e:
    raise OSError(
      f"could not fetch {address} ({e}): check the address and the connection;"
      " a second try goes on where this one stopped"
    ) from e
  part.rename(target)
  _description(part).unlink(missing_ok=True)
  return target


def _download(address: str, part: pathlib.Path) -> None:
  """Fills the part file; goes on with one of the same file on the server."""
  description = _description(part)
  have, earlier = 0, _read_description(description)
  if part.exists() and earlier:
    have = part.stat().st_size
  headers = {"Range": f"bytes={have}-"} if have else {}
  if have and earlier["validator"]:
    # A server whose file has changed sends all of the new one.
    headers["If-Range"] = earlier["validator"]
  with requests.get(
    address, headers=headers, stream=True, timeout=_TIMEOUT
  ) as answer:
    resumed = answer.status_code == 206
    if have and answer.status_code == 416:  # whole, or another file
      if _total_size(answer) == have == earlier["size"]:
        return
      part.unlink()
      _download(address, part)
      return
    answer.raise_for_status()
    if answer.headers.get("Content-Type", "").startswith("text/html"):
      raise OSError(
        f"{address} sent a web page, expected a file: the quota of the file"
        " may be used up, or it is not public; download it by hand and name"
        " it with --config.data.source"
      )
    size = _total_size(answer)
    if resumed and size != earlier["size"]:
      part.unlink()
      _download(address, part)
      return
    validator = answer.headers.get(
      "ETag", answer.headers.get("Last-Modified", "")
    )
    description.write_text(json.dumps({"validator": validator, "size": size}))
    with part.open("ab" if resumed else "wb") as out:
      for chunk in answer.iter_content(_CHUNK):
        out.write(chunk)
  if size and part.stat().st_size != size:
    raise OSError(
      f"{address} ended after {part.stat().st_size} of {size} bytes: run the"
      " same command again, which goes on from there"
    )


def _description(part: pathlib.Path) -> pathlib.Path:
  """Where the size and the version of what is being downloaded stand."""
  return part.with_name(f"{part.name}.json")


def _read_description(path: pathlib.Path) -> dict:
  """Of a part file; empty if there is none, or it is cut short."""
  try:
    content = json.loads(path.read_text())
    return {"validator": content["validator"], "size": content["size"]}
  except (OSError, ValueError, KeyError, TypeError):
    return {}


def _total_size(answer: requests.Response) -> int:
  """Of the whole file, 0 if the server does not say."""
  ranges = answer.headers.get("Content-Range", "")
  total = ranges.rpartition("/")[2]
  if total.isdecimal():
    return int(total)
  return 0 if ranges else int(answer.headers.get("Content-Length", 0))


def _resolve(url: str) -> tuple[str, str]:
  """(file name, address) of a URL or a Drive id."""
  match = re.search(r"drive\.google\.com/.*?(?:id=|/d/)([\w-]{20,})", url)
  if match or re.fullmatch(r"[\w-]{20,}", url):
    file_id = match.group(1) if match else url
    return f"{file_id}.zip", (
      "https://drive.usercontent.google.com/download"
      f"?id={file_id}&export=download&confirm=t"
    )
  if not url.startswith(("http://", "https://")):
    raise ValueError(
      f"data.url is {url!r}, expected an http(s) address or the id of a Google"
      " Drive file"
    )
  base = url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
  return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}_{base}", url
