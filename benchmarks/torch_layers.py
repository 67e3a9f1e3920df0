"""The reference's networks and renderer in plain PyTorch, for timing alone.

Written from `docs/reference.md`, not from the reference's code, and as it does
the work: dense resampling filters, the radiance field evaluated at every coarse
and fine sample and then at all of them again. Entries of a state_dict have the
reference's names, so its weights fit; `tests/parity/test_torch_layers.py`
compares outputs and parameter counts with its golden arrays. Layouts are
PyTorch's: images [B,C,H,W], volumes [V,C,D,H,W].
"""

import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

# ------------------------------------------------------------------- encoder


class BasicBlock(nn.Module):
  """ResNet's block of two 3x3 convolutions."""

  def __init__(self, inputs: int, width: int, stride: int):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    if stride > 1 or inputs != width:
      self.downsample = nn.Sequential(
        nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
      )

  def forward(self, x):
    y = functional.relu(self.bn1(self.conv1(x)))
    y = self.bn2(self.conv2(y))
    if hasattr(self, "downsample"):
      x = self.downsample(x)
    return functional.relu(x + y)


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
  rest = [BasicBlock(width, width, 1) for _ in range(blocks - 1)]
  return nn.Sequential(BasicBlock(inputs, width, stride), *rest)


class Conv(nn.Sequential):
  """A convolution of odd size that keeps the shape, under the name "0"."""

  def __init__(self, inputs: int, width: int, size: int, relu: bool = True):
    layers = [nn.Conv2d(inputs, width, size, padding=size // 2)]
    super().__init__(*layers, *[nn.ReLU()] * relu)


class UpBlock(nn.Module):
  """Pixel shuffle, skip connection, two convolutions."""

  def __init__(self, width: int, skip: int):
    super().__init__()
    self.shuf = nn.Sequential(Conv(width, 4 * width, 1), nn.PixelShuffle(2))
    self.bn = nn.BatchNorm2d(skip)
    self.conv1 = Conv(width + skip, width, 3)
    self.conv2 = Conv(width, width, 3)

  def forward(self, x, skip):
    x = torch.cat([self.shuf(x), self.bn(skip)], 1)
    return self.conv2(self.conv1(functional.relu(x)))


class Residual(nn.Module):
  """ReLU(x + conv(ReLU(conv(x))))."""

  def __init__(self, width: int):
    super().__init__()
    self.convpath = nn.Sequential(
      Conv(width, width, 3), Conv(width, width, 3, relu=False)
    )

  def forward(self, x):
    return functional.relu(x + self.convpath(x))


class Encoder(nn.Module):
  """ResNet34 and a U-Net decoder: [n,3,H,W] -> [n,C*D,H,W]."""

  def __init__(self, channels: int = 16, planes: int = 64, width: int = 512):
    super().__init__()
    trunk = OrderedDict()
    trunk["0"] = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    trunk["1"] = nn.BatchNorm2d(64)
    trunk["4"] = _stage(64, 64, 3, 1)
    trunk["5"] = _stage(64, 128, 4, 2)
    trunk["6"] = _stage(128, 256, 6, 2)
    trunk["7"] = _stage(256, 512, 3, 2)
    self.layers = nn.ModuleDict(
      {
        "0": nn.ModuleDict(trunk),
        "1": nn.BatchNorm2d(512),
        "3": nn.Sequential(Conv(512, 1024, 3), Conv(1024, 512, 3)),
        "4": UpBlock(width, 256),
        "5": UpBlock(width, 128),
        "6": UpBlock(width, 64),
        "7": UpBlock(width, 64),
        "8": nn.Sequential(Conv(width, 4 * width, 1), nn.PixelShuffle(2)),
        "11": Residual(width + 3),
        "12": nn.Sequential(nn.Conv2d(width + 3, channels * planes, 1)),
      }
    )

  def forward(self, image):
    trunk = self.layers["0"]
    stem = functional.relu(trunk["1"](trunk["0"](image)))
    skips, x = [stem], functional.max_pool2d(stem, 3, 2, 1)
    for name in ("4", "5", "6", "7"):
      x = trunk[name](x)
      skips.append(x)
    x = self.layers["3"](functional.relu(self.layers["1"](x)))
    for i, skip in enumerate(reversed(skips[:-1])):
      x = self.layers[str(4 + i)](x, skip)
    x = torch.cat([self.layers["8"](x), image], 1)
    return self.layers["12"](self.layers["11"](x))


# ------------------------------------------------------------------ renderer


class FieldNetwork(nn.Module):
  """16 -> 64 -> 1 + F, as the reference names it."""

  def __init__(self, channels: int = 16, features: int = 16):
    super().__init__()
    first = nn.ModuleDict({"dense": nn.Linear(channels, 64)})
    self.net = nn.ModuleList([first, nn.Linear(64, 1 + features)])

  def forward(self, x):
    return self.net[1](functional.softplus(self.net[0]["dense"](x)))


class Renderer(nn.Module):
  """Two passes through the volumes of one scene's V input views."""

  def __init__(self, coarse: int = 64, fine: int = 64, min_near: float = 0.5):
    super().__init__()
    self.coarse, self.fine, self.min_near = coarse, fine, min_near
    network = FieldNetwork()
    self.sigma_color_net = network

  def field(self, points, volumes, poses, slope):
    """Density [..] and features [..,F] at points [..,3]."""
    flat = points.reshape(-1, 3)
    outputs = 0
    for volume, pose in zip(volumes, poses, strict=True):
      local = (flat - pose[:3, 3]) @ pose[:3, :3]
      depth = (-local[:, 2]).clamp(min=1e-6)
      at = torch.stack(
        [
          slope * local[:, 0] / depth,
          slope * local[:, 1] / depth,
          local[:, 2] + pose[:3, 3].norm(),
        ],
        -1,
      ).clamp(-1, 1)
      result = functional.grid_sample(
        volume[None], at[None, None, None], align_corners=True
      )
      outputs = outputs + self.sigma_color_net(result[0, :, 0, 0].T)
    outputs = outputs / len(poses)
    density = functional.softplus(outputs[:, 0]).reshape(points.shape[:-1])
    features = torch.sigmoid(outputs[:, 1:])
    return density, features.reshape(*points.shape[:-1], -1)

  def rays(self, pose, intrinsics, size: int):
    """Origins and directions [size*size,3] of a view (OpenGL axes)."""
    fx, fy, cx, cy = intrinsics
    row, column = torch.meshgrid(
      torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij"
    )
    x, y = (column - cx) / fx, -(row - cy) / fy
    directions = torch.stack([x, y, -torch.ones_like(x)], -1).reshape(-1, 3)
    directions = functional.normalize(directions, dim=-1) @ pose[:3, :3].T
    return pose[:3, 3].expand_as(directions), directions

  def forward(self, origins, directions, volumes, poses, slope, uniforms=None):
    """Renders rays [R,3].

    Args:
      origins: of the rays.
      directions: unit vectors.
      volumes: [V,C,D,H,W].
      poses: [V,4,4] of the input views (OpenGL axes).
      slope: focal length over half the width.
      uniforms: ([R,coarse], [R,fine]) in [0,1), or None.

    Returns:
      image [R,F], depth [R] and opacity [R].
    """
    near, far = self.bounds(origins, directions)
    steps = torch.linspace(0, 1, self.coarse)
    coarse = near + (far - near) * steps
    if uniforms is not None:
      coarse = coarse + (uniforms[0] - 0.5) * (far - near) / self.coarse
    last = (far - near) / self.coarse

    def points(distances):
      return origins[:, None] + distances[..., None] * directions[:, None]

    def evaluate(distances):
      return self.field(points(distances), volumes, poses, slope)

    density, _ = evaluate(coarse)
    with torch.no_grad():
      weights = compositing_weights(density, coarse, last)
      fine = self.fine_distances(coarse, weights, uniforms)
    fine_density, _ = evaluate(fine)
    distances, order = torch.sort(torch.cat([coarse, fine], -1), -1)
    density = torch.gather(torch.cat([density, fine_density], -1), -1, order)
    weights = compositing_weights(density, distances, last)
    _, features = evaluate(distances)
    opacity = weights.sum(-1)
    image = (weights[..., None] * features).sum(-2) + (1 - opacity)[:, None]
    return image, (weights * distances).sum(-1), opacity

  def bounds(self, origins, directions):
    """Entry and exit distances [R,1] of the cube [-1,1]^3."""
    slope = directions + 1e-15
    a, b = (-1 - origins) / slope, (1 - origins) / slope
    near = torch.minimum(a, b).amax(-1, keepdim=True)
    far = torch.maximum(a, b).amin(-1, keepdim=True)
    miss = far < near
    near, far = near.masked_fill(miss, 1e9), far.masked_fill(miss, 1e9)
    return near.clamp(min=self.min_near), far

  def fine_distances(self, coarse, weights, uniforms):
    bins = (coarse[:, 1:] + coarse[:, :-1]) / 2
    weights = weights[:, 1:-1] + 1e-5
    cdf = torch.cumsum(weights / weights.sum(-1, keepdim=True), -1)
    cdf = functional.pad(cdf, (1, 0))
    if uniforms is None:
      half = 0.5 / self.fine
      u = torch.linspace(half, 1 - half, self.fine)
      u = u.expand(len(cdf), -1).contiguous()
    else:
      u = uniforms[1]
    index = torch.searchsorted(cdf, u, right=True)
    below = (index - 1).clamp(min=0)
    above = index.clamp(max=cdf.shape[-1] - 1)
    low, high = cdf.gather(-1, below), cdf.gather(-1, above)
    left, right = bins.gather(-1, below), bins.gather(-1, above)
    width = high - low
    width = torch.where(width < 1e-5, torch.ones_like(width), width)
    return left + (u - low) / width * (right - left)


def compositing_weights(density, distances, last):
  """Weights [R,S] of samples at ascending distances."""
  intervals = torch.cat([distances[:, 1:] - distances[:, :-1], last], -1)
  alpha = 1 - torch.exp(-intervals * density)
  through = torch.cumprod(1 - alpha + 1e-15, -1)
  return alpha * functional.pad(through[:, :-1], (1, 0), value=1.0)


# ------------------------------------------------------------------ denoiser


class AdaGroupNorm(nn.Module):
  """Group norm whose scale and shift come from the conditioning vector."""

  def __init__(self, embedding: int, channels: int):
    super().__init__()
    self.groups = max(1, channels // 32)
    self.mapper = nn.Linear(embedding, 2 * channels)

  def forward(self, x, vector):
    scale, shift = self.mapper(vector)[:, :, None, None].chunk(2, 1)
    y = functional.group_norm(x, self.groups, eps=1e-5)
    return torch.addcmul(shift, y, scale + 1)


class ResBlock(nn.Module):
  """Two convolutions behind adaptive norms, with a skip."""

  def __init__(self, inputs, middle, width, embedding, dropout):
    super().__init__()
    self.main = nn.ModuleList(
      [
        AdaGroupNorm(embedding, inputs),
        nn.GELU(),
        nn.Conv2d(inputs, middle, 3, padding=1),
        nn.Dropout2d(dropout),
        AdaGroupNorm(embedding, middle),
        nn.GELU(),
        nn.Conv2d(middle, width, 3, padding=1),
        nn.Dropout2d(dropout),
      ]
    )
    if inputs != width:
      self.skip = nn.Conv2d(inputs, width, 1, bias=False)

  def forward(self, x, vector):
    y = x
    for layer in self.main:
      y = layer(y, vector) if isinstance(layer, AdaGroupNorm) else layer(y)
    return y + (self.skip(x) if hasattr(self, "skip") else x)


class SelfAttention(nn.Module):
  """Attention between all pixels in heads of 64 channels."""

  def __init__(self, channels, embedding, dropout):
    super().__init__()
    self.heads = max(1, channels // 64)
    self.norm_in = AdaGroupNorm(embedding, channels)
    self.qkv_proj = nn.Conv2d(channels, 3 * channels, 1)
    self.out_proj = nn.Conv2d(channels, channels, 1)
    self.dropout = nn.Dropout(dropout)

  def forward(self, x, vector):
    n, c, h, w = x.shape
    qkv = self.qkv_proj(self.norm_in(x, vector))
    qkv = qkv.view(n, 3 * self.heads, c // self.heads, h * w).transpose(2, 3)
    q, k, v = qkv.chunk(3, 1)
    scale = k.shape[3] ** -0.25
    weights = ((q * scale) @ (k.transpose(2, 3) * scale)).softmax(3)
    y = (self.dropout(weights) @ v).transpose(2, 3).reshape(n, c, h, w)
    return x + self.out_proj(y)


class Resample(nn.Module):
  """Halves or doubles by a blur, as a convolution of all channels."""

  def __init__(self, up: bool):
    super().__init__()
    self.up = up
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / (4 if up else 8)
    self.register_buffer("kernel", taps[:, None] * taps)

  def forward(self, x):
    channels = x.shape[1]
    x = functional.pad(x, (1, 1, 1, 1), mode="reflect")
    weight = x.new_zeros(channels, channels, 4, 4)
    each = torch.arange(channels)
    weight[each, each] = self.kernel
    if self.up:
      return functional.conv_transpose2d(x, weight, stride=2, padding=3)
    return functional.conv2d(x, weight, stride=2)


class UNet(nn.Module):
  """Levels of residual blocks; one skip per level."""

  def __init__(self, channels, depths, attention, embedding, dropout):
    super().__init__()

    def level(i, inputs, widths):
      blocks = []
      for width in widths:
        blocks.append(ResBlock(inputs, channels[i], width, embedding, dropout))
        if attention[i]:
          blocks.append(SelfAttention(width, embedding, dropout))
        inputs = width
      return blocks

    down, up = [], []
    count = len(channels)
    for i in range(count):
      # The first level has no filter, but blocks are numbered from 1 there too.
      head = Resample(up=False) if i else nn.Identity()
      inputs = channels[max(i - 1, 0)]
      down.append(
        nn.ModuleList([head, *level(i, inputs, [channels[i]] * depths[i])])
      )
      widths = [channels[i]] * (depths[i] - 1) + [channels[max(i - 1, 0)]]
      inputs = channels[i] * (1 if i == count - 1 else 2)
      tail = [Resample(up=True)] if i else []
      up.insert(0, nn.ModuleList([*level(i, inputs, widths), *tail]))
    self.d_blocks, self.u_blocks = nn.ModuleList(down), nn.ModuleList(up)

  def forward(self, x, vector):
    def run(blocks, x):
      for block in blocks:
        plain = isinstance(block, (Resample, nn.Identity))
        x = block(x) if plain else block(x, vector)
      return x

    skips = []
    for blocks in self.d_blocks:
      x = run(blocks, x)
      skips.append(x)
    for i, (blocks, skip) in enumerate(
      zip(self.u_blocks, reversed(skips), strict=True)
    ):
      x = run(blocks, torch.cat([x, skip], 1) if i else x)
    return x


class Denoiser(nn.Module):
  """k-diffusion's `image_v1` with conditioning features."""

  def __init__(
    self,
    channels=(128, 128, 256, 512, 512),
    depths=(2, 2, 2, 4, 4),
    attention=(False, False, False, True, True),
    features: int = 16,
    embedding: int = 256,
    dropout: float = 0.05,
  ):
    super().__init__()
    self.timestep_embed = nn.Module()
    self.timestep_embed.register_buffer(
      "weight", torch.randn(embedding // 2, 1)
    )
    self.mapping_cond = nn.Linear(9, embedding, bias=False)
    self.mapping = nn.Sequential(
      nn.Linear(embedding, embedding),
      nn.GELU(),
      nn.Linear(embedding, embedding),
      nn.GELU(),
    )
    self.proj_in = nn.Conv2d(3 + features, channels[0], 1)
    self.u_net = UNet(channels, depths, attention, embedding, dropout)
    self.proj_out = nn.Conv2d(channels[0], 4, 1)

  def forward(self, x, sigma, features, augmentation):
    """F [B,3,H,W] and log-variance [B] for x already times c_in."""
    phase = (
      2 * math.pi * (sigma.log()[:, None] / 4) @ self.timestep_embed.weight.T
    )
    vector = torch.cat([phase.cos(), phase.sin()], -1)
    vector = self.mapping(vector + self.mapping_cond(augmentation))
    y = self.proj_in(torch.cat([x, features], 1))
    y = self.proj_out(self.u_net(y, vector))
    return y[:, :3], y[:, 3].mean((1, 2))


def scalings(sigma, sigma_data: float = 0.5):
  """EDM's c_skip, c_out and c_in."""
  total = sigma**2 + sigma_data**2
  return sigma_data**2 / total, sigma * sigma_data / total**0.5, total**-0.5
