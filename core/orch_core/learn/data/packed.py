"""Images in packs, read and decoded on demand. No file stays open, so any process may use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orch_core.learn.data.batch import Batch, as_tensor
from orch_core.packs.read import Selection, open_packs, read_images

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPart:
    """The first `count` images of a selection from one pack folder.

    fingerprint:      of the whole folder, which must not change
    orientation_free: by modality, whether its images have no up or down
    first_labels:     by source, the number added to its labels
    """

    folder: Path
    fingerprint: str
    selection: Selection
    count: int
    resolution: int
    channels: int
    orientation_free: tuple[bool, ...]
    first_labels: tuple[int, ...]

    def __len__(self) -> int:
        return self.count

    def rows(self, places: Places) -> Batch:
        """The images at `places` (each below `count`); raises OrchError if a pack has changed."""
        packs = open_packs(self.folder, self.fingerprint)
        rows = self.selection.at(places)
        entries = packs.table[rows]
        labels = entries["label"].astype(np.int64)
        labels = np.where(labels < 0, -1, labels + np.array(self.first_labels)[entries["source"]])
        return Batch(
            images=self._resized(read_images(packs, rows)),
            orientation_free=torch.from_numpy(np.array(self.orientation_free)[entries["modality"]]),
            labels=torch.from_numpy(labels),
        )

    def _resized(self, images: list[NDArray[np.uint8]]) -> Tensor:
        """Images of any shapes at the cell's resolution; images of equal shape are resized together."""
        out = torch.empty((len(images), self.channels, self.resolution, self.resolution), dtype=torch.uint8)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(images):
            shapes.setdefault(image.shape, []).append(place)
        for places in shapes.values():
            stacked = np.stack([images[place] for place in places])
            out[places] = as_tensor(stacked, resolution=self.resolution, channels=self.channels)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The parts of a cell's data in order, of which at least one is packed."""

    parts: tuple[Batch | PackedPart, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def rows(self, indices: Places) -> Batch:
        """The images at `indices`."""
        ends = np.cumsum([len(part) for part in self.parts])
        owner = np.searchsorted(ends, indices, side="right")
        if (owner == owner[0]).all():
            place = int(owner[0])
            return self.parts[place].rows(indices - (int(ends[place]) - len(self.parts[place])))
        places = [np.flatnonzero(owner == number) for number in range(len(self.parts))]
        found = [
            (where, part.rows(indices[where] - (int(end) - len(part))))
            for where, part, end in zip(places, self.parts, ends, strict=True)
            if len(where)
        ]
        back = torch.from_numpy(np.argsort(np.concatenate([where for where, _ in found])))
        return Batch(
            images=torch.cat([batch.images for _, batch in found])[back],
            orientation_free=torch.cat([batch.orientation_free for _, batch in found])[back],
            labels=torch.cat([batch.labels for _, batch in found])[back],
        )

    def to(self, _device: torch.device) -> Packed:
        """Return self: each batch goes to the device when it is drawn."""
        return self
