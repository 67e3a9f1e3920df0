"""The recipes that `ablations` trains and scores.

Each is `configs/demo.py` with some fields set: what the demo was, with one way
to condition the denoiser more, and what it is, with one less or one more.
"""

from typing import Any
from typing import NamedTuple

from benchmarks import held_out_cameras


class Row(NamedTuple):
  """A recipe that is trained and scored.

  Attributes:
    what: it is, for the table.
    fields: what differs from `configs/demo.py`.
    checkpoint_of: the row whose checkpoint it draws with, if it trains none.
    held_out: whether it is scored on `held_out_cameras`, not on the demo's.
  """

  what: str
  fields: dict[str, Any]
  checkpoint_of: str = ""
  held_out: bool = False


# The demo as it was: features beside the noisy image, trained jointly, at the
# reference's noise.
_BEFORE: dict[str, Any] = {
  "train.render_steps": 0,
  "train.target_views": 1,
  "model.encoder.image_skip": False,
  "diffusion.target": "image",
  "diffusion.sigma_data": 0.5,
  "diffusion.units": "image",
  "diffusion.log_mean": 1.0,
  "diffusion.log_std": 1.4,
  "model.denoiser.geometry": (),
  "objective.conditioning_dropout": 0.1,
  "optimizer.denoiser_rate": 1e-3,
  "optimizer.schedule": "constant",
  "sampler.steps": 8,
  "sampler.name": "euler",
  "sampler.churn": 0.4,
  "sampler.sigma_max": 80.0,
  "rollout.noise": "own",
}
_RESIDUAL: dict[str, Any] = {
  "diffusion.target": "residual",
  "diffusion.units": "sigma_data",
  "diffusion.sigma_data": 0.2,
  "diffusion.log_mean": 0.5,
  "diffusion.log_std": 1.2,
  "sampler.sigma_max": 20.0,
}
_TURNED: dict[str, Any] = {
  "augment.roll": held_out_cameras.ROLL,
  "augment.focal": 0.15,
  "augment.scale": 0.1,
}
_NOISE_TOLD: dict[str, Any] = {
  "model.encoder.noise_told": True,
  "rollout.policy": "nearest",
  "rollout.drawn_noise": 0.25,
}
_STAGES: dict[str, Any] = {
  "train.render_steps": 1,
  "optimizer.schedule": "cosine",
}

ROWS = {
  "before": Row("as it was", _BEFORE),
  "stages": Row("+ a stage for the renderer", _BEFORE | _STAGES),
  "residual": Row("+ residual", _BEFORE | _RESIDUAL),
  "geometry": Row(
    "+ rays, depth, opacity",
    _BEFORE | {"model.denoiser.geometry": ("directions", "depth", "opacity")},
  ),
  "image_skip": Row(
    "+ images added to their volumes",
    _BEFORE | {"model.encoder.image_skip": True},
  ),
  "cross_views": Row(
    "+ attention to the input views",
    _BEFORE | {"model.denoiser.cross_views": True},
  ),
  "stopped": Row(
    "+ features without gradient", _BEFORE | {"objective.feature_gradient": 0.0}
  ),
  "damped": Row(
    "+ a tenth of the features' gradient",
    _BEFORE | {"objective.feature_gradient": 0.1},
  ),
  "only_features": Row(
    "+ gradient to the features, not to RGB and density",
    _BEFORE | {"objective.gradient_reaches": "features"},
  ),
  "scaled": Row(
    "+ features centred and scaled",
    _BEFORE | {"diffusion.feature_mean": 0.5, "diffusion.feature_std": 0.25},
  ),
  "low_noise": Row(
    "+ N(-0.6, 1.2)",
    _BEFORE | {"diffusion.log_mean": -0.6, "diffusion.log_std": 1.2},
  ),
  "rate": Row(
    "+ rate 3e-3, cosine",
    _BEFORE | {"optimizer.denoiser_rate": 3e-3, "optimizer.schedule": "cosine"},
  ),
  "noise_told": Row("+ noise told", _BEFORE | _NOISE_TOLD),
  "reference": Row(
    "the reference's recipe: its sampler, its enlarging, its null features",
    _BEFORE
    | {
      "rendering.upsampling": "nearest",
      "diffusion.null_noise": "uniform",
      "sampler.steps": 250,
      "rollout.policy": "reference",
    },
  ),
  "demo": Row("the demo", {}),
  "demo_image": Row(
    "- residual",
    {
      "diffusion.target": "image",
      "diffusion.log_mean": -0.6,
      "diffusion.units": "image",
    },
  ),
  "demo_no_geometry": Row(
    "- rays, depth, opacity", {"model.denoiser.geometry": ()}
  ),
  "demo_not_scaled": Row(
    "- features centred and scaled",
    {
      "diffusion.sigma_data": 0.1,
      "diffusion.feature_mean": 0.0,
      "diffusion.feature_std": 1.0,
    },
  ),
  "demo_no_stages": Row(
    "- a stage for the renderer",
    {
      "train.render_steps": 0,
      "diffusion.sigma_data": 0.1,
      "diffusion.feature_mean": 0.9,
      "diffusion.feature_std": 0.22,
      "objective.feature_gradient": 0.0,
    },
  ),
  "demo_no_image_skip": Row(
    "- images added to their volumes", {"model.encoder.image_skip": False}
  ),
  "demo_cross_views": Row(
    "+ attention to the input views", {"model.denoiser.cross_views": True}
  ),
  "demo_clean_inputs": Row(
    "- noise on the input views", {"objective.input_noise_probability": 0.0}
  ),
  "demo_lpips_vgg": Row(
    "+ LPIPS (VGG) of the estimate, trained with",
    {"objective.perceptual": 3.0, "objective.perceptual_metric": "lpips_vgg"},
  ),
  "demo_lpips_alex": Row(
    "+ LPIPS (Alex) of the estimate, trained with",
    {"objective.perceptual": 3.0},
  ),
  "demo_euler": Row(
    "Euler's sampler, churn 0.41",
    {"sampler.name": "euler", "sampler.churn": 0.41},
    "demo",
  ),
  "demo_own_noise": Row(
    "each frame with noise of its own", {"rollout.noise": "own"}, "demo"
  ),
  "demo_screen_noise": Row(
    "noise that stands still on the screen", {"rollout.noise": "screen"}, "demo"
  ),
  "demo_nearest": Row(
    "rollouts from drawn views too", {"rollout.policy": "nearest"}, "demo"
  ),
  "demo_noise_told": Row("those, and noise told", _NOISE_TOLD),
  "demo_long_ema": Row(
    "average of 8 times the half-life", {"train.ema_half_life": 8_000}
  ),
  "demo_raw": Row("no average", {"sampler.params": "raw"}, "demo"),
  "demo_autoguidance": Row(
    "+ autoguidance 1.5 by an early checkpoint",
    {"sampler.guidance": 1.5, "sampler.guide": "EARLY"},
    "demo",
  ),
  "demo_mirrored": Row("+ mirrored scenes", {"augment.mirror": 0.5}),
  "demo_turned": Row("+ roll 30, focal 0.15, scale 0.1", _TURNED),
  "held_out": Row("the demo, held-out cameras", {}, "demo", True),
  "held_out_turned": Row(
    "+ roll 30, focal 0.15, scale 0.1", {}, "demo_turned", True
  ),
}
