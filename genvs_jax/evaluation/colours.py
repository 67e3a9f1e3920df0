"""Whether a drawn object has its colours, which PSNR hardly sees.

mean_colour          CIEDE2000 between the object's mean colours, drawn and
                     true; about 1 is the least difference that people see
colour_correlation   of a pixel's colour without its grey, over the object,
                     with the render's: a sample that is drawn from the true
                     distribution has what the truth has
"""

import numpy as np
import skimage.color

# Sums that `correlation` is made of, as they are kept view by view.
PRODUCTS = ("chroma_product", "chroma_square", "chroma_square_other")
_WHITE = 250  # of 255: a pixel with all channels above is background


def object_mask(truth: np.ndarray) -> np.ndarray:
  """Pixels bool [T,H,W] of u8 [T,H,W,3] that are not the white background."""
  return np.any(truth < _WHITE, axis=-1)


def mean_colour_error(
  images: np.ndarray, truth: np.ndarray, mask: np.ndarray
) -> np.ndarray:
  """CIEDE2000 [T] between mean colours inside a mask; NaN where it is empty.

  Args:
    images: u8 [T,H,W,3].
    truth: u8 [T,H,W,3].
    mask: bool [T,H,W] of the object.
  """
  count = mask.sum((1, 2))[:, None]
  with np.errstate(invalid="ignore"):
    colours = [
      np.sum(x / 255.0 * mask[..., None], (1, 2)) / count
      for x in (images, truth)
    ]
  return skimage.color.deltaE_ciede2000(*map(skimage.color.rgb2lab, colours))


def chroma_products(
  images: np.ndarray, others: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
  """The sums [T] of which `correlation` is made; arguments as above."""
  x, y = (
    (v - v.mean(-1, keepdims=True)) * mask[..., None]
    for v in (images / 255.0, others / 255.0)
  )
  sums = (np.sum(v, (1, 2, 3)) for v in (x * y, x * x, y * y))
  return dict(zip(PRODUCTS, sums, strict=True))


def correlation(product: float, square: float, square_other: float) -> float:
  """Of two pictures' colours, from the sums (or means) over all views; a
  pixel's three channels without their grey have mean 0."""
  return product / max((square * square_other) ** 0.5, 1e-12)
