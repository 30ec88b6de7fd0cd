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
