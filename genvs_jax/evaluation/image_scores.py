"""Every metric of a scene's pictures, view by view.

All are of 8-bit pictures, as papers score them:

  psnr, psnr_masked     dB, over the picture and over the object's pixels
  ssim                  scikit-image's default, as pixelNeRF's
  lpips_vgg, lpips_alex, dists    lower is closer; smaller pictures than 64
                        pixels are enlarged to 64
  sharpness             mean gradient over the truth's, 1 is right
  depth_error           mean |distance| error in world units over the object's
                        pixels that the render makes opaque
  depth_coverage        share of the object's pixels that those are
"""

from collections.abc import Callable
from collections.abc import Sequence

import jax
import numpy as np

from genvs_jax import perceptual
from genvs_jax.geometry import rendering
from genvs_jax.images import metrics
from genvs_jax.runtime import sharding

# Whether more is better; Frechet and consistency scores are not per view.
HIGHER_IS_BETTER = {
  "psnr": True,
  "psnr_masked": True,
  "ssim": True,
  "lpips_vgg": False,
  "lpips_alex": False,
  "dists": False,
  "mean_colour": False,
}
_PICTURES_AT_A_TIME = 16


class Scorer:
  """Scores pictures on this process's devices.

  Args:
    weights_folder: folder of the perceptual metrics' weights, or "auto".

  Attributes:
    left_out: {metric: names of missing weights}.
    frechet: which Frechet distance `features` are for, a name of
      `perceptual.FLAVOURS`; "" if there is none.
  """

  def __init__(self, weights_folder: str):
    mesh = sharding.make_local_mesh(_PICTURES_AT_A_TIME)
    self._split = sharding.split_batch(mesh)
    functions, self.left_out = perceptual.build_metrics(
      weights_folder, sharding.replicated(mesh)
    )
    names = [name for name in perceptual.FLAVOURS if name in functions]
    self.frechet = names[0] if names else ""
    self._features = functions.pop(self.frechet, None)
    self._psnr = jax.jit(metrics.psnr)
    self._distances: dict[str, Callable] = {
      "psnr": self._psnr,
      "ssim": jax.jit(metrics.ssim),
      "sharpness": jax.jit(metrics.sharpness),
      **{
        name: perceptual.enlarged(function)
        for name, function in functions.items()
      },
    }

  @property
  def names(self) -> list[str]:
    """Of the metrics that every picture gets."""
    return list(self._distances)

  def score(
    self, pictures: np.ndarray, truth: np.ndarray, mask: np.ndarray | None
  ) -> dict[str, np.ndarray]:
    """Scores [T] by metric.

    Args:
      pictures: u8 [T,H,W,3].
      truth: u8 [T,H,W,3].
      mask: bool [T,H,W] of the object, or None.
    """
    scores = {
      name: self._in_pieces(function, pictures, truth)
      for name, function in self._distances.items()
    }
    if mask is not None:
      scores["psnr_masked"] = self._in_pieces(self._psnr, pictures, truth, mask)
    return scores

  def score_sets(
    self,
    sets: Sequence[np.ndarray],
    truth: np.ndarray,
    mask: np.ndarray | None,
  ) -> list[dict[str, np.ndarray]]:
    """`score` of several pictures of each view, together in full batches.

    Args:
      sets: of pictures u8 [T,H,W,3] of the same views.
      truth: u8 [T,H,W,3].
      mask: bool [T,H,W] of the object, or None.

    Returns:
      scores [T] by metric, for each set.
    """
    count = len(sets)
    masks = None if mask is None else np.concatenate([mask] * count)
    scores = self.score(
      np.concatenate(sets), np.concatenate([truth] * count), masks
    )
    parts = {name: np.split(values, count) for name, values in scores.items()}
    return [{name: x[i] for name, x in parts.items()} for i in range(count)]

  def features(self, pictures: np.ndarray) -> np.ndarray:
    """Features f32 [T,n] of u8 pictures, for the Frechet distance."""
    assert self._features is not None, "frechet is empty"
    return self._in_pieces(self._features, pictures)

  def _in_pieces(self, function: Callable, *arrays: np.ndarray) -> np.ndarray:
    """Results [T,..] in batches of one shape over the devices."""
    total = len(arrays[0])
    results = []
    for first in range(0, total, _PICTURES_AT_A_TIME):
      # The last batch is filled up with its last picture.
      rows = sharding.pad_rows(total - first, _PICTURES_AT_A_TIME)
      at = first + np.array(rows)
      piece = [
        a[at] / np.float32(255) if a.dtype == np.uint8 else a[at]
        for a in arrays
      ]
      pieces = jax.device_put(piece, self._split)
      results.append(np.asarray(function(*pieces))[: total - first])
    return np.concatenate(results)


def best_of(scores: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """The best of several pictures of each view, metric by metric."""
  return {
    name: (np.max if HIGHER_IS_BETTER[name] else np.min)(
      [s[name] for s in scores], 0
    )
    for name in scores[0]
    if name in HIGHER_IS_BETTER
  }


def depth_scores(
  depth: np.ndarray, opacity: np.ndarray, distances: np.ndarray
) -> dict[str, np.ndarray]:
  """Errors of rendered depth [T].

  Args:
    depth: f32 [T,H,W], expected distance along the ray, world units.
    opacity: f32 [T,H,W].
    distances: f32 [T,H,W], the truth, 0 beside the object.
  """
  mask = distances > 0
  both = mask & (opacity > rendering.OPAQUE)
  error = np.sum(np.abs(depth - distances) * both, (1, 2))
  count = np.sum(both, (1, 2))
  with np.errstate(invalid="ignore"):
    return {
      "depth_error": error / count,
      "depth_coverage": count / np.sum(mask, (1, 2)),
    }
