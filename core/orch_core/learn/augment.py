"""Batched augmentation on the device: crop, resize, flip and blur are weighted sums of a few lines of each image.

A separable resampling makes every row of the result from a few rows of the image, then every column from a few
columns: which ones (the taps) and with what weights differs between images, how many does not. A flip reverses the
order, a blur is a second such sum. No hue or saturation: grey and calibrated images have none.
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
"""Of normalised inputs, the same for every source: intensities keep their meaning between them."""

CPU_CHUNK, GPU_CHUNK = 2**19, 2**24
"""Values augmented at a time: what a CPU's cache holds and malloc hands out again; what keeps a GPU busy, in 64 MB."""

Taps = tuple[Tensor, Tensor]
"""Lines (int64) and their weights (float32, summing to one) that make each line of the result, both [n, out, taps]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How one view is drawn. Shares are probabilities; crops are shares of the area; sides in pixels.

    ratio: bounds of the crop's aspect ratio; blur: bounds of sigma in pixels of a 224-pixel image, scaled to the side.
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
    """One augmented view of every image, float32 [n, channels, side, side], normalised."""
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
    """Crops as (top, height, left, width) in shares of the side, [n, 4].

    Area uniform in crop_min..crop_max, aspect ratio log-uniform (Szegedy et al. 2015), position uniform. A side longer
    than the image is cut to it, which torchvision does too once ten draws have failed.
    """
    draws = rng.random((n, 4))
    area = view.crop_min + (view.crop_max - view.crop_min) * draws[:, 0]
    ratio = np.exp(np.log(view.ratio) * (2 * draws[:, 1] - 1))
    ratio = np.where(area < 1, ratio, 1.0)  # the whole image is one crop
    height, width = np.minimum(1, np.sqrt(area / ratio)), np.minimum(1, np.sqrt(area * ratio))
    top, left = draws[:, 2] * (1 - height), draws[:, 3] * (1 - width)
    return np.stack([top, height, left, width], axis=1).astype(np.float32)


def crop_taps(start: Tensor, length: Tensor, flip: Tensor, in_side: int, view: View) -> Taps:
    """Taps [n, view.side, k] that crop `length` from `start` (shares, [n]), mirror where flip is 1, and resize, linear, antialiased.

    Triangle filter as wide as the step between output pixels, at least one input pixel.
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
    """Taps [n, view.side, k] of a Gaussian blur of sigma ([n], pixels) out to four of the largest; 0 leaves the image."""
    reach = math.ceil(4 * view.blur[1] * view.side / 224)
    steps = torch.arange(-reach, reach + 1, device=sigma.device, dtype=torch.float32)
    weights = torch.exp(-(steps**2) / (2 * sigma.clamp(min=1e-3)[:, None, None] ** 2))
    lines = torch.arange(view.side, device=sigma.device, dtype=torch.float32)[:, None] + steps
    return _inside(lines.expand(len(sigma), -1, -1), weights, view.side)


def _inside(lines: Tensor, weights: Tensor, side: int) -> Taps:
    """Taps without those beyond the border or of negative weight."""
    inside = lines.clamp(0, side - 1)
    weights = weights.clamp(min=0).where(lines == inside, 0)
    return inside.long(), weights / weights.sum(2, keepdim=True)


def resampled(images: Tensor, rows: list[Taps], columns: list[Taps]) -> Tensor:
    """Images [n, c, h, w] with all taps applied, one after the other, float32 [n, c, rows, columns], columns outermost in memory."""
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

    The kernel is the one for sums of embeddings. It adds in the order of the taps, on a GPU too.
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
    """All random numbers of a view, one row an image, on its device in one copy."""
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
    """Factors of brightness and contrast, [n, 2]; 1 where the image keeps its own."""
    factors = 1 + np.array([view.brightness, view.contrast]) * (2 * rng.random((n, 2)) - 1)
    return np.where(rng.random((n, 1)) < view.jitter_share, factors, 1).astype(np.float32)


def _recolour(images: Tensor, contrast: Tensor, solar: Tensor, view: View, out: Tensor) -> None:
    """Contrast, normalisation and solarisation into `out` of images that brightness has taken beyond 1.

    Few passes: memory is what these wait for.
    """
    mean: Tensor | float = 0.0
    if view.jitter_share > 0:  # two sums: the order of a single one would depend on the chunk and the threads
        mean = images.clamp_(max=1).mean(2).mean((1, 2))
    scale, shift = contrast / STD, (mean * (1 - contrast) - MEAN) / STD
    images.mul_(scale[:, None, None, None]).add_(shift[:, None, None, None])
    torch.clamp(images, -MEAN / STD, (1 - MEAN) / STD, out=out)
    if view.solarize_share > 0:  # 1 - x where x >= 1/2 is 1/2 - |x - 1/2|, and MEAN is 1/2
        torch.minimum(out, out * (1 - 2 * solar)[:, None, None, None], out=out)
