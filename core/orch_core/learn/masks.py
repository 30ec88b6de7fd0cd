"""Block-wise masks of patch grids, from counters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


def block_masks(counts: NDArray[np.int64], side: int, rng: np.random.Generator) -> Bools:
    """Masks [n, side^2] with exactly counts[i] patches masked, in blocks (Bao et al. 2022, BEiT, algorithm 1).

    Blocks of at least four patches (or what is left) and an aspect ratio of 0.3 to 1/0.3 are laid until no more than
    the count is masked; single patches at random fill it up.
    """
    masks = np.zeros((len(counts), side, side), bool)
    for mask, count in zip(masks, counts, strict=True):
        for _ in range(10 if count else 0):
            left = int(count - mask.sum())
            if left < 4:
                break
            _lay(mask, left, rng)
        empty = np.flatnonzero(~mask.ravel())
        mask.ravel()[rng.permutation(empty)[: int(count - mask.sum())]] = True
    return masks.reshape(len(counts), side * side)


def _lay(mask: Bools, left: int, rng: np.random.Generator) -> None:
    """Mask one block of at most `left` patches that are not masked yet; nothing where the draw does not fit."""
    side, area = len(mask), rng.uniform(4, left)
    ratio = np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
    height, width = max(1, round(np.sqrt(area * ratio))), max(1, round(np.sqrt(area / ratio)))
    if height > side or width > side:
        return
    top, start = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
    block = mask[top : top + height, start : start + width]
    if (~block).sum() <= left:
        block[:] = True


def square_order(n: int, side: int, unit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Patches of a side x side grid in random order, whole squares of `unit` patches one after the other, [n, side^2]."""
    squares = -(-side // unit)
    ranks = rng.permuted(np.tile(np.arange(squares * squares), (n, 1)), axis=1).reshape(n, squares, squares)
    rows = ranks.repeat(unit, axis=1).repeat(unit, axis=2)[:, :side, :side].reshape(n, side * side)
    return np.argsort(rows, axis=1, kind="stable")


def apart(
    n: int, side: int, block: tuple[int, int], targets: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Target blocks [n, targets, area], which may overlap, and the other patches in random order [n, side^2 - targets x area].

    All blocks are `block` high and wide; where each lies is the image's own (I-JEPA, section 3). Where targets overlap more
    patches are left than are returned.
    """
    height, width = block
    top = rng.integers(0, side - height + 1, (n, targets, 1, 1))
    left = rng.integers(0, side - width + 1, (n, targets, 1, 1))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    chosen = ((top + rows) * side + left + columns).reshape(n, targets, height * width)
    key = rng.random((n, side * side))
    np.put_along_axis(key, chosen.reshape(n, -1), 2.0, axis=1)
    return chosen, np.argsort(key, axis=1)[:, : side * side - targets * height * width]
