"""Tensors of a recognised checkpoint -> variables, with nothing left over."""

import collections
import functools
import re
from typing import Any
from typing import NamedTuple

import jax
import numpy as np

from genvs_jax.checkpointing import warm_start
from genvs_jax.convert import layouts
from genvs_jax.convert import names
from genvs_jax.convert import recognize
from genvs_jax.convert import torch_file
from genvs_jax.models import builders
from genvs_jax.models import pipeline

Tensors = torch_file.Tensors

# What may stay unread, and why.
_EXPLAINED = (
  (
    r"ddpm_pipeline\.model\..*",
    "second names of the denoiser's tensors, compared and equal",
  ),
  (r".*num_batches_tracked", "counters that norms with a momentum do not use"),
  (r".*u_net\..*\.kernel", "the resampling filter [1,3,3,1], compared"),
  (r".*resample_filter", "the resampling filter [1,1], compared"),
  (r"nerf\.aabb_(train|infer)", "the cube [-1,1]^3, compared"),
)
_CLASSIFIER = (r"(.*\.)?fc\.(weight|bias)", "ImageNet's classifier")
_ALIAS, _ORIGINAL = "ddpm_pipeline.model.", "ddpm_pipeline."


class Use(NamedTuple):
  """Where a tensor went."""

  part: str
  path: names.Path
  layout: layouts.Layout
  size: int


class Filled(NamedTuple):
  """Variables from tensors.

  Attributes:
    variables: as in `pipeline`, NumPy leaves; what the file does not hold is
      missing.
    uses: where each tensor went, by key.
    explained: {reason: number of tensors left unread}.
    widened: keys whose input was widened by zeros for the features.
    fresh: parts that lack some or all of their leaves.
  """

  variables: dict[str, Any]
  uses: dict[str, Use]
  explained: dict[str, int]
  widened: list[str]
  fresh: list[str]


def fill(
  model: pipeline.Model,
  parts: tuple[str, ...],
  tensors: Tensors,
  identity: recognize.Identity,
  path: str,
) -> Filled:
  """Fills every leaf of the parts that the file holds.

  Args:
    model: that the file is taken for.
    parts: that a state of it has.
    tensors: of the file.
    identity: what they were recognised as.
    path: of the file, for messages.

  Raises:
    ConvertError: with the list of all missing, misshapen and unknown tensors.
  """
  try:
    shapes = leaf_shapes(model, parts)
  except (TypeError, ValueError, ZeroDivisionError) as error:
    raise torch_file.ConvertError(
      f"{path} has tensors whose shapes describe no model that can be built"
      f" ({error})"
    ) from error
  variables: dict[str, Any] = {}
  uses: dict[str, Use] = {}
  problems: list[str] = []
  widened: list[str] = []
  filled: collections.Counter[str] = collections.Counter()
  for part, prefix in identity.prefixes.items():
    if part not in shapes:
      problems.append(f"the config has no place for its {part}")
      continue
    for leaf, source in _sources(
      shapes[part], identity.kind, part, model
    ).items():
      key = prefix + source.key
      tensor = tensors.get(key)
      if tensor is None:
        problems.append(f"{key} is missing")
        continue
      shape = shapes[part][leaf]
      expected = source.layout.to_torch(np.broadcast_to(False, shape)).shape
      lacks_features = (
        len(tensor.shape) == len(expected)
        and tensor.dtype == np.float32
        and warm_start.lacks_features(
          "/".join(leaf), source.layout.to_flax(tensor).shape, shape
        )
      )
      if lacks_features:
        widened.append(key)
        wide = warm_start.widen(source.layout.to_flax(tensor), shape[2])
        tensor = source.layout.to_torch(wide)
      if tensor.shape != expected or tensor.dtype != np.float32:
        problems.append(
          f"{key} is {tensor.dtype} {list(tensor.shape)}, expected float32"
          f" {list(expected)}"
        )
        continue
      value = source.layout.to_flax(tensor)
      put(variables, (part, *leaf), value)
      uses[key] = Use(part, leaf, source.layout, value.size)
      filled[part] += 1
  explanations: tuple[tuple[str, str], ...] = _EXPLAINED
  if identity.kind == "resnet34":
    explanations += (_CLASSIFIER,)
  explained, unknown = _explain(tensors, set(uses), explanations, problems)
  problems += [f"{key} belongs to no leaf" for key in unknown]
  if problems:
    listed = "\n  ".join(problems[:20])
    more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
    raise torch_file.ConvertError(
      f"{path} does not fit {identity.kind}; nothing was written:"
      f"\n  {listed}{more}"
    )
  fresh = [part for part in shapes if filled[part] < len(shapes[part])]
  return Filled(variables, uses, explained, widened, fresh)


@functools.lru_cache(maxsize=4)
def leaf_shapes(
  model: pipeline.Model, parts: tuple[str, ...] = pipeline.PARTS
) -> dict[str, names.Leaves]:
  """{part: {path: shape}} of a model's variables."""
  abstract = jax.eval_shape(
    lambda: builders.init_variables(model, jax.random.key(0), parts)
  )
  shapes: dict[str, names.Leaves] = {}
  for part, tree in abstract.items():
    flat, _ = jax.tree.flatten_with_path(tree)
    shapes[part] = {tuple(k.key for k in at): x.shape for at, x in flat}
  return shapes


def _sources(
  leaves: names.Leaves, kind: str, part: str, model: pipeline.Model
) -> dict[names.Path, names.Source]:
  channels = model.encoder.channels
  if kind == "resnet34":
    trunk = {
      (path[0], *path[2:]): shape
      for path, shape in leaves.items()
      if path[1] == "trunk"
    }
    return {
      (path[0], "trunk", *path[1:]): source
      for path, source in names.resnet34(trunk).items()
    }
  if part == "encoder":
    encoders = {"main": names.resnet_unet, "dlv3": names.deeplabv3plus}
    return encoders[kind](leaves, channels)
  if part == "field":
    return names.radiance_field(leaves)
  return names.ddpmpp(leaves) if kind == "ddpmpp" else names.image_v1(leaves)


def _explain(
  tensors: Tensors,
  filled_keys: set[str],
  explanations: tuple[tuple[str, str], ...],
  problems: list[str],
) -> tuple[dict[str, int], list[str]]:
  """Reasons for unread tensors with their counts, and those without one.

  Constants and second names are compared; those that differ are problems.
  """
  explained: dict[str, int] = {}
  unknown = []
  for key in sorted(set(tensors) - filled_keys):
    reasons = [why for what, why in explanations if re.fullmatch(what, key)]
    if not reasons:
      unknown.append(key)
      continue
    explained[reasons[0]] = explained.get(reasons[0], 0) + 1
    expected = _expected(key, tensors)
    if expected is not None and not (
      tensors[key].shape == expected.shape
      and np.allclose(tensors[key], expected, atol=1e-6)
    ):
      problems.append(f"{key} is not what it is taken for: {reasons[0]}")
  return explained, unknown


def _expected(key: str, tensors: Tensors) -> np.ndarray | None:
  """What an unread tensor must hold, None if that does not matter."""
  value = tensors[key]
  if key.startswith(_ALIAS):
    unmatched = np.zeros((0,) * (value.ndim + 1))  # of a shape that never fits
    return tensors.get(_ORIGINAL + key.removeprefix(_ALIAS), unmatched)
  if key.endswith(".kernel"):
    gain = 8 if ".d_blocks." in key else 4
    taps = np.array([1, 3, 3, 1]) / gain
    return np.outer(taps, taps)
  if key.endswith("resample_filter"):
    return np.full((1, 1, 2, 2), 0.25)
  if key.startswith("nerf.aabb"):
    return np.array([-1, -1, -1, 1, 1, 1])
  return None


def put(tree: dict, path: names.Path, value: np.ndarray) -> None:
  """Sets a leaf of nested dicts, making those on the way."""
  for name in path[:-1]:
    tree = tree.setdefault(name, {})
  tree[path[-1]] = value
