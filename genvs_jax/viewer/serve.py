"""`--mode=view`: the page of a checkpoint, until Ctrl-C."""

import contextlib
import importlib.util
import io
import threading
from typing import Any

import ml_collections
from absl import logging

from genvs_jax.models import pipeline
from genvs_jax.sampling import scene_inputs
from genvs_jax.viewer import drawing
from genvs_jax.viewer import page
from genvs_jax.viewer import scenes

LOCAL = ("localhost", "127.0.0.1", "::1")


def check() -> None:
  """Raises ValueError if viser is not installed."""
  if importlib.util.find_spec("viser") is None:
    raise ValueError(
      "--mode=view needs viser: pip install 'viser>=1.1' (or '.[view]')"
    )


def open_page(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  variables: pipeline.Variables,
  workdir: str,
  images: str,
  host: str,
  port: int,
) -> tuple[page.Page, Any]:
  """Starts the page.

  Args:
    config: of the checkpoint, with its overrides.
    model: the model.
    variables: of the model, on all devices.
    workdir: where a data_dir of WORKDIR lies.
    images: folder or picture to start from instead of a scene.
    host: to listen on.
    port: to listen on; the next free one if it is taken.

  Returns:
    the page, and viser's server that it is on.

  Raises:
    ValueError: if there is nothing to draw.
  """
  import viser  # noqa: PLC0415  (an optional extra, see `check`)

  scene = drawing.build_drawing(config, model, variables)
  inputs = None
  if images:
    views = scene_inputs.load_photos(config, model, images)
    inputs = {key: value[0] for key, value in views.items()}
    if len(views["images"]) > 1:
      logging.warning(
        "%s has %d scenes, of which the page shows the first",
        images,
        len(views["images"]),
      )
  choice = scenes.build_scenes(config, model, workdir)
  with contextlib.redirect_stdout(io.StringIO()):  # its banner
    server = viser.ViserServer("127.0.0.1" if host in LOCAL else host, port)
  server.gui.configure_theme(show_logo=False, show_share_button=False)
  server.gui.main_panel.dock_right()
  return (
    page.Page(
      server,
      scene,
      choice,
      lambda content, elevation: scenes.from_upload(
        content, config, model.image_size, elevation
      ),
      drawing.settings_of(config),
      config.photos.elevation,
      inputs,
    ),
    server,
  )


def run(opened: page.Page, server: Any, host: str) -> None:
  """Runs a page of `open_page` until Ctrl-C.

  Args:
    opened: the page.
    server: that it is on.
    host: that it listens on.
  """
  name = "localhost" if host in LOCAL else host
  if host not in LOCAL:
    logging.warning("the page is open to everyone who reaches %s", host)
  print(f"\nview it at   http://{name}:{server.get_port()} (Ctrl-C ends it)")
  try:
    threading.Event().wait()
  except KeyboardInterrupt:
    pass
  finally:
    opened.stop()
    server.stop()
