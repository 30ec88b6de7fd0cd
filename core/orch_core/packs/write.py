"""The final files of a pack folder. Each appears whole or not at all; the manifest is last."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_core.errors import OrchError
from orch_core.images.npz import fingerprint
from orch_core.packs.arrange import CHUNK
from orch_core.packs.layout import HEADER, ORDERS, ROW, TABLE, Pack, header

PACK_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A pack to be written: its place among the packs, the units' runs, and where its images lie in them.

    unit: place in `runs` of every image; offset, sizes: bytes in that file; hashes: their
    content hashes, 16 bytes each
    """

    number: int
    first: int
    runs: Sequence[Path]
    unit: NDArray[np.uint32]
    offset: NDArray[np.uint64]
    sizes: NDArray[np.uint32]
    hashes: bytes


def write_pack(draft: Draft, folder: Path) -> Pack:
    """Write one pack, or take the one that is there already; raises OrchError if a run has changed."""
    path = folder / f"{draft.number:05d}.pack"
    identity = hashlib.blake2b(draft.hashes, digest_size=16).hexdigest()
    size = HEADER + int(draft.sizes.sum(dtype=np.uint64))
    if not _is_written(path, identity, size):
        _copy(draft, path, header(identity))
    return Pack(
        file=f"{folder.name}/{path.name}",
        first=draft.first,
        rows=len(draft.unit),
        bytes=size,
        hash=fingerprint(path),
        id=identity,
    )


def _is_written(path: Path, identity: str, size: int) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(HEADER) == header(identity) and path.stat().st_size == size
    except FileNotFoundError:
        return False


def _copy(draft: Draft, path: Path, first: bytes) -> None:
    files: dict[int, int] = {}
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("wb", buffering=2**20) as out:
            out.write(first)
            for unit, offset, size in zip(
                draft.unit.tolist(), draft.offset.tolist(), draft.sizes.tolist(), strict=True
            ):
                if unit not in files:
                    files[unit] = os.open(draft.runs[unit], os.O_RDONLY)
                blob = os.pread(files[unit], size, offset)
                if len(blob) != size:
                    message = f"{draft.runs[unit]} is shorter than it was written"
                    raise OrchError(message, hint=f"delete {draft.runs[unit].parent} and pack again")
                out.write(blob)
            out.flush()
            os.fsync(out.fileno())
    finally:
        for handle in files.values():
            os.close(handle)
    os.replace(partial, path)


def write_table(index: pl.DataFrame, bounds: Sequence[int], folder: Path, identity: str) -> None:
    """Write `table.bin`: the header and a ROW an image."""
    sizes = index["bytes"].to_numpy()
    partial = folder / f"{TABLE}.partial"
    with partial.open("wb") as file:
        file.write(header(identity))
        for first, last in pairwise(bounds):
            offsets = HEADER + np.cumsum(sizes[first:last], dtype=np.uint64) - sizes[first:last]
            for start in range(first, last, CHUNK):
                part = index.slice(start, min(CHUNK, last - start))
                file.write(_table(part, offsets[start - first : start - first + len(part)]).tobytes())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / TABLE)


def write_orders(orders: Sequence[NDArray[np.int64]], folder: Path, identity: str) -> None:
    """Write `orders.bin`: the header and, modality after modality, its rows as uint32."""
    partial = folder / f"{ORDERS}.partial"
    with partial.open("wb") as file:
        file.write(header(identity))
        for rows in orders:
            file.write(rows.astype("<u4").tobytes())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / ORDERS)


def _table(part: pl.DataFrame, offsets: NDArray[np.uint64]) -> NDArray[np.void]:
    rows = np.zeros(len(part), ROW)
    rows["offset"] = offsets
    for name in ("bytes", "crc", "height", "width", "channels", "format", "split", "pretraining", "source"):
        rows[name] = part[name].to_numpy()
    rows["modality"] = part["code"].to_numpy()
    rows["label"] = part["labels"].list.get(0, null_on_oob=True).fill_null(-1).to_numpy()
    return rows
