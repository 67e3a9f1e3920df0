"""Objects cut out of their backgrounds, as the model knows them: on white."""

import numpy as np
from PIL import Image

from genvs_jax.images import squares
from genvs_jax.runtime import messages

METHODS = ("alpha", "flood", "rembg")
_TOLERANCE = 28  # of 255, in the channel that is farthest off


def whiten(image: Image.Image, method: str) -> Image.Image:
  """A picture, RGB, whose background is white.

  Args:
    image: in any mode.
    method: "alpha" takes the alpha channel, where there is one, and nothing
      else; "flood" what is connected with the border and coloured like it;
      "rembg" the package of that name, a trained network.

  Raises:
    ValueError: for another method, or rembg where it is not installed.
  """
  messages.check_choice("photos.background", method, METHODS)
  if method == "rembg":
    try:
      import rembg  # noqa: PLC0415  (optional, and large)
    except ImportError as error:
      raise ValueError(
        "photos.background is 'rembg', which is not installed: pip install"
        " 'rembg[cpu]', or choose 'flood'"
      ) from error
    return squares.flatten_onto_white(rembg.remove(image))
  flat = squares.flatten_onto_white(image)
  return flood(flat) if method == "flood" else flat


def flood(image: Image.Image) -> Image.Image:
  """White where an RGB picture is like its border and connected with it."""
  import skimage.measure  # noqa: PLC0415  (wanted for this alone)

  values = np.array(image)
  border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
  off = np.abs(values.astype(int) - np.median(border, 0)).max(-1)
  regions = skimage.measure.label(off <= _TOLERANCE, connectivity=1)
  outside = np.unique(
    np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
  )
  values[np.isin(regions, outside[outside > 0])] = 255
  return Image.fromarray(values)
