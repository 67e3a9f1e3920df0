"""Fetches one file over HTTP, or from Google Drive by its id."""

import pathlib
import re

import requests

_CHUNK = 1 << 16  # bytes
_TIMEOUT = 60  # seconds without an answer


def fetch(url: str, folder: pathlib.Path) -> pathlib.Path:
  """Downloads `url` into `folder` and returns the file; reuses a whole one.

  Bytes go to a `.part` file that is renamed when it is complete, and a second
  call goes on where the first was cut off if the server can.

  Args:
    url: http(s) address, or the id of a public Google Drive file.
    folder: made if missing.

  Raises:
    OSError: if the server refuses, sends a web page instead of a file, or
      closes the connection early.
  """
  name, address = _resolve(url)
  folder.mkdir(parents=True, exist_ok=True)
  target = folder / name
  if target.exists():
    return target
  part = folder / f"{name}.part"
  have = part.stat().st_size if part.exists() else 0
  headers = {"Range": f"bytes={have}-"} if have else {}
  try:
    with requests.get(
      address, headers=headers, stream=True, timeout=_TIMEOUT
    ) as answer:
      if answer.status_code == 416:  # the part is whole already
        part.rename(target)
        return target
      answer.raise_for_status()
      if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise OSError(
          f"{address} sent a web page, expected a file: the quota of the file"
          " may be used up, or it is not public; download it by hand and name"
          " it with --config.data.source"
        )
      resumed = answer.status_code == 206
      with part.open("ab" if resumed else "wb") as out:
        for chunk in answer.iter_content(_CHUNK):
          out.write(chunk)
      size = int(answer.headers.get("Content-Length", 0)) + have * resumed
  except requests.RequestException as e:
    raise OSError(
      f"could not fetch {address} ({e}): check the address and the connection;"
      " a second try goes on where this one stopped"
    ) from e
  if size and part.stat().st_size != size:
    raise OSError(
      f"{address} ended after {part.stat().st_size} of {size} bytes: run the"
      " same command again, which goes on from there"
    )
  part.rename(target)
  return target


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
  return url.split("?")[0].rstrip("/").rsplit("/", 1)[-1], url
