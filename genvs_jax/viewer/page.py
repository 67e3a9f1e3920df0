"""`--mode=view`: the page, its callbacks, and what is drawn for each browser.

Controls are shared by all browsers, cameras are each one's own. Everything is
drawn by one `Worker`; callbacks hand it work and return at once.
"""

import math
import time
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import numpy as np

from genvs_jax.geometry import camera_paths
from genvs_jax.images import encoding
from genvs_jax.images import grids
from genvs_jax.sampling import exports
from genvs_jax.sampling import rollout_files
from genvs_jax.sampling import view_grids
from genvs_jax.sampling import view_synthesis
from genvs_jax.viewer import canvas
from genvs_jax.viewer import controls as page_controls
from genvs_jax.viewer import drawing
from genvs_jax.viewer import scenes as view_scenes
from genvs_jax.viewer import worker

_FPS = 12
_NEAR_CAMERA = 0.5  # of its distance: closer input cameras are not shown
_FLUENT_SECONDS = 0.08  # a render that takes longer is drawn smaller on the way
_ICON = (66, 99, 235)


class Camera(NamedTuple):
  """Of a browser.

  Attributes:
    pose: f32 [4,4] camera-to-world.
    aspect: width over height of its canvas.
  """

  pose: np.ndarray
  aspect: float


class Picture(NamedTuple):
  """What a browser shows, at full size.

  Attributes:
    image: u8 [H,W,3].
    pose: f32 [4,4] camera-to-world.
    quantity: what of the view it is, as the control calls it.
  """

  image: np.ndarray
  pose: np.ndarray
  quantity: str


class Page:
  """A page for any number of browsers.

  Args:
    server: viser's.
    scene: draws the views.
    scenes: to choose from.
    read_upload: (bytes, elevation) -> input views.
    settings: of the controls at first.
    elevation: of a picture's camera at first, degrees.
    inputs: to begin with; by default the first scene.
  """

  def __init__(
    self,
    server: Any,
    scene: drawing.SceneDrawing,
    scenes: view_scenes.Scenes,
    read_upload: Callable[[bytes, float], dict[str, np.ndarray]],
    settings: drawing.Settings,
    elevation: float,
    inputs: dict[str, np.ndarray] | None = None,
  ):
    self._server, self._scene, self._scenes = server, scene, scenes
    self._read_upload = read_upload
    self._first_inputs = inputs or scenes.load(0, scenes.view)
    # Whether renders are smaller while a camera moves; see `_warm_up`.
    self._moves_small = True
    self._pictures: dict[int, Picture] = {}
    self._cameras: dict[int, list] = {}  # frusta by browser
    self._film: rollout_files.DrawnScene | None = None
    self.controls = page_controls.build_controls(
      server.gui, settings, scenes, elevation, scene.has_denoiser
    )
    self.worker = worker.Worker(
      self._draw_moving, self._draw_at_rest, self._show_error
    )
    server.gui.set_panel_label("genvs_jax")
    server.scene.set_up_direction("+z")
    self.worker.post(None, lambda: self._start_from(self._first_inputs))
    self.worker.post(None, self._warm_up)
    self._listen()

  def stop(self) -> None:
    """Ends drawing; the server is the caller's."""
    self.worker.stop()

  # What the worker does.

  def _start_from(self, inputs: dict[str, np.ndarray]) -> None:
    """A new scene: cameras go to a side of its input view."""
    # What is shown and what is rolled out are of the scene before.
    self.worker.start(None, None)
    self._pictures.clear()
    self._first_inputs = inputs
    self._scene.set_inputs(inputs)
    fov = canvas.vertical_fov(inputs)
    position = canvas.turned(inputs["poses"][0][:3, 3])
    first = self._server.initial_camera
    first.position, first.look_at, first.up = position, np.zeros(3), (0, 0, 1)
    first.fov = fov
    for client in self._server.get_clients().values():
      client.camera.position = position
      client.camera.look_at = np.zeros(3)
    self._set_inputs_shown()

  def _warm_up(self) -> None:
    """Compiles what the first camera will ask for."""
    self._say("compiling, half a minute or so")
    pose = self._scene.inputs["poses"][0]
    self._scene.render(pose, is_small=True)
    self._scene.render(pose)
    started = time.perf_counter()
    render = self._scene.render(pose)
    self._moves_small = time.perf_counter() - started > _FLUENT_SECONDS
    if self._scene.has_denoiser:
      for _ in self._scene.sample(render, self.controls.settings()):
        pass
    self._say("ready")

  def _set_inputs_shown(self) -> None:
    """Input cameras again, and all views."""
    for client in self._server.get_clients().values():
      self._add_cameras(client)
    self.worker.redraw()

  def _add_cameras(self, client) -> None:
    """The input views as frusta with their pictures, for one browser."""
    for frustum in self._cameras.pop(client.client_id, []):
      frustum.remove()
    inputs = self._scene.inputs
    if not inputs:
      return
    self._cameras[client.client_id] = [
      client.scene.add_camera_frustum(
        f"/inputs/{i}",
        fov=canvas.vertical_fov(inputs, i),
        aspect=1.0,
        scale=0.12,
        thickness=0.004,
        color=_ICON,
        image=image,
        wxyz=canvas.quaternion(pose),
        position=pose[:3, 3],
        visible=False,
      )
      for i, (image, pose) in enumerate(
        zip(inputs["images"], inputs["poses"], strict=True)
      )
    ]

  def _draw_moving(self, viewer: int, camera: Camera) -> None:
    client = self._server.get_clients().get(viewer)
    if client is None:
      return
    for frustum, pose in zip(
      self._cameras.get(viewer, []), self._scene.inputs["poses"], strict=False
    ):
      # Through an input camera one would see its picture instead of the scene.
      away = np.linalg.norm(pose[:3, 3] - camera.pose[:3, 3])
      is_far = away > _NEAR_CAMERA * np.linalg.norm(pose[:3, 3])
      frustum.visible = bool(self.controls.has_cameras.value and is_far)
    started = time.perf_counter()
    render = self._scene.render(camera.pose, self._moves_small)
    took = time.perf_counter() - started
    self._show(client, camera, self._quantity(render.views, camera))
    self._say(f"moving, {1000 * took:.0f} ms a render")

  def _draw_at_rest(self, viewer: int, camera: Camera) -> Iterator[None]:
    client = self._server.get_clients().get(viewer)
    if client is None:
      return
    quantity = self.controls.quantity.value
    render = self._scene.render(camera.pose)
    image = self._quantity(render.views, camera)
    self._show(client, camera, image)
    self._pictures[viewer] = Picture(image, camera.pose, quantity)
    self._say("render")
    is_sample = quantity == page_controls.SAMPLE
    if not (is_sample and self.controls.is_sampling.value):
      return
    yield
    settings = self.controls.settings()
    started = time.perf_counter()
    for step, image in self._scene.sample(render, settings):
      self._show(client, camera, image)
      self._say(f"sample, step {step} of {settings.steps}")
      if step < settings.steps:
        yield
    self._pictures[viewer] = Picture(image, camera.pose, quantity)
    took = time.perf_counter() - started
    self._say(f"sample, {settings.steps} steps in {took:.1f} s")

  def _roll_out(self, client, path: np.ndarray) -> Generator[None, None, None]:
    """Draws a path, shown as a film to who asked for it."""
    controls, settings = self.controls, self.controls.settings()
    for handle in (controls.save_film, controls.save_points):
      handle.visible = False
    controls.stop.visible = controls.progress.visible = True
    controls.progress.value, self._film = 0.0, None
    frames: dict[int, view_synthesis.Views] = {}
    inputs = self._scene.inputs
    try:
      for number, frame in self._scene.roll_out(path, settings):
        frames[number] = frame
        camera = Camera(path[number], client.camera.aspect)
        self._show(client, camera, grids.picture(frame.picture))
        controls.progress.value = 100 * len(frames) / len(path)
        self._say(f"rolling out, frame {len(frames)} of {len(path)}")
        yield
      self._film = rollout_files.DrawnScene(
        frames=[frames[i] for i in range(len(path))],
        poses=path,
        intrinsics=np.atleast_2d(inputs["intrinsics"])[0],
        inputs=list(inputs["images"]),
      )
      for handle in (controls.save_film, controls.save_points):
        handle.visible = True
      self._say(f"rolled out {len(path)} frames")
    finally:
      self.worker.redraw()
      controls.stop.visible = controls.progress.visible = False

  # What the browsers ask for.

  def _listen(self) -> None:
    """Ties controls and browsers to what they do."""
    server, controls, post = self._server, self.controls, self.worker.post
    server.on_client_connect(self._meet)
    server.on_client_disconnect(self._part)
    for handle in (
      *(controls.quantity, controls.is_sampling, controls.has_cameras),
      *(controls.sampler, controls.steps, controls.guidance, controls.seed),
    ):
      handle.on_update(lambda _: self.worker.redraw())
    for handle in (controls.scene, controls.view):
      handle.on_update(lambda event: post(_viewer(event), self._load_scene))
    controls.upload.on_upload(
      lambda event: post(_viewer(event), self._load_upload)
    )
    controls.add_view.on_click(
      lambda event: post(_viewer(event), lambda: self._add_view(event))
    )
    controls.reset.on_click(
      lambda event: post(_viewer(event), self._forget_views)
    )
    controls.roll_out.on_click(self._start_rollout)
    controls.stop.on_click(lambda _: self._stop_rollout())
    # In the worker's thread, whose errors the page shows.
    for handle, save in (
      (controls.save_picture, self._save_picture),
      (controls.save_film, self._save_film),
      (controls.save_points, self._save_points),
    ):
      handle.on_click(
        lambda event, save=save: post(_viewer(event), lambda: save(event))
      )

  def _meet(self, client) -> None:
    """A browser came, or came again after a reload."""
    viewer = client.client_id
    self.worker.post(viewer, lambda: self._add_cameras(client))

    def move(_=None) -> None:
      # A narrow canvas shows all of the picture's width.
      aspect = client.camera.aspect
      if self._scene.inputs:
        half = math.tan(canvas.vertical_fov(self._scene.inputs) / 2)
        client.camera.fov = 2 * math.atan(half / min(1.0, aspect))
      self.worker.move(viewer, Camera(canvas.pose_of(client.camera), aspect))

    client.camera.on_update(move)
    self.worker.post(viewer, move)

  def _part(self, client) -> None:
    self.worker.leave(client.client_id)
    self._pictures.pop(client.client_id, None)
    self._cameras.pop(client.client_id, None)

  def _load_scene(self) -> None:
    controls = self.controls
    number, view = int(controls.scene.value), int(controls.view.value)
    self._start_from(self._scenes.load(number, view))

  def _load_upload(self) -> None:
    controls = self.controls
    content = controls.upload.value.content
    self._start_from(self._read_upload(content, controls.elevation.value))

  def _add_view(self, event) -> None:
    picture = self._pictures.get(_viewer(event))
    if picture is None or picture.quantity in (
      page_controls.DEPTH,
      page_controls.OPACITY,
    ):
      raise ValueError(
        "there is no picture to add yet: show a sample or render"
      )
    self._scene.add_view(picture.image, picture.pose)
    self._set_inputs_shown()

  def _forget_views(self) -> None:
    self._scene.set_inputs(self._first_inputs)
    self._set_inputs_shown()

  def _start_rollout(self, event) -> None:
    position = event.client.camera.position
    distance = float(np.linalg.norm(position))
    path = camera_paths.orbit(
      int(self.controls.frames.value),
      elevation=math.degrees(math.asin(position[2] / distance)),
      distance=distance,
      azimuth=math.degrees(math.atan2(position[1], position[0])),
    )
    turns = self._roll_out(event.client, np.asarray(path))
    self.worker.start(_viewer(event), turns)

  def _stop_rollout(self) -> None:
    self.worker.start(None, None)

  def _save_picture(self, event) -> None:
    picture = self._pictures.get(_viewer(event))
    if picture is not None:
      _download(event, "view.png", encoding.png(picture.image))

  def _save_film(self, event) -> None:
    if self._film is not None:
      film = encoding.mp4(self._film.pictures(), _FPS)
      _download(event, "turntable.mp4", film)

  def _save_points(self, event) -> None:
    if self._film is not None:
      points = exports.points_of_frames(*self._film.surfaces())
      _download(event, "points.ply", exports.ply(points))

  # How it is shown.

  def _quantity(
    self, views: view_synthesis.Views, camera: Camera
  ) -> np.ndarray:
    """The picture u8 [H,W,3] of what the page is to show of a render."""
    name = self.controls.quantity.value
    if name == page_controls.DEPTH:
      distance = float(np.linalg.norm(camera.pose[:3, 3]))
      extent = self._scene.half_extent
      near, far = distance - extent, distance + extent
      return view_grids.shade_depth(views, near, far)
    return grids.picture(
      views.opacity if name == page_controls.OPACITY else views.rgb
    )

  def _show(self, client, camera: Camera, image: np.ndarray) -> None:
    client.scene.set_background_image(
      canvas.on_canvas(image, camera.aspect), format="jpeg", jpeg_quality=90
    )

  def _say(self, text: str) -> None:
    self.controls.status.content = text

  def _show_error(self, viewer: int | None, error: Exception) -> None:
    """In the browser that asked, or in all."""
    clients = self._server.get_clients()
    for client in [clients[viewer]] if viewer in clients else clients.values():
      client.add_notification("Error", str(error), color="red")


def _viewer(event) -> int:
  """The browser that an event comes from; -1 for none."""
  return -1 if event.client_id is None else event.client_id


def _download(event, name: str, content: bytes) -> None:
  event.client.send_file_download(name, content, save_immediately=True)
