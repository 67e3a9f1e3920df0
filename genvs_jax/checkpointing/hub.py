"""Checkpoints on the Hugging Face hub, by address.

  hf://USER/REPO            the whole repository is a workdir or checkpoint
  hf://USER/REPO/SUBFOLDER  a folder of it
  hf://USER/REPO@REVISION   a branch, tag or commit; by default main

What is fetched stays in the hub's own cache ($HF_HOME). `huggingface_hub` is an
optional package, and its command uploads: `hf upload USER/REPO DIR`.
"""

import os
import re

_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)((?:/[^/@]+)*)/?(?:@(.+))?")


def is_address(path: str) -> bool:
  """Whether a path is on the hub."""
  return path.startswith("hf://")


def fetch(address: str) -> str:
  """The local folder of a checkpoint on the hub; fetches what is not there.

  Raises:
    ValueError: for an address that is none, that cannot be reached, or where
      nothing lies.
  """
  match = _ADDRESS.fullmatch(address)
  if match is None:
    raise ValueError(
      f"{address}: expected hf://USER/REPO, with /SUBFOLDER or @REVISION or"
      " both behind it"
    )
  repository, subfolder, revision = match.groups()
  subfolder = subfolder.strip("/")
  try:
    import huggingface_hub  # noqa: PLC0415  (optional)
  except ImportError as error:
    raise ValueError(
      f"{address}: the hub needs a package, pip install huggingface_hub"
    ) from error
  try:
    folder = huggingface_hub.snapshot_download(
      repository,
      revision=revision,
      allow_patterns=f"{subfolder}/*" if subfolder else None,
    )
  # Of many kinds: no such repository, revision or right, no network.
  except Exception as error:
    reason = str(error).strip().splitlines()[0]
    raise ValueError(f"{address} cannot be fetched: {reason}") from error
  path = os.path.join(folder, subfolder)
  if not os.path.isdir(path):
    raise ValueError(f"{address}: {repository} has no folder {subfolder}")
  return path
