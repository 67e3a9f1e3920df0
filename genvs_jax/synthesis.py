"""Drawing views of scenes: the compiled part of sampling and evaluation.

`build_synthesize` gives one jitted function for everything that draws: sheets
during training, the score table, and turntables.
"""

from collections.abc import Callable
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from genvs_jax import camera_paths
from genvs_jax import data
from genvs_jax import images as image_ops
from genvs_jax import pictures
from genvs_jax import pipeline
from genvs_jax import samplers


class Views(NamedTuple):
  """Drawn views; all in [0,1] but depth, which is in world units.

  Attributes:
    sample: [B,Q,H,W,3] the denoiser's picture; None from `build_render`.
    rgb: [B,Q,H,W,3] first three channels of the feature render, enlarged.
    depth: [B,Q,H,W] sum of weight times distance, enlarged.
    opacity: [B,Q,H,W], enlarged.
  """

  sample: jax.Array | None
  rgb: jax.Array
  depth: jax.Array
  opacity: jax.Array


def build_synthesize(config, model: pipeline.Model) -> Callable[..., Views]:
  """The jitted (variables, batch, poses, keys) -> Views.

  `batch` holds the input views: images u8 [B,V,H,W,3], poses [B,V,4,4] and
  intrinsics [B,4]; `poses` [B,Q,4,4] are the views to draw, and `keys` [B,Q]
  their randomness, so that a view looks the same in any batch.

  Args:
    config: the sampler is read from it.
    model: the model.
  """
  draw = _build_sampler(config, model)

  def synthesize(variables, batch, poses, keys) -> Views:
    features, views = render_views(model, variables, batch, poses)
    flat = features.reshape(-1, *features.shape[2:])
    drawn = draw(variables, flat, keys.reshape(-1))
    drawn = drawn.reshape(*poses.shape[:2], *drawn.shape[1:])
    return views._replace(sample=drawn)

  return jax.jit(synthesize)


def build_unconditional(config, model: pipeline.Model) -> Callable:
  """The jitted (variables, keys [n]) -> pictures [n,H,W,3] of any objects."""
  draw = _build_sampler(config, model)
  shape = (model.image_size, model.image_size, model.denoiser_features)

  def synthesize(variables, keys) -> jax.Array:
    # Sampling folds 0, 1, .. into the keys; this number is never reached.
    apart = jax.vmap(jax.random.fold_in, (0, None))(keys, 2**31 - 1)
    nothing = pipeline.unconditional_features(model, apart, (len(keys), *shape))
    return draw(variables, nothing, keys)

  return jax.jit(synthesize)


def _build_sampler(config, model: pipeline.Model) -> Callable:
  """(variables, features [n,H,W,F], keys [n]) -> pictures [n,H,W,3]."""
  if config.sampler.name not in samplers.SAMPLERS:
    raise ValueError(
      f"sampler.name is {config.sampler.name!r}, expected one of"
      f" {', '.join(sorted(samplers.SAMPLERS))}"
    )
  sampler = samplers.SAMPLERS[config.sampler.name]
  sigmas = samplers.build_sigmas(config)
  churn = samplers.build_churn(config)
  size = model.image_size

  def draw(variables, features, keys) -> jax.Array:
    blank = jnp.zeros((len(features), size, size, 3))

    def normal(count):
      drawn = jax.vmap(jax.random.fold_in, (0, None))(keys, count)
      return samplers.normal_like(drawn, blank)

    def denoise(x, sigma, step):
      del step
      levels = jnp.full((len(x),), sigma)
      return pipeline.denoise(model, variables, x, levels, features)

    drawn = sampler(
      denoise, normal(0), sigmas, lambda step: normal(step + 1), churn
    )
    return image_ops.to_unit(drawn, model.image_range)

  return draw


def build_render(model: pipeline.Model) -> Callable[..., Views]:
  """The jitted (variables, batch, poses) -> Views without samples."""
  return jax.jit(
    lambda variables, batch, poses: render_views(
      model, variables, batch, poses
    )[1]
  )


def build_draw(config, model: pipeline.Model, parts) -> Callable[..., Views]:
  """`build_synthesize`, or renders alone if `parts` has no denoiser."""
  if "denoiser" in parts:
    return build_synthesize(config, model)
  render = build_render(model)
  return lambda variables, batch, poses, keys: render(variables, batch, poses)


def encode_views(
  model: pipeline.Model, variables: pipeline.Variables, batch: dict
) -> pipeline.InputViews:
  """Encodes clean input views, all of them in use."""
  pictures_in = image_ops.from_uint8(batch["images"], model.image_range)
  volumes, _ = pipeline.encode(model, variables, pictures_in)
  return pipeline.InputViews(
    volumes=volumes,
    poses=batch["poses"],
    intrinsics=batch["intrinsics"],
    mask=jnp.ones(volumes.shape[:2], bool),
  )


def view_keys(seed: int, scenes: np.ndarray, frames: np.ndarray) -> jax.Array:
  """Keys [B,Q]: fold_in(fold_in(root, scene), frame)."""
  root = jax.random.key(seed)

  def key(scene, frame):
    return jax.random.fold_in(jax.random.fold_in(root, scene), frame)

  per_scene = jax.vmap(key, (None, 0))
  return jax.vmap(per_scene, (0, None))(
    jnp.asarray(scenes, jnp.uint32), jnp.asarray(frames, jnp.uint32)
  )


def rollout(
  synthesize: Callable[..., Views],
  variables: pipeline.Variables,
  batch: dict[str, np.ndarray],
  poses: jax.Array,
  seed: int,
) -> Iterator[Views]:
  """Draws a path frame by frame from the same input views.

  Args:
    synthesize: from `build_synthesize`.
    variables: of the model.
    batch: input views with B = 1, and `scene` [1].
    poses: [frames,4,4].
    seed: of the sampling noise.

  Yields:
    one `Views` with B = Q = 1 per pose, as NumPy arrays.
  """
  inputs = {k: batch[k] for k in ("images", "poses", "intrinsics")}
  keys = view_keys(seed, batch["scene"], np.arange(len(poses)))
  for i in range(len(poses)):
    views = synthesize(
      variables, inputs, poses[i][None, None], keys[:, i : i + 1]
    )
    yield jax.tree.map(np.asarray, views)


def sample_turntable(
  config, model, variables, workdir: str
) -> dict[str, epath.Path]:
  """Draws a turntable of one scene and writes a film, a GIF and a sheet.

  Args:
    config: sampler, sample and data are read from it.
    model: the model.
    variables: of the model.
    workdir: pictures go to `workdir/samples`.

  Returns:
    the files by kind: mp4, gif and sheet; a sheet of any objects alone if the
    model has no encoder.
  """
  if "encoder" not in variables:
    return {"sheet": _sample_unconditional(config, model, variables, workdir)}
  options = config.sample
  records = data.load_split(config, workdir, options.split)
  if not 0 <= options.scene < len(records):
    raise ValueError(
      f"sample.scene is {options.scene}, expected 0 to {len(records) - 1} (the"
      f" scenes of split {options.split})"
    )
  record = records[options.scene]
  views = len(record["poses"])
  if not 0 <= options.input_view < views:
    raise ValueError(
      f"sample.input_view is {options.input_view}, expected 0 to {views - 1}"
    )
  decoded = data.decode_views(
    record, [options.input_view], model.image_size, config.model.resize
  )
  batch = {k: v[None] for k, v in decoded.items()}
  batch["scene"] = np.array([options.scene])
  distance = float(np.linalg.norm(decoded["poses"][0, :3, 3]))
  poses = camera_paths.orbit(options.frames, options.elevation, distance)
  frames = []
  synthesize = build_draw(config, model, variables)
  for frame in rollout(synthesize, variables, batch, poses, config.seed):
    frames.append(jax.tree.map(lambda x: x[0, 0], frame))
    logging.log_every_n_seconds(
      logging.INFO, "drew %d of %d frames", 10, len(frames), options.frames
    )
  folder = epath.Path(workdir) / "samples"
  name = f"{options.split}_{options.scene:04d}"
  drawn = [f.rgb if f.sample is None else f.sample for f in frames]
  samples = [pictures.to_uint8(picture) for picture in drawn]
  files = {
    "mp4": folder / f"{name}.mp4",
    "gif": folder / f"{name}.gif",
    "sheet": folder / f"{name}.png",
  }
  pictures.save_mp4(files["mp4"], samples, options.fps)
  pictures.save_gif(files["gif"], samples, options.fps)
  chosen = _evenly(len(frames), 8)
  shown = [frames[i] for i in chosen]
  near, far = distance - 0.5, distance + 0.5
  # A model without a denoiser has renders alone, and films those.
  row_of_samples = (
    [("samples", [samples[i] for i in chosen])]
    if "denoiser" in variables
    else []
  )
  pictures.save_png(
    files["sheet"],
    pictures.sheet(
      [
        ("input", [decoded["images"][0]]),
        *row_of_samples,
        ("RGB render", [pictures.to_uint8(f.rgb) for f in shown]),
        ("depth", [_depth_picture(f, near, far) for f in shown]),
        ("opacity", [pictures.to_uint8(f.opacity) for f in shown]),
      ]
    ),
  )
  return files


def unconditional_sheet(pictures_drawn) -> np.ndarray:
  """One row of pictures [n,H,W,3]."""
  row = [pictures.to_uint8(p) for p in np.asarray(pictures_drawn)]
  return pictures.sheet([("unconditional", row)])


def _sample_unconditional(config, model, variables, workdir) -> epath.Path:
  """Draws eight pictures of any objects; returns the sheet's path."""
  keys = jax.random.split(jax.random.key(config.seed), 8)
  drawn = build_unconditional(config, model)(variables, keys)
  path = epath.Path(workdir) / "samples" / "unconditional.png"
  pictures.save_png(path, unconditional_sheet(drawn))
  return path


def training_sheet(
  batch: dict[str, np.ndarray], views: Views, near: float, far: float
) -> np.ndarray:
  """A row per scene: inputs, target, render, depth, opacity, sample.

  Args:
    batch: images u8 [B,V+1,H,W,3], the target last.
    views: what was drawn for the target, Q = 1.
    near: depth shown black.
    far: depth shown white.
  """
  rows = []
  for i, images in enumerate(batch["images"]):
    view = jax.tree.map(lambda x, i=i: np.asarray(x)[i, 0], views)
    rows.append(
      (
        f"scene {int(batch['scene'][i])}",
        [
          *images,
          pictures.to_uint8(view.rgb),
          _depth_picture(view, near, far),
          pictures.to_uint8(view.opacity),
          *([] if view.sample is None else [pictures.to_uint8(view.sample)]),
        ],
      )
    )
  return pictures.sheet(rows)


def render_views(model, variables, batch, poses) -> tuple[jax.Array, Views]:
  """Feature images [B,Q,H,W,F] at the image's size, and views without
  samples."""
  inputs = encode_views(model, variables, batch)
  render = pipeline.render_features(model, variables, inputs, poses)
  features, depth, opacity = (
    pipeline.resize_features(model, x)
    for x in (
      render.features,
      render.depth[..., None],
      render.opacity[..., None],
    )
  )
  views = Views(
    sample=None,
    rgb=image_ops.to_unit(features[..., :3], model.image_range),
    depth=depth[..., 0],
    opacity=opacity[..., 0],
  )
  return features, views


def _depth_picture(view: Views, near: float, far: float) -> np.ndarray:
  return pictures.to_uint8(
    pictures.depth_to_unit(view.depth, view.opacity, near, far)
  )


def _evenly(count: int, wanted: int) -> list[int]:
  return sorted({round(i) for i in np.linspace(0, count - 1, wanted)})
