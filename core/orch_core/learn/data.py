"""A cell's images in memory: pretraining set and held-out set, uint8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from orch_core.cell import Cell
from orch_core.errors import OrchError
from orch_core.images import hash_order, image_keys, pretraining_order, read_split
from orch_core.learn.randomness import generator

HELD_OUT = 512
"""Held-out images of a cell; the first by hash rank, so that cells of every size share them."""

ORIENTATION_FREE = ("microscopy", "histology", "pathology", "dermoscopy", "cytology")
"""Words of modalities whose images have no up and down: these are also flipped vertically."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """images: uint8 [n, channels, resolution, resolution]; free: bool [n], no up and down.

    labels: int64 [n], the first label of each image, those of every source after those of the sources before it.
    """

    images: Tensor
    free: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, indices: NDArray[np.int64] | slice) -> Batch:
        """The images at `indices`."""
        where = indices if isinstance(indices, slice) else torch.from_numpy(indices)
        return Batch(images=self.images[where], free=self.free[where], labels=self.labels[where])

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(images=self.images.to(device), free=self.free.to(device), labels=self.labels.to(device))


def pretraining_set(cell: Cell) -> Batch:
    """The first images by hash rank of each portion; raises OrchError where a source holds fewer."""
    parts, first = [], 0
    for portion in cell.data:
        path = Path(portion.path)
        images, labels = read_split(path, "train")
        order = pretraining_order(path, cell.subset_seed)
        if len(order) < portion.images:
            message = f"{path}: {portion.images} images asked for, {len(order)} are there"
            raise OrchError(message, hint="lower the data size, or plan again if the file has changed")
        chosen = order[: portion.images]
        parts.append(_batch(images[chosen], labels[chosen] + first, portion.modality, cell))
        first += int(labels[:, 0].max()) + 1
    return _joined(parts)


def held_out_set(cell: Cell) -> Batch:
    """The first images by hash rank of the validation splits, from each source in proportion to its size, mixed."""
    splits = [(portion, *read_split(Path(portion.path), "val")) for portion in cell.data]
    total = sum(len(images) for _, images, _ in splits)
    parts, first = [], 0
    for portion, images, labels in splits:
        share = min(len(images), max(1, round(HELD_OUT * len(images) / total)))
        chosen = hash_order(image_keys(images), 0)[:share]
        parts.append(_batch(images[chosen], labels[chosen] + first, portion.modality, cell))
        first += int(read_split(Path(portion.path), "train")[1][:, 0].max()) + 1
    joined = _joined(parts)
    return joined.rows(generator(0, "held out order").permutation(len(joined)))


def as_tensor(images: NDArray[np.uint8], *, resolution: int, channels: int) -> Tensor:
    """Images [n, h, w, c] as uint8 [n, channels, resolution, resolution]: luma where grey is asked, resized if needed."""
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if channels == 1 and tensor.shape[1] == 3:
        luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601, as PIL's convert("L")
        tensor = (tensor * luma).sum(1, keepdim=True).round().to(torch.uint8)
    if tensor.shape[-2:] != (resolution, resolution):
        resized = [
            functional.interpolate(
                chunk.float(), (resolution, resolution), mode="bilinear", align_corners=False, antialias=True
            )
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
            for chunk in chunks_of(tensor, 1024)
        ]
        tensor = torch.cat(resized)
    return tensor.expand(-1, channels, -1, -1) if tensor.shape[1] != channels else tensor


def chunks_of(tensor: Tensor, size: int) -> list[Tensor]:
    """Slices of up to `size` rows."""
    return [tensor[start : start + size] for start in range(0, len(tensor), size)]


def _batch(images: NDArray[np.uint8], labels: NDArray[np.int64], modality: str, cell: Cell) -> Batch:
    words = modality.lower()
    return Batch(
        images=as_tensor(images, resolution=cell.resolution, channels=cell.channels),
        free=torch.full((len(images),), any(word in words for word in ORIENTATION_FREE)),
        labels=torch.from_numpy(labels[:, 0].copy()),
    )


def _joined(parts: list[Batch]) -> Batch:
    return Batch(
        images=torch.cat([part.images for part in parts]),
        free=torch.cat([part.free for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
    )
