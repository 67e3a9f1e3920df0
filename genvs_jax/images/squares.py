"""Pictures of any shape as squares of the model's size, on white."""

import numpy as np
from PIL import Image

RESIZES = ("area", "bicubic", "stride")


Colour = str | tuple[int, int, int]  # a name, or RGB from 0 to 255


def flatten_onto_white(image: Image.Image) -> Image.Image:
  """RGB of a picture in any mode, composited onto white."""
  return flatten(image, "white")


def flatten(image: Image.Image, behind: Colour) -> Image.Image:
  """RGB of a picture in any mode, composited onto a colour."""
  # A PNG without an alpha channel can name a colour that is transparent.
  if image.mode == "RGB" and "transparency" not in image.info:
    return image
  if image.mode.startswith("I"):  # 16 bits, which PIL would clip at 255
    grey = np.asarray(image).astype(np.float32) / 257
    return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
  image = image.convert("RGBA")
  canvas = Image.new("RGBA", image.size, behind)
  return Image.alpha_composite(canvas, image).convert("RGB")


def square(image: Image.Image, side: int) -> tuple[Image.Image, int, int]:
  """The middle of a picture on a white square.

  Returns:
    RGB [side,side], and what its x and y gained: negative where it was cut.
  """
  left, top = (side - image.width) // 2, (side - image.height) // 2
  if (left, top) == (0, 0) and image.size == (side, side):
    return image, 0, 0
  canvas = Image.new("RGB", (side, side), "white")
  canvas.paste(image, (left, top))
  return canvas, left, top


def resize(image: Image.Image, size: int, method: str) -> Image.Image:
  """A square picture at `size` pixels.

  Args:
    image: square.
    size: in pixels.
    method: "area" averages (and enlarges bicubically), "bicubic" is PIL's,
      "stride" takes every n-th pixel.

  Raises:
    ValueError: for a stride that is not whole.
  """
  side = image.width
  if side == size:
    return image
  if method == "stride":
    if side % size:
      raise ValueError(
        f"images of {side} pixels cannot become {size} by model.resize ="
        " 'stride', which takes every n-th pixel: choose 'area'"
      )
    every = side // size
    return Image.fromarray(np.asarray(image)[::every, ::every])
  shrinks = size < side and method == "area"
  how = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
  return image.resize((size, size), how)
