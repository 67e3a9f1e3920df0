"""The replayable rule behind golden weights and images, and torch layouts."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.convert import names


def hash_uniform(key: str, count: int, salt: int) -> np.ndarray:
  """`count` values in [-1,1), float64, a function of key and salt."""
  with np.errstate(over="ignore"):
    seed = np.uint32((zlib.crc32(key.encode("ascii")) + salt) % 2**32)
    h = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + seed
    h ^= h >> np.uint32(16)
    h *= np.uint32(2246822519)
    h ^= h >> np.uint32(13)
    h *= np.uint32(3266489917)
    h ^= h >> np.uint32(16)
  return h.astype(np.float64) / 2**31 - 1


def weight(key: str, shape: tuple, salt: int, gain: float) -> np.ndarray:
  """The rule's value of the checkpoint entry `key`."""
  u = hash_uniform(key, int(np.prod(shape)), salt).reshape(shape)
  leaf = key.rsplit(".", 1)[-1]
  if leaf == "num_batches_tracked":
    return np.zeros(shape, np.int64)
  if leaf == "running_var":
    value = 1 + 0.5 * u
  elif leaf == "running_mean":
    value = 0.2 * u
  elif leaf == "weight" and len(shape) == 1:
    value = 1 + 0.2 * u
  elif leaf == "bias":
    value = 0.05 * u
  else:
    value = gain * np.sqrt(3 / np.prod(shape[1:])) * u
  return value.astype(np.float32)


def image(name: str, shape, salt: int, low: float, high: float) -> np.ndarray:
  """The rule's picture [n,c,H,W] in [low,high]."""
  *lead, height, width = shape
  grid = (*lead, -(-height // 8), -(-width // 8))
  blocks = hash_uniform(f"{name}/blocks", int(np.prod(grid)), salt)
  blocks = blocks.reshape(grid).repeat(8, -2).repeat(8, -1)
  noise = hash_uniform(f"{name}/noise", int(np.prod(shape)), salt)
  x = 0.8 * blocks[..., :height, :width] + 0.2 * noise.reshape(shape)
  return (low + (x + 1) / 2 * (high - low)).astype(np.float32)


def leaves(variables) -> names.Leaves:
  """{path: shape} of a network's variables."""
  flat, _ = jax.tree.flatten_with_path(variables)
  return {tuple(k.key for k in path): x.shape for path, x in flat}


def fill(sources: dict[names.Path, names.Source], tensor) -> dict:
  """Variables whose leaves come from `tensor(key)`, in torch's layout."""
  variables: dict = {}
  for path, source in sources.items():
    node = variables
    for name in path[:-1]:
      node = node.setdefault(name, {})
    node[path[-1]] = jnp.asarray(source.layout.to_flax(tensor(source.key)))
  return variables


def fill_by_rule(
  sources: dict[names.Path, names.Source],
  shapes: names.Leaves,
  prefix: str,
  salt: int,
  gain: float,
) -> tuple[dict, dict[str, np.ndarray]]:
  """Variables by the rule, and the tensors behind them by key."""
  torch_shapes = {
    source.key: source.layout.to_torch(np.empty(shapes[path])).shape
    for path, source in sources.items()
  }
  tensors = {
    key: weight(prefix + key, shape, salt, gain)
    for key, shape in torch_shapes.items()
  }
  return fill(sources, tensors.__getitem__), tensors


def nhwc(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(x, 1, -1)


def nchw(x) -> np.ndarray:
  return np.moveaxis(np.asarray(x), -1, 1)


class Spy:
  """Records the inputs and outputs of every submodule by its path."""

  def __init__(self):
    self.inputs, self.outputs = {}, {}

  def __call__(self, next_fun, args, kwargs, context):
    result = next_fun(*args, **kwargs)
    if context.method_name == "__call__":
      path = "/".join(context.module.path)
      self.inputs[path], self.outputs[path] = args, result
    return result
