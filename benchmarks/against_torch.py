"""Times genvs_jax and the PyTorch reference alternately, on the same CPU.

  pip install -e '.[torch]'
  python -m benchmarks.against_torch --output=against_torch.json

The reference is `torch_layers`. Each row runs in a process for each column;
they take turns, and memory is that of the process. All at `reference128`,
float32, random weights, as many threads as cores:

  encoder     one image of 128x128, without gradient
  render      one 64x64x16 view from one input view, 64 + 64 samples
  denoiser    one evaluation at 128x128
  encoder_gradient   what a step encodes (the reference 4 images, we the 2 that
                     it uses), forward and backward
  render_gradient    2 views from 2 input views, forward and backward
  denoiser_gradient  one pass at 128x128, forward and backward
  step        one scene, 2 input views (of 4 that the reference encodes), RGB
              loss on 2 rendered views, one denoiser pass, AdamW, no EMA

`ours_bfloat16` is the same with `model.dtype=bfloat16`.
"""

import json
import multiprocessing
import os
import pathlib
import resource
import time

import jax
import numpy as np
from absl import app
from absl import flags

from genvs_jax.runtime import memory
from genvs_jax.runtime import platforms

ROWS = (
  "encoder",
  "render",
  "denoiser",
  "encoder_gradient",
  "render_gradient",
  "denoiser_gradient",
  "step",
)
COLUMNS = ("reference", "ours", "ours_bfloat16")
_ROWS = flags.DEFINE_list("rows", list(ROWS), "Which to measure.")
_COLUMNS = flags.DEFINE_list("columns", list(COLUMNS), "Which to measure.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Runs of each, after one more.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON to write.")
SIZE, RENDER_SIZE = 128, 64


def main(argv):
  del argv
  result = {}
  for row in _ROWS.value:
    result[row] = measure(row, _COLUMNS.value, _REPEATS.value)
    print(line(row, result[row]), flush=True)
    if _OUTPUT.value:
      pathlib.Path(_OUTPUT.value).write_text(json.dumps(result, indent=1))


def measure(row: str, columns: list[str], repeats: int) -> dict[str, dict]:
  """Seconds of each run, and memory, by column."""
  context = multiprocessing.get_context("spawn")
  workers = {}
  for column in columns:
    ours, theirs = context.Pipe()
    process = context.Process(
      target=work, args=(row, column, theirs), daemon=True
    )
    process.start()
    theirs.close()
    workers[column] = (process, ours)
    ours.recv()  # ready: built, compiled and run once
  times = {column: [] for column in columns}
  rng = np.random.default_rng(0)
  for _ in range(repeats):
    for column in rng.permutation(columns):
      pipe = workers[column][1]
      pipe.send("run")
      times[column].append(pipe.recv())
  result = {}
  for column, (process, pipe) in workers.items():
    pipe.send("end")
    result[column] = {"seconds": times[column], **pipe.recv()}
    process.join()
  return result


def work(row: str, column: str, pipe) -> None:
  """Answers each "run" with its seconds, in a process of its own."""
  jax.config.update("jax_platforms", "cpu")
  if column == "reference":
    run, needed = build_reference(row), {}
  else:
    dtype = "bfloat16" if column.endswith("bfloat16") else "float32"
    run, needed = build_ours(row, dtype)
  run()
  pipe.send("ready")
  while pipe.recv() == "run":
    begin = time.perf_counter()
    run()
    seconds = time.perf_counter() - begin
    time.sleep(0.3)  # until the threads of PyTorch and XLA rest
    pipe.send(seconds)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
  pipe.send({"process_gb": peak, **needed})


def line(row: str, result: dict[str, dict]) -> str:
  """One row of a Markdown table."""
  cells = []
  first = np.median(result[next(iter(result))]["seconds"])
  for column in result.values():
    seconds = column["seconds"]
    median = np.median(seconds)
    cell = f"{median:.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
    cell += f" x{first / median:.2f}, {column['process_gb']:.2f} GB"
    if "compiled_gb" in column:
      cell += f", compiled {column['compiled_gb']:.2f} GB"
    cells.append(cell)
  return f"| {row} | " + " | ".join(cells) + " |"


# ----------------------------------------------------------------- reference


class Reference:
  """The reference's networks in PyTorch, with random weights and pictures."""

  def __init__(self):
    import torch  # noqa: PLC0415

    from benchmarks import torch_layers  # noqa: PLC0415

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    self.encoder = torch_layers.Encoder()
    self.renderer = torch_layers.Renderer()
    self.denoiser = torch_layers.Denoiser()
    self.modules = (self.encoder, self.renderer, self.denoiser)
    self.cameras = [torch.as_tensor(opengl(pose)) for pose in poses()]
    self.images = torch.rand(4, 3, SIZE, SIZE)
    self.labels = torch.zeros(1, 9)

  def lift(self, count: int):
    """Volumes of the first images."""
    volumes = self.encoder(self.images[:count].flip(2))
    return volumes.reshape(count, 16, 64, SIZE, SIZE)

  def render(self, volumes, targets, train: bool):
    """Features, depth and opacity of the rays of each target."""
    import torch  # noqa: PLC0415

    slope = 525 / 256
    focal = slope * RENDER_SIZE / 2
    intrinsics = (focal, focal, RENDER_SIZE / 2, RENDER_SIZE / 2)
    shape = (RENDER_SIZE**2, 64)
    rendered = []
    for target in targets:
      origins, directions = self.renderer.rays(target, intrinsics, RENDER_SIZE)
      uniforms = (torch.rand(shape), torch.rand(shape)) if train else None
      rendered.append(
        self.renderer(
          origins,
          directions,
          volumes,
          self.cameras[: len(volumes)],
          slope,
          uniforms,
        )
      )
    return [torch.stack(x) for x in zip(*rendered, strict=True)]

  def denoising_loss(self, clean, features):
    """EDM's loss at a random level of noise."""
    import torch  # noqa: PLC0415

    from benchmarks import torch_layers  # noqa: PLC0415

    sigma = torch.exp(0.5 + 1.4 * torch.randn(1))
    skip, out, inp = torch_layers.scalings(sigma)
    noisy = clean + sigma * torch.randn_like(clean)
    output, log_variance = self.denoiser(
      noisy * inp, sigma, features, self.labels
    )
    error = (output - (clean - skip * noisy) / out) ** 2
    return (error / log_variance.exp() + log_variance).mean() / 2


def build_reference(row: str):
  """A function that runs the row once in PyTorch."""
  gradient = row.endswith("gradient") or row == "step"
  return (_reference_gradient if gradient else _reference_forward)(row)


def _reference_forward(row: str):
  import torch  # noqa: PLC0415

  reference = Reference()
  for module in reference.modules:
    module.eval()
  volumes = torch.randn(1, 16, 64, SIZE, SIZE)
  features = torch.rand(1, 16, SIZE, SIZE)

  @torch.no_grad()
  def run():
    if row == "encoder":
      reference.lift(1)
    elif row == "render":
      reference.render(volumes, reference.cameras[2:3], train=False)
    else:
      reference.denoiser(
        reference.images[:1], torch.ones(1), features, reference.labels
      )

  return run


def _reference_gradient(row: str):
  import torch  # noqa: PLC0415
  from torch.nn import functional  # noqa: PLC0415

  reference = Reference()
  images, cameras = reference.images, reference.cameras
  volumes = torch.randn(2, 16, 64, SIZE, SIZE, requires_grad=True)
  features = torch.rand(1, 16, SIZE, SIZE)
  parameters = [p for m in reference.modules for p in m.parameters()]
  optimizer = torch.optim.AdamW(parameters, lr=1e-4)

  def loss_of_step():
    rendered, _, opacity = reference.render(
      reference.lift(4)[:2], [cameras[0], cameras[3]], train=True
    )
    image = rendered.reshape(-1, RENDER_SIZE, RENDER_SIZE, 16)
    image = functional.interpolate(image.permute(0, 3, 1, 2), scale_factor=2)
    first, other = ((image[:, :3] - images[[0, 3]]) ** 2).mean((1, 2, 3))
    loss = 0.01 * first + other + 0.001 * opacity.mean()
    return loss + reference.denoising_loss(images[3:], image[1:])

  def run():
    if row == "encoder_gradient":
      (reference.lift(4) ** 2).mean().backward()
    elif row == "render_gradient":
      image, depth, opacity = reference.render(
        volumes, cameras[2:4], train=True
      )
      ((image**2).mean() + depth.mean() + opacity.mean()).backward()
      volumes.grad = None
    elif row == "denoiser_gradient":
      reference.denoising_loss(images[:1], features).backward()
    else:
      loss_of_step().backward()
      torch.nn.utils.clip_grad_norm_(parameters, 1.0)
      optimizer.step()
    optimizer.zero_grad()

  return run


# ---------------------------------------------------------------------- ours


# Views in and views rendered, where a row needs others than a step.
VIEWS = {"encoder": (1, 2), "render": (1, 1), "render_gradient": (2, 2)}


def build_ours(row: str, dtype: str):
  """A function that runs the row once, and the memory of what it compiled."""
  from benchmarks import programs  # noqa: PLC0415
  from configs import reference128  # noqa: PLC0415

  platforms.keep_freed_memory()  # as launch.py does
  config = reference128.get_config()
  config.model.dtype = dtype
  config.train.batch_size, config.train.ema = 1, "none"
  views = VIEWS.get(row, (2, config.train.target_views))
  config.model.input_views, config.train.target_views = views
  program = programs.build(config, row)
  needed = memory.of_program(program.compiled) / 1e9
  return program.run, {"compiled_gb": needed}


def poses() -> np.ndarray:
  """Four cameras 1.3 from the origin, [4,4,4] OpenCV camera-to-world."""
  from tfds_srn.synthetic_cars import car_scenes  # noqa: PLC0415

  return car_scenes.train_poses(0, "train", 0, 4)


def opengl(pose: np.ndarray) -> np.ndarray:
  """The same camera with y up, looking along -z."""
  return (pose * np.array([1, -1, -1, 1])).astype(np.float32)


if __name__ == "__main__":
  app.run(main)
