"""The viewer's page in a real browser: a Chromium that is installed."""

import io
import pathlib
import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from genvs_jax.checkpointing import pretrained
from genvs_jax.viewer import serve

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None
)
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
TIMEOUT = 120_000  # milliseconds; the first pictures are compiled


@pytest.fixture(scope="module")
def server(trained_workdir):
  genvs = pretrained.load(trained_workdir)
  opened, server = serve.open_page(
    *genvs[:3], trained_workdir, images="", host="localhost", port=8123
  )
  yield server
  opened.stop()
  server.stop()


@pytest.fixture(scope="module")
def browser():
  flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]
  flags.append("--enable-unsafe-swiftshader")
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=CHROMIUM, args=[*flags, "--ignore-gpu-blocklist"]
    )
    yield browser
    browser.close()


@pytest.fixture
def page(server, browser):
  page, errors = browser.new_page(), []
  page.set_default_timeout(TIMEOUT)
  page.set_viewport_size({"width": 1100, "height": 1400})
  page.on(
    "console",
    lambda line: errors.append(line.text) if line.type == "error" else None,
  )
  page.on("pageerror", lambda error: errors.append(str(error)))
  page.goto(f"http://localhost:{server.get_port()}")
  wait_for_sample(page)
  time.sleep(0.5)  # the browser decodes the picture
  yield page
  page.close()
  assert not errors


def wait_for_sample(page):
  page.get_by_text(re.compile(r"sample, \d+ steps in")).wait_for()


def canvas(page) -> np.ndarray:
  """The part of the page that shows the scene, f32."""
  picture = page.screenshot(
    clip={"x": 0, "y": 300, "width": 700, "height": 800}
  )
  return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), np.float32)


def until_it_changes(page, before: np.ndarray, least: float = 0.1) -> None:
  """Waits for another picture: of a model of few steps, one that is much the
  same from everywhere."""
  deadline = time.monotonic() + TIMEOUT / 1000
  while np.abs(canvas(page) - before).mean() < least:
    assert time.monotonic() < deadline, "the picture stays the same"
    time.sleep(0.2)


def download(page, label: str) -> bytes:
  with page.expect_download() as waiting:
    page.get_by_role("button", name=label).click()
  return pathlib.Path(waiting.value.path()).read_bytes()


def drag(page, x: int, y: int):
  page.mouse.move(350, 700)
  page.mouse.down()
  page.mouse.move(350 + x, 700 + y, steps=5)
  page.mouse.up()


def test_the_picture_follows_the_camera_and_is_sampled_at_rest(page):
  before = canvas(page)
  assert before.std() > 1  # there is something to see
  assert np.abs(canvas(page) - before).max() == 0
  drag(page, 150, 20)
  until_it_changes(page, before)
  wait_for_sample(page)


def test_the_picture_can_be_downloaded_and_added(page):
  picture = Image.open(io.BytesIO(download(page, "Download picture")))
  assert picture.size == (32, 32)
  before = canvas(page)
  page.get_by_role("button", name="Add this view").click()
  until_it_changes(page, before, 0.01)
  page.get_by_role("button", name="Forget").click()
  wait_for_sample(page)


def test_a_rollout_gives_a_film_and_points(page):
  frames = page.locator("input[inputmode=decimal]").last
  frames.fill("3")
  frames.press("Enter")
  page.get_by_role("button", name="Roll out").click()
  # The status line goes on with the sample at rest at once.
  page.get_by_role("button", name="Download film").wait_for()
  assert download(page, "Download film")[4:8] == b"ftyp"
  assert download(page, "Download points").startswith(b"ply\n")


def test_a_picture_can_be_uploaded_and_a_text_is_refused(page, tmp_path):
  image = np.full((40, 40, 3), 255, np.uint8)
  image[10:30, 8:32] = (200, 30, 30)
  Image.fromarray(image).save(tmp_path / "red.png")
  (tmp_path / "text.png").write_text("text")
  before = canvas(page)
  for name in ("red.png", "text.png"):
    with page.expect_file_chooser() as waiting:
      page.get_by_role("button", name="Your picture").click()
    waiting.value.set_files(tmp_path / name)
    if name == "red.png":
      until_it_changes(page, before)
  page.get_by_text("the file is no picture").wait_for()


def test_a_reload_and_a_second_browser_go_on(page, browser, server):
  page.reload()
  wait_for_sample(page)
  second = browser.new_page()
  second.set_default_timeout(TIMEOUT)
  second.goto(f"http://localhost:{server.get_port()}")
  wait_for_sample(second)
  second.close()
  drag(page, -100, 0)
  wait_for_sample(page)
