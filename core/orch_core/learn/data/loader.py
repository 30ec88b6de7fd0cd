"""Every step's batch in the order of the seed; worker processes read packs ahead."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from orch_core.cell import Cell
from orch_core.errors import OrchError
from orch_core.learn.data.batch import Batch, joined
from orch_core.learn.data.packed import Packed
from orch_core.learn.randomness import epoch_indices

PIECE = 64
"""Images that a worker reads at a time: workers share a batch, and about two batches are in memory ahead."""
MOST_WORKERS = 16


def batches(
    images: Batch | Packed,
    cell: Cell,
    first_step: int = 0,
    workers: int = 0,
    *,
    device: torch.device | None = None,
    share: slice = slice(None),
) -> Iterator[Batch]:
    """The batch of every step from `first_step` to the cell's last, on `device`.

    Step s shows `images.rows(epoch_indices(s * cell.batch, cell.batch, len(images), cell.seed)[share])`, with
    any number of workers and from any first step; earlier steps are not read. `share` is a process's part of
    the global batch. Raises OrchError if a pack cannot be read. Workers end with the iterator (`close()` or
    delete it), and ignore the signals that ask the run to save.
    """
    place = device or torch.device("cpu")
    if isinstance(images, Batch) or workers == 0:
        for step in range(first_step, cell.steps):
            yield images.rows(_order(images, cell, step)[share]).to(place)
        return
    yield from _read_ahead(images, cell, first_step, workers, share, place)


def workers_here() -> int:
    """Worker processes for a run on this machine: one less than the cores that it may use, at least one."""
    return min(MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pieces:
    """Every step's batch in pieces: piece p of step s is number s * pieces + p."""

    images: Packed
    cell: Cell
    share: slice
    pieces: int

    def __getitem__(self, number: int) -> Batch | OrchError:
        """One piece, or the error as a value: raised in a worker, it would lose its hint."""
        step, piece = divmod(number, self.pieces)
        order = _order(self.images, self.cell, step)[self.share]
        try:
            return self.images.rows(np.array_split(order, self.pieces)[piece])
        except OrchError as error:
            return error

    def __len__(self) -> int:
        return self.cell.steps * self.pieces


def _read_ahead(
    images: Packed, cell: Cell, first_step: int, workers: int, share: slice, device: torch.device
) -> Iterator[Batch]:
    shown = len(range(*share.indices(cell.batch)))
    pieces = math.ceil(shown / PIECE)
    source = _Pieces(images=images, cell=cell, share=share, pieces=pieces)
    loader: DataLoader[Batch | OrchError] = DataLoader(
        cast("Dataset[Batch | OrchError]", source),
        batch_size=None,
        sampler=range(first_step * pieces, cell.steps * pieces),
        num_workers=workers,
        collate_fn=cast("Any", _as_is),
        prefetch_factor=max(2, math.ceil(2 * pieces / workers)),
        pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_signals,
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
        generator=torch.Generator(),  # otherwise it draws from the global one, whose state belongs to the run
    )
    waiting: list[Batch] = []
    for piece in loader:
        if isinstance(piece, OrchError):
            raise piece
        waiting.append(piece.to(device))  # before joining, because a joined batch is not pinned
        if len(waiting) == pieces:
            yield joined(waiting)
            waiting = []


def _order(images: Batch | Packed, cell: Cell, step: int) -> NDArray[np.int64]:
    return epoch_indices(step * cell.batch, cell.batch, len(images), cell.seed)


def _as_is(piece: Batch | OrchError) -> Batch | OrchError:
    return piece


def _ignore_signals(_worker: int) -> None:
    """Slurm signals all processes of the run, but the run needs batches until it has saved."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
