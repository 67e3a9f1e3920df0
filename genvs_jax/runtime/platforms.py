"""What helps one kind of device alone, unknown to networks and renderer.

  convolutions               forms of convolutions that XLA runs faster on CPUs,
                             and compiles sooner for TPUs
  programs_for               traced here for another platform
  gradient_options,
  initialisation_options     compiler options for CPUs
  keep_freed_memory          spares CPUs clearing gigabytes at every step

On other backends each does nothing. Figures are in docs/performance.md and
docs/tpu.md.
"""

import contextlib
import contextvars
import ctypes
import sys
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

# XLA's CPU kernel drops to half its rate where this does not divide a width.
_WIDTH = 64
# Layers with fewer channels, of pictures and masks, gain nothing.
_WIDE = 16
# The platform that programs are traced for, if not the one that is here.
_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "platform", default=None
)
# Of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def gradient_options(platform: str) -> dict[str, str] | None:
  """Compiler options for programs with gradients on a platform."""
  if platform != "cpu":
    return None
  # Of the two orders that XLA knows on CPU, the one that needs less memory.
  return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def initialisation_options() -> dict[str, int] | None:
  """Compiler options for the program that draws initial values."""
  if jax.default_backend() != "cpu":
    return None
  # A long program of small random draws that runs once: optimising it takes
  # four times as long as not.
  return {"xla_backend_optimization_level": 0}


def keep_freed_memory() -> None:
  """Keeps memory that a program frees, for when it runs again.

  XLA allocates the temporaries of a program each time that it runs, gigabytes
  for a train step. By default glibc returns them to the kernel, which then
  clears every page anew. Does nothing with other C libraries.
  """
  if jax.default_backend() != "cpu" or not sys.platform.startswith("linux"):
    return
  library = ctypes.CDLL(None)
  if hasattr(library, "mallopt"):
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)


@contextlib.contextmanager
def programs_for(platform: str) -> Iterator[None]:
  """What is traced in here is for devices of `platform`, here or not."""
  token = _PLATFORM.set(platform)
  try:
    yield
  finally:
    _PLATFORM.reset(token)


@contextlib.contextmanager
def convolutions() -> Iterator[None]:
  """Every `nn.Conv` that is traced in here takes the form of the platform.

  On CPUs, where XLA computes the gradient of a convolution with respect to its
  kernel, and everything about 1x1 convolutions, at a fraction of the rate of a
  matrix product, such a product. On TPUs one that is computed on its own.
  Parameters and their names stay as they are.
  """
  forms = {"cpu": _exchange_convolution, "tpu": _part_convolution}
  platform = _PLATFORM.get() or jax.default_backend()
  if platform not in forms:
    yield
    return
  with nn.intercept_methods(forms[platform]):
    yield


def _part_convolution(call, args, kwargs, context):
  """Runs a `nn.Conv` and keeps XLA from joining it with what follows.

  For a few pictures on each device XLA cuts them into strips, and would carry
  these through the norms and activations between two convolutions, with their
  borders patched each time: twice the traffic, and twice the time to compile.
  """
  module = context.module
  result = call(*args, **kwargs)
  if not isinstance(module, nn.Conv) or context.method_name != "__call__":
    return result
  is_pointwise = module.kernel_size == (1, 1)
  return result if is_pointwise else jax.lax.optimization_barrier(result)


def _exchange_convolution(call, args, kwargs, context):
  """Runs a `nn.Conv` with our `conv_general_dilated`, in the same scope."""
  module = context.module
  plain = isinstance(module, nn.Conv) and module.conv_general_dilated is None
  if not plain or context.method_name != "__call__":
    return call(*args, **kwargs)
  exchanged = module.clone(
    parent=module.scope, conv_general_dilated=conv_general_dilated
  )
  return exchanged(*args, **kwargs)


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides,
  padding,
  lhs_dilation=None,
  rhs_dilation=None,
  dimension_numbers=None,
  feature_group_count: int = 1,
  precision=None,
) -> jax.Array:
  """`jax.lax.conv_general_dilated`, as products where that is faster.

  Args:
    lhs: images [n,H,W,C] if another form is to be chosen.
    rhs: kernels [k,k,C,O], as Flax has them.
    window_strides: as there, and so are the rest.
    padding: pixels per side.
    lhs_dilation: of the image.
    rhs_dilation: of the kernel.
    dimension_numbers: of both.
    feature_group_count: groups of channels.
    precision: of the products.
  """
  size = rhs.shape[0]
  has_other_form = (
    rhs.shape[:-2] == (size, size)
    and size % 2 == 1
    and min(rhs.shape[2:]) >= _WIDE
    and all(n == 1 for n in window_strides)
    and padding in ("SAME", [(size // 2, size // 2)] * 2)
    and set(lhs_dilation or (1,)) | set(rhs_dilation or (1,)) == {1}
    and feature_group_count == 1
    and precision is None
  )
  if has_other_form:
    return pointwise(lhs, rhs) if size == 1 else same(lhs, rhs)
  return jax.lax.conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation,
    rhs_dilation,
    dimension_numbers,
    feature_group_count,
    precision=precision,
  )


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 1x1 convolution: [n,H,W,C] and [1,1,C,O] -> [n,H,W,O]."""
  flat = _product(x.reshape(-1, x.shape[-1]), kernel[0, 0], (1, 0))
  return flat.reshape(*x.shape[:-1], -1)


def _pointwise_forward(x, kernel):
  return pointwise(x, kernel), (x, kernel)


def _pointwise_backward(residuals, gradient):
  x, kernel = residuals
  flat = gradient.reshape(-1, gradient.shape[-1])
  by_x = _product(flat, kernel[0, 0], (1, 1)).reshape(x.shape)
  by_kernel = _product(x.reshape(-1, x.shape[-1]), flat, (0, 0))
  return by_x, by_kernel[None, None]


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


@jax.custom_vjp
def same(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A convolution that keeps the shape: [n,H,W,C], [k,k,C,O], k odd."""
  # The channels beyond a multiple of `_WIDTH` are computed apart.
  whole_in, whole_out = (n // _WIDTH * _WIDTH for n in kernel.shape[2:])
  return jnp.concatenate(
    [
      sum(
        _same(x[..., inputs], kernel[:, :, inputs, outputs])
        for inputs in _slices(whole_in, kernel.shape[2])
      )
      for outputs in _slices(whole_out, kernel.shape[3])
    ],
    -1,
  )


def _slices(middle: int, end: int) -> list[slice]:
  """[0,middle) and [middle,end), without an empty one."""
  parts = [slice(0, middle), slice(middle, end)]
  return [part for part in parts if part.start < part.stop]


def _same(x, kernel):
  around = kernel.shape[0] // 2
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    [(around, around)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _same_forward(x, kernel):
  return same(x, kernel), (x, kernel)


def _same_backward(residuals, gradient):
  x, kernel = residuals
  by_x = same(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
  # The gradient of each tap of the kernel: one product, over all pixels, of
  # the shifted image and the gradient. One at a time, to save memory.
  size = len(kernel)
  around = size // 2
  padded = jnp.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
  flat = gradient.reshape(-1, gradient.shape[-1])

  def gradient_of_tap(tap):
    start = (0, tap // size, tap % size, 0)
    shifted = jax.lax.dynamic_slice(padded, start, x.shape)
    return _product(shifted.reshape(-1, x.shape[-1]), flat, (0, 0))

  taps = jax.lax.map(gradient_of_tap, jnp.arange(size**2))
  return by_x, taps.reshape(kernel.shape)


same.defvjp(_same_forward, _same_backward)


def _product(a, b, axes: tuple[int, int]) -> jax.Array:
  """Matrix product over one axis of each, summed in float32."""
  dimensions = (((axes[0],), (axes[1],)), ((), ()))
  product = jax.lax.dot_general(
    a, b, dimensions, preferred_element_type=jnp.float32
  )
  return product.astype(a.dtype)
