"""The controls of the viewer's page, as viser draws them."""

import dataclasses
from typing import Any

from genvs_jax.diffusion import samplers
from genvs_jax.sampling import policies
from genvs_jax.viewer import drawing

SAMPLE, RENDER, DEPTH, OPACITY = "sample", "RGB render", "depth", "opacity"


@dataclasses.dataclass(frozen=True)
class Controls:
  """Handles of what can be set and pressed.

  Attributes:
    status: one line of text.
    scene: number of the scene.
    view: number of its input view.
    upload: takes a picture of the user's.
    elevation: of the camera of that picture, degrees.
    add_view: the drawn view becomes an input view.
    reset: back to the first input view.
    quantity: what is shown: one of the names above.
    is_sampling: whether a sample is drawn at rest.
    has_cameras: whether the input cameras are shown.
    save_picture: downloads what is shown.
    sampler: its name.
    steps: of it.
    guidance: of it.
    seed: of it.
    policy: of a rollout.
    frames: of a rollout.
    roll_out: starts one.
    stop: ends it.
    progress: of it, percent.
    save_film: downloads it as MP4 ...
    save_points: ... and its coloured points as PLY.
  """

  status: Any
  scene: Any
  view: Any
  upload: Any
  elevation: Any
  add_view: Any
  reset: Any
  quantity: Any
  is_sampling: Any
  has_cameras: Any
  save_picture: Any
  sampler: Any
  steps: Any
  guidance: Any
  seed: Any
  policy: Any
  frames: Any
  roll_out: Any
  stop: Any
  progress: Any
  save_film: Any
  save_points: Any

  def settings(self) -> drawing.Settings:
    """As the controls say now."""
    return drawing.Settings(
      self.sampler.value,
      int(self.steps.value),
      float(self.guidance.value),
      self.policy.value,
      int(self.seed.value),
    )


def build_controls(
  gui, settings: drawing.Settings, scenes, elevation: float, has_denoiser: bool
) -> Controls:
  """Puts the controls on a page.

  Args:
    gui: viser's.
    settings: what they say at first.
    scenes: to choose from, see `scenes.Scenes`.
    elevation: of a picture's camera at first, degrees.
    has_denoiser: whether samples can be drawn.
  """
  handles: dict[str, Any] = {"status": gui.add_markdown("starting")}
  with gui.add_folder("Scene"):
    handles |= _scene_controls(gui, scenes, elevation)
  with gui.add_folder("Picture"):
    names = (SAMPLE, RENDER, DEPTH, OPACITY)[not has_denoiser :]
    handles |= {
      "quantity": gui.add_dropdown("Show", names),
      "is_sampling": gui.add_checkbox(
        "Sample at rest", has_denoiser, disabled=not has_denoiser
      ),
      "has_cameras": gui.add_checkbox("Input cameras", True),
      "save_picture": gui.add_button("Download picture", icon="download"),
    }
  with gui.add_folder("Sampler", visible=has_denoiser):
    handles |= _sampler_controls(gui, settings)
  with gui.add_folder("Roll out"):
    handles |= _rollout_controls(gui, settings)
  return Controls(**handles)


def _scene_controls(gui, scenes, elevation: float) -> dict[str, Any]:
  return {
    "scene": gui.add_number(
      "Scene", 0, min=0, max=scenes.number - 1, step=1, hint=scenes.label
    ),
    "view": gui.add_number("Input view", scenes.view, min=0, step=1),
    "upload": gui.add_upload_button(
      "Your picture", mime_type="image/*", icon="upload"
    ),
    "elevation": gui.add_slider(
      "Its elevation",
      min=-90,
      max=90,
      step=1,
      initial_value=elevation,
      hint="Degrees above the horizon from which your picture was taken",
    ),
    "add_view": gui.add_button("Add this view to the inputs", icon="plus"),
    "reset": gui.add_button("Forget added views", icon="arrow-back-up"),
  }


def _sampler_controls(gui, settings: drawing.Settings) -> dict[str, Any]:
  names = tuple(samplers.SOLVERS)
  return {
    "sampler": gui.add_dropdown(
      "Method", names, initial_value=settings.sampler
    ),
    "steps": gui.add_slider(
      "Steps",
      min=1,
      max=max(50, settings.steps),
      step=1,
      initial_value=settings.steps,
    ),
    "guidance": gui.add_number(
      "Guidance",
      settings.guidance,
      min=0.0,
      max=max(10.0, settings.guidance),
      step=0.1,
      hint="1 is none",
    ),
    "seed": gui.add_number("Seed", settings.seed, min=0, step=1),
  }


def _rollout_controls(gui, settings: drawing.Settings) -> dict[str, Any]:
  return {
    "policy": gui.add_dropdown(
      "Conditioned on",
      policies.NAMES,
      initial_value=settings.policy,
      hint="rollout.policy: what a frame sees beside the input views",
    ),
    "frames": gui.add_slider(
      "Frames", min=2, max=120, step=1, initial_value=40
    ),
    "roll_out": gui.add_button("Roll out an orbit", icon="rotate-360"),
    "stop": gui.add_button("Stop", visible=False, icon="player-stop"),
    "progress": gui.add_progress_bar(0.0, visible=False),
    "save_film": gui.add_button(
      "Download film", visible=False, icon="download"
    ),
    "save_points": gui.add_button(
      "Download points (PLY)", visible=False, icon="download"
    ),
  }
