"""Batched augmentation on the device: crop, resize, flip and blur are one pair of matrix products per image.

A separable resampling is out = A_rows @ image @ A_cols^T. Crop, scale, mirror and Gaussian blur all act
on rows and columns alone, so each is a factor of A. No hue or saturation: grey and calibrated images have none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orch_core.learn.data import Batch
from orch_core.learn.randomness import Draws

MEAN, STD = 0.5, 0.25
"""Of normalised inputs, the same for every source: intensities keep their meaning between them."""


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
    n, device = len(batch), batch.images.device
    boxes = crop_boxes(n, view, rng)
    mirrors = rng.random((n, 2)) < 0.5
    sigma = _sigma(n, view, rng)
    jitter = _jitter(n, view, rng)
    solar = rng.random(n) < view.solarize_share
    columns_flip = torch.from_numpy(mirrors[:, 0] & view.flip).to(device)
    rows_flip = torch.from_numpy(mirrors[:, 1] & view.flip).to(device) & batch.free
    boxes_on, sigma_on = torch.from_numpy(boxes).to(device), torch.from_numpy(sigma).to(device)
    in_side = batch.images.shape[-1]
    rows = resampling(boxes_on[:, 0], boxes_on[:, 1], in_side, view.side, rows_flip)
    columns = resampling(boxes_on[:, 2], boxes_on[:, 3], in_side, view.side, columns_flip)
    if view.blur_share > 0:
        kernel = blurring(sigma_on, view.side)
        rows, columns = kernel @ rows, kernel @ columns
    images = batch.images.float() / 255
    images = rows[:, None] @ images @ columns[:, None].transpose(2, 3)
    images = _recolour(images, torch.from_numpy(jitter).to(device), torch.from_numpy(solar).to(device), view)
    return images.sub_(MEAN).div_(STD)


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


def resampling(start: Tensor, length: Tensor, in_side: int, out_side: int, flip: Tensor) -> Tensor:
    """Matrices [n, out_side, in_side] that crop `length` from `start` (shares) and resize it, linear, antialiased.

    Triangle filter as wide as the step between output pixels, at least one input pixel; rows sum to one.
    """
    steps = torch.arange(out_side, device=start.device, dtype=torch.float32)
    steps = torch.where(flip[:, None], out_side - 1 - steps, steps)
    scale = length[:, None] * in_side / out_side
    centre = start[:, None] * in_side + (steps + 0.5) * scale
    pixels = torch.arange(in_side, device=start.device, dtype=torch.float32) + 0.5
    distance = (pixels - centre[:, :, None]).abs() / scale.clamp(min=1)[:, :, None]
    weights = (1 - distance).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)


def blurring(sigma: Tensor, side: int) -> Tensor:
    """Matrices [n, side, side] of a Gaussian blur, renormalised at the border; sigma 0 leaves the image."""
    pixels = torch.arange(side, device=sigma.device)
    by_distance = torch.exp(-(pixels.float() ** 2) / (2 * sigma.clamp(min=1e-3)[:, None] ** 2))
    weights = by_distance[:, (pixels[:, None] - pixels).abs()]
    return weights / weights.sum(2, keepdim=True)


def _sigma(n: int, view: View, rng: Draws) -> NDArray[np.float32]:
    low, high = view.blur
    sigma = (low + (high - low) * rng.random(n)) * view.side / 224
    return np.where(rng.random(n) < view.blur_share, sigma, 0).astype(np.float32)


def _jitter(n: int, view: View, rng: Draws) -> NDArray[np.float32]:
    """Factors of brightness and contrast, [n, 2]; 1 where the image keeps its own."""
    factors = 1 + np.array([view.brightness, view.contrast]) * (2 * rng.random((n, 2)) - 1)
    return np.where(rng.random((n, 1)) < view.jitter_share, factors, 1).astype(np.float32)


def _recolour(images: Tensor, jitter: Tensor, solar: Tensor, view: View) -> Tensor:
    """Brightness, contrast and solarisation, in place: these pass over every pixel, and memory is what they wait for."""
    if view.jitter_share > 0:
        images.mul_(jitter[:, 0, None, None, None]).clamp_(0, 1)
        mean = images.mean((1, 2, 3), keepdim=True)
        images.sub_(mean).mul_(jitter[:, 1, None, None, None]).add_(mean).clamp_(0, 1)
    if view.solarize_share > 0:
        inverted = images[solar]
        images[solar] = torch.where(inverted >= 0.5, 1 - inverted, inverted)
    return images
