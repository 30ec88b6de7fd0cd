"""Principal components of raw pixels, for the control without an encoder; only few images in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from orch_core.images.npz import Images
from orch_core.learn.randomness import generator
from orch_core.recipes.pixels import BATCH_BYTES, EXACT, ITERATIONS, OVERSAMPLED

Floats = NDArray[np.float64]


def principal_components(
    images: Mapping[str, Images], components: int, check_stop: Callable[[], None] = lambda: None
) -> dict[str, Floats]:
    """Scores [n, components] of each split on the first principal components of the train split's pixels.

    There are fewer components if the train split has fewer images, or pixels of a lower rank. `check_stop` is
    called between batches, and may raise.
    """
    flat = {split: array.reshape(len(array), -1) for split, array in images.items()}
    train = flat["train"]
    n, pixels = train.shape
    mean = train.sum(0, dtype=np.int64) / (255 * n)
    if min(n, pixels) > EXACT:
        values, basis = _by_iteration(train, mean, components, check_stop)
    elif n < pixels:
        values, basis = _by_images(train, mean, components, check_stop)
    else:
        values, basis = _by_pixels(train, mean, components, check_stop)
    rank = min(components, n - 1, int((values > values[0] * 1e-12).sum()))
    return {
        split: np.concatenate(
            [rows @ basis[:, :rank] for rows in _batches(array, mean, check_stop)] or [np.empty((0, rank))]
        )
        for split, array in flat.items()
    }


def _batches(flat: NDArray[np.uint8], mean: Floats, check_stop: Callable[[], None]) -> Iterator[Floats]:
    """Rows in [0, 1] minus their mean, a batch at a time."""
    rows = max(1, BATCH_BYTES // (8 * flat.shape[1]))
    for first in range(0, len(flat), rows):
        check_stop()
        some = flat[first : first + rows] / 255
        some -= mean
        yield some


def _columns(
    flat: NDArray[np.uint8], mean: Floats, check_stop: Callable[[], None]
) -> Iterator[tuple[slice, Floats]]:
    """The same, for a range of pixels of all rows at a time."""
    width = max(1, BATCH_BYTES // (8 * len(flat)))
    for first in range(0, flat.shape[1], width):
        check_stop()
        where = slice(first, first + width)
        some = flat[:, where] / 255
        some -= mean[where]
        yield where, some


def _by_pixels(
    train: NDArray[np.uint8], mean: Floats, components: int, check_stop: Callable[[], None]
) -> tuple[Floats, Floats]:
    """Eigenvalues, the largest first, and basis [pixels, components] of the pixels' scatter matrix."""
    scatter = np.zeros((train.shape[1], train.shape[1]))
    for rows in _batches(train, mean, check_stop):
        scatter += rows.T @ rows
    values, vectors = np.linalg.eigh(scatter)
    return values[::-1], vectors[:, ::-1][:, :components]


def _by_images(
    train: NDArray[np.uint8], mean: Floats, components: int, check_stop: Callable[[], None]
) -> tuple[Floats, Floats]:
    """The same from the images' inner products: X X' = U S U' gives the basis X' U S^-1/2."""
    inner = np.zeros((len(train), len(train)))
    for _, part in _columns(train, mean, check_stop):
        inner += part @ part.T
    values, vectors = np.linalg.eigh(inner)
    values, vectors = values[::-1], vectors[:, ::-1][:, :components]
    scaled = vectors / np.sqrt(np.maximum(values[:components], np.finfo(float).tiny))
    basis = np.empty((train.shape[1], scaled.shape[1]))
    for where, part in _columns(train, mean, check_stop):
        basis[where] = part.T @ scaled
    return values, basis


def _by_iteration(
    train: NDArray[np.uint8], mean: Floats, components: int, check_stop: Callable[[], None]
) -> tuple[Floats, Floats]:
    """Approximately the same: subspace iteration from random directions, then the best components in it."""
    count = min(components + OVERSAMPLED, *train.shape)
    space = generator(0, "projection").standard_normal((train.shape[1], count))
    for _ in range(ITERATIONS):
        product = np.zeros_like(space)
        for rows in _batches(train, mean, check_stop):
            product += rows.T @ (rows @ space)
        space = np.linalg.qr(product)[0]
    inner = np.zeros((count, count))
    for rows in _batches(train, mean, check_stop):
        part = rows @ space
        inner += part.T @ part
    values, vectors = np.linalg.eigh(inner)
    return values[::-1], space @ vectors[:, ::-1][:, :components]
