"""The reference's renderer, step by step: one to three views, and training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule

from genvs_jax.convert import names
from genvs_jax.geometry import camera_paths
from genvs_jax.geometry import cameras
from genvs_jax.geometry import rendering
from genvs_jax.geometry import unit_cube
from genvs_jax.geometry import volume_lookup
from genvs_jax.models import radiance_field

FILES = ("render_v1", "render_v2", "render_v3", "render_train")
FRUSTUM = unit_cube.UnitCube()


class Setup:
  """What one file describes, in this project's conventions."""

  def __init__(self, arrays, form):
    self.arrays = arrays
    self.form = form
    self.counts = rendering.SampleCounts(
      int(arrays["num_steps"]), int(arrays["upsample_steps"])
    )
    features = arrays["features"]
    batch, views, _, height, width = features.shape
    field = radiance_field.RadianceField()
    channels = field.features
    # Channel c * D + k there is [k, c] here.
    volumes = features.reshape(batch, views, channels, -1, height, width)
    self.volumes = jnp.asarray(volumes.transpose(0, 1, 4, 5, 3, 2))
    self.source_poses = camera_paths.flip_axes(arrays["source_poses"])
    target_poses = camera_paths.flip_axes(arrays["target_poses"])
    # A camera whose focal length is camera_k half widths.
    slope = jnp.asarray(arrays["camera_k"])
    one = jnp.ones_like(slope)
    self.source_intrinsics = jnp.stack([slope, slope, one, one], -1)[:, None]
    rows, columns = (int(n) for n in arrays["ray_hw"])
    intrinsics = jnp.broadcast_to(
      arrays["intrinsics"], (*target_poses.shape[:2], 4)
    )
    self.rays = cameras.pixel_rays(
      target_poses, intrinsics, cameras.pixel_centres(rows, columns)
    )
    self.hit = arrays["ray_hit"].astype(bool)
    self.chosen = arrays["ray_idx"]
    near, far = FRUSTUM.ray_bounds(*self.rays, intrinsics)
    self.near, self.far = near, far
    draws = [
      jnp.asarray(arrays[key]) if key in arrays else None
      for key in ("u_jitter", "u_pdf")
    ]
    self.uniforms = rendering.Uniforms(*draws)

    leaves = rule.leaves(
      jax.eval_shape(
        lambda: field.init(
          jax.random.key(0),
          jnp.zeros((1, 1, 1, channels)),
          jnp.ones((1, 1, 1), bool),
        )
      )
    )
    self.sources = names.radiance_field(leaves)
    weights = arrays.starting("w/")
    self.variables = rule.fill(self.sources, weights.__getitem__)
    self.field = field

  def look_up(self, volumes, points):
    """Coordinates [B,V,P,3] and volume features [B,V,P,C] of points [B,P,3]."""
    uvw, seen = FRUSTUM.coordinates(
      points[:, None], self.source_poses, self.source_intrinsics
    )

    def lookup(volume, at):
      return volume_lookup.trilinear_lookup(
        volume, at, FRUSTUM.align_corners, self.form
      )

    return uvw, seen, jax.vmap(jax.vmap(lookup))(volumes, uvw)

  def evaluate(self, volumes, variables, points):
    """Density [B,Q,R,S] and features [B,Q,R,S,F] of points [B,Q,R,S,3]."""
    flat = points.reshape(len(points), -1, 3)
    _, seen, features = self.look_up(volumes, flat)
    density, colours = self.field.apply(variables, features, seen)
    shape = points.shape[:-1]
    return density.reshape(shape), colours.reshape(*shape, -1)

  def render(self, volumes, variables) -> rendering.Render:
    uniforms = self.uniforms
    if uniforms.fine is not None:
      uniforms = uniforms._replace(fine=jnp.sort(uniforms.fine, -1))
    return rendering.render_rays(
      lambda points: self.evaluate(volumes, variables, points),
      *self.rays,
      self.near,
      self.far,
      self.counts,
      uniforms,
    )


@pytest.fixture(
  scope="module",
  params=[
    (name, form)
    for name in ("render_v1", "render_v2", "render_v3", "render_train")
    for form in ("corners", "blocks")
  ],
  ids="-".join,
)
def setup(request, golden) -> Setup:
  name, form = request.param
  return Setup(golden(name), form)


def test_rays_and_their_bounds(setup):
  origins, directions = setup.rays
  setup.arrays.check("rays_o", origins[..., :1, :], "pose")
  setup.arrays.check("rays_d", directions, "ray")
  hit = setup.hit[..., None]
  np.testing.assert_array_equal(setup.far > setup.near, setup.hit)
  setup.arrays.check("near", setup.near[..., None], "ray", hit)
  setup.arrays.check("far", setup.far[..., None], "ray", hit)


def test_every_step_of_the_two_passes(setup):
  arrays, counts = setup.arrays, setup.counts
  hit, chosen = setup.hit[..., None], setup.chosen
  chosen_hit = setup.hit[:, :, chosen, None]
  origins, directions = setup.rays

  def points_at(distances):
    return (
      origins[..., None, :] + distances[..., None] * directions[..., None, :]
    )

  coarse = rendering.coarse_distances(
    setup.near, setup.far, counts.coarse, setup.uniforms.coarse
  )
  points = points_at(coarse)[:, :, chosen]
  arrays.check("coarse_points", points, "ray", chosen_hit[..., None])
  batch, views = setup.volumes.shape[:2]
  flat = points.reshape(batch, -1, 3)
  uvw, _, features = setup.look_up(setup.volumes, flat)
  shape = (batch, views, *points.shape[1:-1])
  per_view = chosen_hit[:, None, ..., None]
  arrays.check("coarse_cam", uvw.reshape(*shape, 3), "coordinates", per_view)
  arrays.check("coarse_feat", features.reshape(*shape, -1), "lookup", per_view)

  coarse_density, coarse_colours = setup.evaluate(
    setup.volumes, setup.variables, points_at(coarse)
  )
  arrays.check("coarse_sigma", coarse_density, "coarse density", hit)
  last = (setup.far - setup.near) / counts.coarse
  weights = rendering.compositing_weights(coarse_density, coarse, last)
  middles = (coarse[..., 1:] + coarse[..., :-1]) / 2
  arrays.check("pdf_bins", middles, "ray", hit)
  arrays.check("pdf_weights", weights[..., 1:-1], "merged density", hit)

  fine = rendering.fine_distances(
    coarse, weights, counts.fine, setup.uniforms.fine
  )
  arrays.check("fine_z", fine, "fine distances", hit)
  distances = jnp.concatenate([coarse, fine], -1)
  order = jnp.argsort(distances, -1)
  distances = jnp.take_along_axis(distances, order, -1)
  arrays.check("all_z", distances, "fine distances", hit)
  fine_density, fine_colours = setup.evaluate(
    setup.volumes, setup.variables, points_at(fine)
  )
  density = jnp.take_along_axis(
    jnp.concatenate([coarse_density, fine_density], -1), order, -1
  )
  arrays.check("all_sigma", density, "merged density", hit)
  colours = jnp.take_along_axis(
    jnp.concatenate([coarse_colours, fine_colours], -2), order[..., None], -2
  )
  arrays.check(
    "all_rgb", colours[:, :, chosen], "merged features", chosen_hit[..., None]
  )
  weights = rendering.compositing_weights(density, distances, last)
  arrays.check("weights", weights, "merged density", hit)


def test_image_depth_and_opacity(setup):
  render = setup.render(setup.volumes, setup.variables)
  setup.arrays.check("image", render.features, "render")
  setup.arrays.check("depth", render.weighted_depth, "render")
  setup.arrays.check("weights_sum", render.opacity, "render")
  missed = ~setup.hit
  np.testing.assert_array_equal(np.asarray(render.features)[missed], 1)
  np.testing.assert_array_equal(np.asarray(render.weighted_depth)[missed], 0)


def test_gradients(setup):
  arrays = setup.arrays
  if "probe_image_full" not in arrays:
    return
  image_probe = arrays["probe_image_full"]
  depth_probe = arrays["probe_depth_full"]

  def probed(volumes, params):
    render = setup.render(volumes, {"params": params})
    return (
      jnp.sum(render.features * image_probe)
      + 0.3 * jnp.sum(render.weighted_depth * depth_probe)
      + 0.7 * jnp.sum(render.opacity * depth_probe)
    )

  by_volumes, by_params = jax.grad(probed, (0, 1))(
    setup.volumes, setup.variables["params"]
  )
  there = np.asarray(by_volumes).transpose(0, 1, 5, 4, 2, 3)
  arrays.check(
    "grad_features", there.reshape(arrays["features"].shape), "render gradient"
  )
  for path, source in setup.sources.items():
    gradient = by_params
    for name in path[1:]:
      gradient = gradient[name]
    arrays.check(
      f"grad/{source.key}",
      source.layout.to_torch(np.asarray(gradient)),
      "render gradient",
    )


def test_z_every_array_was_read(check_all_read):
  check_all_read(FILES)
