"""Batched augmentation on the device: each image is cropped, resized, flipped and blurred by weighted sums.

The resampling is separable: every row of the result is a weighted sum of a few rows of the image, and then
                             every
column of a few columns. Images differ in the lines that they use (the taps) and in the weights, but not in
the number of taps. A flip reverses the order; a blur is a second such sum. Hue and saturation do not change:
grey and calibrated images have neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from orch_core.learn.data import Batch, chunks_of, to_device
from orch_core.learn.randomness import Draws

MEAN, STD = 0.5, 0.25
"""Mean and standard deviation to normalise inputs; one for all sources, so intensities stay comparable."""

CPU_CHUNK, GPU_CHUNK = 2**19, 2**24
"""Values augmented at a time: on a CPU what fits its cache, on a GPU 64 MB, which keep it busy."""

Taps = tuple[Tensor, Tensor]
"""Indices (int64) and weights (float32, sum 1) of the lines that make each output line, [n, out, taps]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How to draw one view. Shares are probabilities, crops are fractions of the area, sides are in pixels.

    ratio: bound of the crop's aspect ratio, which lies in 1/ratio..ratio; blur: bounds of sigma in pixels of
           an image of side 224, scaled to `side`
    """

    side: int
    crop_min: float
    crop_max: float
    ratio: float = 4 / 3
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    jitter_share: float = 0.0
    blur_share: float = 0.0
    blur: tuple[float, float] = (0.1, 2.0)
    solarize_share: float = 0.0


def draw_view(batch: Batch, view: View, rng: Draws) -> Tensor:
    """One augmented view of every image: float32 [n, channels, side, side], normalised."""
    channels, in_side = batch.images.shape[1], batch.images.shape[-1]
    views = torch.empty(len(batch), channels, view.side, view.side, device=batch.images.device)
    chunk = CPU_CHUNK if views.device.type == "cpu" else GPU_CHUNK
    size = max(1, chunk // (channels * max(in_side, view.side) ** 2))
    parts = [chunks_of(part, size) for part in (batch.images, _draws(batch, view, rng), views)]
    for images, draws, out in zip(*parts, strict=True):
        top, height, left, width, rows_flip, columns_flip, sigma, brightness, contrast, solar = draws.T
        rows, weights = crop_taps(top, height, rows_flip, in_side, view)
        weights = weights * (brightness / 255)[:, None, None]
        columns = crop_taps(left, width, columns_flip, in_side, view)
        blur = [blur_taps(sigma, view)] if view.blur_share > 0 else []
        resized = resampled(images, [(rows, weights), *blur], [columns, *blur])
        _recolour(resized, contrast, solar, view, out)
    return views


def plain_view(images: Tensor) -> Tensor:
    """Normalised images without augmentation, float32."""
    return (images.float() / 255 - MEAN) / STD


def crop_boxes(n: int, view: View, rng: Draws) -> NDArray[np.float32]:
    """Crops as (top, height, left, width) in fractions of the side, [n, 4].

    The area is uniform in crop_min..crop_max, the aspect ratio log-uniform (Szegedy et al. 2015), the
    position uniform. A side longer than the image is cut to it, as torchvision does after ten failed draws.
    """
    draws = rng.random((n, 4))
    area = view.crop_min + (view.crop_max - view.crop_min) * draws[:, 0]
    ratio = np.exp(np.log(view.ratio) * (2 * draws[:, 1] - 1))
    ratio = np.where(area < 1, ratio, 1.0)  # the whole image is one crop
    height, width = np.minimum(1, np.sqrt(area / ratio)), np.minimum(1, np.sqrt(area * ratio))
    top, left = draws[:, 2] * (1 - height), draws[:, 3] * (1 - width)
    return np.stack([top, height, left, width], axis=1).astype(np.float32)


def crop_taps(start: Tensor, length: Tensor, flip: Tensor, in_side: int, view: View) -> Taps:
    """Taps [n, view.side, k] that crop `length` from `start` (fractions, [n]), mirror if `flip`, and resize.

    The resampling is linear and antialiased: a triangle filter as wide as the step between output pixels, and
    at least one input pixel.
    """
    longest = min(1, math.sqrt(view.crop_max * view.ratio)) * in_side / view.side
    steps = torch.arange(view.side, device=start.device, dtype=torch.float32)
    steps = torch.where(flip[:, None] > 0, view.side - 1 - steps, steps)
    scale = length[:, None] * in_side / view.side
    centre = start[:, None] * in_side + (steps + 0.5) * scale - 0.5
    radius = scale.clamp(min=1)
    first = (centre - radius).floor() + 1
    reach = torch.arange(math.ceil(2 * max(1, longest)), device=start.device, dtype=torch.float32)
    lines = first[:, :, None] + reach
    return _inside(lines, 1 - (lines - centre[:, :, None]).abs() / radius[:, :, None], in_side)


def blur_taps(sigma: Tensor, view: View) -> Taps:
    """Taps [n, view.side, k] of a Gaussian blur of sigma ([n], pixels; 0: none), out to 4 of the largest."""
    reach = math.ceil(4 * view.blur[1] * view.side / 224)
    steps = torch.arange(-reach, reach + 1, device=sigma.device, dtype=torch.float32)
    weights = torch.exp(-(steps**2) / (2 * sigma.clamp(min=1e-3)[:, None, None] ** 2))
    lines = torch.arange(view.side, device=sigma.device, dtype=torch.float32)[:, None] + steps
    return _inside(lines.expand(len(sigma), -1, -1), weights, view.side)


def _inside(lines: Tensor, weights: Tensor, side: int) -> Taps:
    """Taps without those beyond the border and those with negative weight."""
    inside = lines.clamp(0, side - 1)
    weights = weights.clamp(min=0).where(lines == inside, 0)
    return inside.long(), weights / weights.sum(2, keepdim=True)


def resampled(images: Tensor, rows: list[Taps], columns: list[Taps]) -> Tensor:
    """Images [n, c, h, w] after all taps: float32 [n, c, rows, columns], columns outermost in memory."""
    n, channels, _, width = images.shape
    lines = images.float()
    for taps in rows:
        lines = _combined(lines, taps)
    lines = lines.permute(0, 3, 1, 2).reshape(n, 1, width, -1)
    for taps in columns:
        lines = _combined(lines, taps)
    return lines.view(n, lines.shape[2], channels, -1).permute(0, 2, 3, 1)


def _combined(lines: Tensor, taps: Taps) -> Tensor:
    """Weighted sums [n, m, out, width] of lines [n, m, side, width], in one pass over memory.

    The kernel is the one for sums of embeddings. It adds in the order of the taps, also on a GPU.
    """
    (n, m, side, width), (index, weights) = lines.shape, taps
    starts = side * torch.arange(n * m, device=lines.device).view(n, m, 1, 1)
    combined = functional.embedding_bag(
        (index[:, None] + starts).flatten(0, 2),
        lines.contiguous().view(-1, width),
        per_sample_weights=weights[:, None].expand(-1, m, -1, -1).flatten(0, 2),
        mode="sum",
    )
    return combined.view(n, m, -1, width)


def _draws(batch: Batch, view: View, rng: Draws) -> Tensor:
    """All random numbers of a view, one row per image, in one copy to the batch's device."""
    n = len(batch)
    boxes = crop_boxes(n, view, rng)
    flips = (rng.random((n, 2)) < 0.5)[:, ::-1] & view.flip
    sigma, jitter = _sigma(n, view, rng), _jitter(n, view, rng)
    solar = rng.random(n) < view.solarize_share
    numbers = np.column_stack([boxes, flips, sigma, jitter, solar]).astype(np.float32)
    draws = to_device(numbers, batch.images.device)
    draws[:, 4] *= batch.orientation_free
    return draws


def _sigma(n: int, view: View, rng: Draws) -> NDArray[np.float32]:
    low, high = view.blur
    sigma = (low + (high - low) * rng.random(n)) * view.side / 224
    return np.where(rng.random(n) < view.blur_share, sigma, 0).astype(np.float32)


def _jitter(n: int, view: View, rng: Draws) -> NDArray[np.float32]:
    """Factors of brightness and contrast, [n, 2]; 1 for an image that is not jittered."""
    factors = 1 + np.array([view.brightness, view.contrast]) * (2 * rng.random((n, 2)) - 1)
    return np.where(rng.random((n, 1)) < view.jitter_share, factors, 1).astype(np.float32)


def _recolour(images: Tensor, contrast: Tensor, solar: Tensor, view: View, out: Tensor) -> None:
    """Write images (brightness may exceed 1) into `out` with contrast, normalisation and solarisation.

    Few passes, because memory bandwidth is the limit.
    """
    mean: Tensor | float = 0.0
    if view.jitter_share > 0:  # two sums: the order of one sum would depend on the chunk and the threads
        mean = images.clamp_(max=1).mean(2).mean((1, 2))
    scale, shift = contrast / STD, (mean * (1 - contrast) - MEAN) / STD
    images.mul_(scale[:, None, None, None]).add_(shift[:, None, None, None])
    torch.clamp(images, -MEAN / STD, (1 - MEAN) / STD, out=out)
    if view.solarize_share > 0:  # 1 - x where x >= 1/2 is 1/2 - |x - 1/2|, and MEAN is 1/2
        torch.minimum(out, out * (1 - 2 * solar)[:, None, None, None], out=out)
