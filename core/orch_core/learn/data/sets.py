"""The images that a cell sees: the first by hash rank of each portion of its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from orch_core.cell import Cell, SourceSubset
from orch_core.errors import OrchError
from orch_core.images.npz import hash_order, image_keys, pretraining_order, read_split, require_unchanged
from orch_core.learn.data.batch import Batch, as_tensor, joined
from orch_core.learn.data.packed import Packed, PackedPart
from orch_core.learn.randomness import generator
from orch_core.monitoring import HELD_OUT
from orch_core.packs.layout import is_pack_folder, modality_code
from orch_core.packs.read import open_packs, select

ORIENTATION_FREE = ("microscopy", "histology", "pathology", "dermoscopy", "cytology")
"""Words in the names of modalities whose images have no up or down: these are also flipped vertically."""


def pretraining_set(cell: Cell) -> Batch | Packed:
    """The first images by hash rank of each portion; raises OrchError if a source has fewer, or has changed.

    In memory if every portion comes from an npz file; otherwise images are read on demand.
    """
    parts: list[Batch | PackedPart] = []
    first = 0
    for portion in cell.data:
        if is_pack_folder(Path(portion.path)):
            parts.append(_packed_part(portion, "train", portion.images, first, cell))
        else:
            parts.append(_first_of_npz(portion, first, cell))
        first += _classes(portion)
    loaded = [part for part in parts if isinstance(part, Batch)]
    return joined(loaded) if len(loaded) == len(parts) else Packed(parts=tuple(parts))


def held_out_set(cell: Cell) -> Batch:
    """The first validation images by hash rank, from each source in proportion to its size, shuffled."""
    sizes = [_val_images(portion) for portion in cell.data]
    parts, first = [], 0
    for portion, size in zip(cell.data, sizes, strict=True):
        share = min(size, max(1, round(HELD_OUT * size / sum(sizes))))
        parts.append(_val_batch(portion, share, first, cell))
        first += _classes(portion)
    whole = joined(parts)
    return whole.rows(generator(0, "held out order").permutation(len(whole)))


def is_orientation_free(modality: str) -> bool:
    """Whether images of a modality have no up or down."""
    words = modality.lower()
    return any(word in words for word in ORIENTATION_FREE)


def _first_of_npz(portion: SourceSubset, first: int, cell: Cell) -> Batch:
    path = Path(portion.path)
    images, labels = read_split(path, "train", portion.fingerprint)
    order = pretraining_order(path, cell.subset_seed, portion.fingerprint)
    _enough(portion, len(order))
    chosen = order[: portion.images]
    return _batch(images[chosen], labels[chosen] + first, portion.modality, cell)


def _enough(portion: SourceSubset, there: int) -> None:
    if there < portion.images:
        message = f"{portion.path}: {portion.images} images requested, but only {there} exist"
        raise OrchError(message, hint="lower the data size, or plan again if the file has changed")


def _packed_part(portion: SourceSubset, split: str, images: int, first: int, cell: Cell) -> PackedPart:
    packs = open_packs(Path(portion.path))
    code = modality_code(packs.manifest, portion.modality)
    modalities = packs.manifest.modalities
    now = packs.manifest.fingerprint if code is None else modalities[code].fingerprint
    require_unchanged(packs.folder, now, portion.fingerprint)
    chosen = select(packs, portion.modality, split, cell.subset_seed)
    if split == "train":
        _enough(portion, chosen.count)
    return PackedPart(
        folder=packs.folder,
        fingerprint=packs.manifest.fingerprint,
        selection=chosen,
        count=images,
        resolution=cell.resolution,
        channels=cell.channels,
        orientation_free=tuple(is_orientation_free(one.name) for one in modalities),
        first_labels=_first_labels(portion, first),
    )


def _first_labels(portion: SourceSubset, first: int) -> tuple[int, ...]:
    """Number to add to the labels of each source of a pack folder, so that classes of sources differ."""
    packs = open_packs(Path(portion.path))
    used = _sources_used(portion)
    starts = []
    for place, source in enumerate(packs.manifest.sources):
        starts.append(first)
        first += source.classes if place in used else 0
    return tuple(starts)


def _sources_used(portion: SourceSubset) -> set[int]:
    """Places of the sources of a pack folder that have images of the portion's modality."""
    manifest = open_packs(Path(portion.path)).manifest
    code = modality_code(manifest, portion.modality)
    return {
        place
        for number, one in enumerate(manifest.modalities)
        if code in {None, number}
        for place in one.sources
    }


def _classes(portion: SourceSubset) -> int:
    """Number of classes of a portion's source; 0 without labels."""
    path = Path(portion.path)
    if not is_pack_folder(path):
        return int(read_split(path, "train", portion.fingerprint)[1][:, 0].max()) + 1
    sources = open_packs(path).manifest.sources
    return sum(sources[place].classes for place in _sources_used(portion))


def _val_images(portion: SourceSubset) -> int:
    path = Path(portion.path)
    if is_pack_folder(path):
        return select(open_packs(path), portion.modality, "val").count
    return len(read_split(path, "val", portion.fingerprint)[0])


def _val_batch(portion: SourceSubset, share: int, first: int, cell: Cell) -> Batch:
    path = Path(portion.path)
    if is_pack_folder(path):
        return _packed_part(portion, "val", share, first, cell).rows(np.arange(share))
    images, labels = read_split(path, "val", portion.fingerprint)
    chosen = hash_order(image_keys(images), 0)[:share]
    return _batch(images[chosen], labels[chosen] + first, portion.modality, cell)


def _batch(images: NDArray[np.uint8], labels: NDArray[np.int64], modality: str, cell: Cell) -> Batch:
    return Batch(
        images=as_tensor(images, resolution=cell.resolution, channels=cell.channels),
        orientation_free=torch.full((len(images),), is_orientation_free(modality)),
        labels=torch.from_numpy(labels[:, 0].copy()),
    )
