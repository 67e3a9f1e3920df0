"""GeNVS in JAX: generative novel view synthesis with 3D-aware diffusion.

Shapes are written in one legend everywhere:

  B scenes · V input views · T target views · N = V + T views in a record
  (input views first, target views last) · H,W image · h,w feature render ·
  D depth planes · C volume channels (16) · F feature-image channels (16, the
  first three are RGB) · Q rendered views · R rays · S samples per ray

Images are [.., H, W, 3] and volumes [.., H, W, D, C]: depth stands next to the
channels so that the encoder's output becomes a volume by a reshape, without a
copy, and so that the two planes that a lookup needs are neighbours in memory.

A batch is `images` u8 [B,N,H,W,3], `poses` f32 [B,N,4,4], `intrinsics` f32
[B,N,4] (fx, fy, cx, cy in pixels of the image), or [B,4] if all views of a
scene have the same, and `scene` i32 [B].

There is one camera convention inside: OpenCV camera-to-world (x right, y
down, z into the scene), which is also SRN's. Others are converted at the edge.

The modules that a user of a trained model needs can be imported from here:
`from genvs_jax import pretrained`; the others lie in their folders.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
  "camera_paths": "genvs_jax.geometry.camera_paths",
  "denoising": "genvs_jax.models.denoising",
  "pipeline": "genvs_jax.models.pipeline",
  "pretrained": "genvs_jax.checkpointing.pretrained",
  "rollouts": "genvs_jax.sampling.rollouts",
  "view_synthesis": "genvs_jax.sampling.view_synthesis",
}


def __getattr__(name: str) -> Any:
  """Imports a public module at its first use."""
  if name not in _PUBLIC:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return importlib.import_module(_PUBLIC[name])
