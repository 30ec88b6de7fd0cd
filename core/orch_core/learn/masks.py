"""Random masks of patch grids, all images of a batch at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orch_core.learn.randomness import Draws

Bools = NDArray[np.bool_]


def block_masks(counts: NDArray[np.int64], side: int, rng: Draws) -> Bools:
    """Masks [n, side^2] of blocks with exactly counts[i] patches masked (Bao et al. 2022, BEiT, algorithm 1).

    Ten times per image, a block is drawn: its area is at least four patches, its aspect ratio between 0.3 and
    1/0.3. It is masked if it fits and does not exceed the remaining count. Single random patches complete the
    mask.
    """
    n, line = len(counts), np.arange(side)
    masks = np.zeros((n, side, side), bool)
    for _ in range(10):
        left = counts - masks.sum((1, 2))
        area, ratio, top, start = rng.random((n, 4)).T
        area, ratio = 4 + (left - 4) * area, 0.3 ** (1 - 2 * ratio)
        with np.errstate(invalid="ignore"):  # the area is negative if fewer than four remain
            height, width = np.sqrt(area * ratio).round().clip(1), np.sqrt(area / ratio).round().clip(1)
        rows = _within(line, np.floor(top * (side - height + 1)), height)
        columns = _within(line, np.floor(start * (side - width + 1)), width)
        block = rows[:, :, None] & columns[:, None, :]
        fits = (left >= 4) & (height <= side) & (width <= side) & ((block & ~masks).sum((1, 2)) <= left)
        masks |= block & fits[:, None, None]
    flat = masks.reshape(n, side * side)
    order = np.argsort(np.where(flat, 2.0, rng.random((n, side * side))), axis=1)
    single = np.arange(side * side) < (counts - flat.sum(1))[:, None]
    np.put_along_axis(flat, order, np.take_along_axis(flat, order, 1) | single, 1)
    return flat


def _within(line: NDArray[np.int64], first: NDArray[np.float64], count: NDArray[np.float64]) -> Bools:
    return (line >= first[:, None]) & (line < (first + count)[:, None])


def square_order(n: int, side: int, unit: int, rng: Draws) -> NDArray[np.int64]:
    """Patches of a side x side grid in random order, by squares of `unit` x `unit` patches, [n, side^2]."""
    squares = -(-side // unit)
    ranks = np.argsort(rng.random((n, squares * squares)), axis=1).reshape(n, squares, squares)
    rows = ranks.repeat(unit, axis=1).repeat(unit, axis=2)[:, :side, :side].reshape(n, side * side)
    return np.argsort(rows, axis=1, kind="stable")


def apart(
    n: int, side: int, block: tuple[int, int], targets: int, rng: Draws
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Target blocks [n, targets, area] and the other patches in random order [n, side^2 - targets x area].

    All blocks have the size `block` (height, width) at random positions of each image (I-JEPA, section 3).
    They may overlap; the patches that this frees are not returned.
    """
    height, width = block
    top = rng.integers(0, side - height + 1, (n, targets, 1, 1))
    left = rng.integers(0, side - width + 1, (n, targets, 1, 1))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    chosen = ((top + rows) * side + left + columns).reshape(n, targets, height * width)
    key = rng.random((n, side * side))
    np.put_along_axis(key, chosen.reshape(n, -1), 2.0, axis=1)
    return chosen, np.argsort(key, axis=1)[:, : side * side - targets * height * width]
