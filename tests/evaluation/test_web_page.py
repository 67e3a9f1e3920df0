"""The HTML report: whole in one file, scenes where they belong."""

import base64
import html.parser
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from genvs_jax.evaluation import web_page

CHROMIUM = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None
)


def line(scene: int, psnr: float, lpips: float | None = None):
  means = {"render": {"psnr": psnr - 1}, "sample": {"psnr": psnr}}
  if lpips is not None:
    for scores in means.values():
      scores["lpips_vgg"] = lpips
  return {"scene": scene, "name": f"<car {scene}>", "means": means}


def results(lines):
  rows = {
    row: {"psnr": float(np.mean([x["means"][row]["psnr"] for x in lines]))}
    for row in ("render", "sample")
  }
  return {"scenes": len(lines), "split": "test", "rows": rows, "samples": 1}


def picture(scene: int) -> bytes:
  buffer = io.BytesIO()
  image = np.full((24, 48, 3), 20 * scene, np.uint8)
  Image.fromarray(image).save(buffer, "JPEG")
  return buffer.getvalue()


class Reader(html.parser.HTMLParser):
  """Text by tag, and the addresses that the page asks for."""

  def __init__(self, text: str):
    super().__init__()
    self.captions, self.cells, self.sources = [], [], []
    self._tag = ""
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self._tag = tag
    self.sources += [v for k, v in attributes if k in ("src", "href")]

  def handle_data(self, data):
    if self._tag == "figcaption":
      self.captions.append(data)
    if self._tag == "td":
      self.cells.append(data)
    self._tag = ""


@pytest.mark.parametrize("has_lpips", [False, True])
def test_best_and_worst_scenes_are_shown(has_lpips):
  # By LPIPS the order is the reverse of that by PSNR.
  lines = [
    line(i, 20.0 + i, 0.1 + 0.01 * i if has_lpips else None) for i in range(8)
  ]
  strips = {i: picture(i) for i in range(8)}
  text = web_page.page("a model", results(lines), "", lines, strips, None)
  reader = Reader(text)
  scenes = [int(re.match(r"scene (\d)", c).group(1)) for c in reader.captions]
  best_first = range(8) if has_lpips else range(7, -1, -1)
  assert scenes == [*best_first[:3], *best_first[:-4:-1]]
  # The pictures are those of the scenes, and nothing is fetched.
  assert all(s.startswith("data:image/jpeg;base64,") for s in reader.sources)
  contents = [base64.b64decode(s.partition(",")[2]) for s in reader.sources]
  assert contents == [strips[i] for i in scenes]
  # No scene is among the best and the worst.
  three = web_page.page("a model", results(lines[:3]), "", lines[:3], {}, None)
  assert len(Reader(three).captions) == 2


def test_the_table_the_notes_and_names_are_text():
  lines = [line(0, 25.0)]
  text = web_page.page(
    "a model", results(lines), "a < b & c", lines, {}, b"film"
  )
  assert "a &lt; b &amp; c" in text and "&lt;car 0&gt;" in text
  assert "<car" not in text
  reader = Reader(text)
  assert reader.cells[:4] == ["RGB render", "24.00", "one sample", "25.00"]
  (film,) = reader.sources  # a picture that is missing is left out
  assert base64.b64decode(film.partition(",")[2]) == b"film"


def test_points_are_higher_for_higher_scores():
  lines = [line(i, psnr) for i, psnr in enumerate((20.0, 30.0, 25.0))]
  text = web_page.page("a model", results(lines), "", lines, {}, None)
  found = re.findall(r'cy="([\d.]+)"[^>]*>.*?: sample ([\d.]+) dB', text)
  heights = {float(value): float(y) for y, value in found}
  assert heights[30.0] < heights[25.0] < heights[20.0]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_it(tmp_path):
  sync_api = pytest.importorskip("playwright.sync_api")
  lines = [line(i, 20.0 + i) for i in range(5)]
  strips = {i: picture(i) for i in range(5)}
  path = tmp_path / "report.html"
  path.write_text(
    web_page.page("a model", results(lines), "", lines, strips, None)
  )
  errors, requests = [], []
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=CHROMIUM, args=["--no-sandbox"]
    )
    page = browser.new_page()
    page.on("console", lambda m: errors.append(m.text))
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("request", lambda r: requests.append(r.url))
    page.goto(path.as_uri())
    assert page.locator("h1").inner_text() == "a model: 5 scenes of split test"
    widths = page.locator("img").evaluate_all("x => x.map(i => i.naturalWidth)")
    assert widths == [48] * 4
    assert page.locator("circle").count() == 10
    browser.close()
  assert not errors
  assert all(url.startswith(("file:", "data:")) for url in requests)
