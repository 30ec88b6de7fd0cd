"""Byte-equal images in different files of a study: training images of a source that a task scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orch_core.images.npz import SPLITS, split_keys
from orch_core.packs.layout import ALL, INDEX, is_pack_folder, modality_code, read_manifest

KEY = np.dtype([("high", "<u8"), ("low", "<u8")])
"""Content key of an image: blake2b-128 of its pixels, as two numbers."""
Keys = NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """How many `images` of the `split` of a `task` are byte-equal to training images of a `source`."""

    source: str
    task: str
    split: str
    images: int


def leaks(sources: dict[str, tuple[Path, str]], tasks: dict[str, Path]) -> list[Leak]:
    """Leaks from every source (path and modality) into val and test of every task in another file."""
    found = []
    for source, (path, modality) in sources.items():
        for task, other in tasks.items():
            if path.resolve() != other.resolve():
                seen = content_keys(path, modality)["train"]
                scored = content_keys(other, ALL)
                counts = {split: int(np.isin(scored[split], seen).sum()) for split in ("val", "test")}
                found += [
                    Leak(source=source, task=task, split=split, images=count)
                    for split, count in counts.items()
                    if count
                ]
    return found


def content_keys(path: Path, modality: str) -> dict[str, Keys]:
    """Content keys of each split of an npz, or of a pack folder's modality.

    Raises OrchError if the path is neither.
    """
    if is_pack_folder(path):
        return _pack_keys(path, modality)
    return {split: _npz_keys(path, split) for split in SPLITS}


def _npz_keys(path: Path, split: str) -> Keys:
    joined = b"".join(split_keys(path, split))
    return np.frombuffer(joined, np.dtype([("high", ">u8"), ("low", ">u8")])).astype(KEY)


def _pack_keys(folder: Path, modality: str) -> dict[str, Keys]:
    import polars as pl

    index = pl.read_parquet(folder / INDEX, columns=["hash_high", "hash_low", "split", "code", "pretraining"])
    code = modality_code(read_manifest(folder), modality)
    chosen = index if code is None else index.filter(pl.col("code") == code)
    found = {}
    for number, split in enumerate(SPLITS):
        rows = chosen.filter(pl.col("split") == number)
        rows = rows.filter(pl.col("pretraining") == 1) if split == "train" else rows
        keys = np.empty(rows.height, KEY)
        keys["high"], keys["low"] = rows["hash_high"].to_numpy(), rows["hash_low"].to_numpy()
        found[split] = keys
    return found
