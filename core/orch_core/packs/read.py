"""Reading packs: any rows, in any order, from any number of processes, without a scan and without state."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_core.errors import OrchError
from orch_core.images.npz import SPLITS, Images, Labels, fingerprint, require_unchanged
from orch_core.images.subset import Rows, stratified_order
from orch_core.packs.arrange import ranks_at, strata_of
from orch_core.packs.decode import FORMATS, BadImage, decode_stored
from orch_core.packs.facts import TASK_HINT, task_problem
from orch_core.packs.layout import (
    ALL,
    HEADER,
    INDEX,
    MANIFEST,
    ORDERS,
    ROW,
    TABLE,
    Manifest,
    Modality,
    header,
    modality_code,
    read_manifest,
)

MOST_OPEN = 256
"""Packs that a process keeps open at once, far below the usual limit of 1,024 files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packs:
    """An open pack folder.

    table:  ROW [n], mapped; orders: rows [n] by modality, each in its own order, mapped
    firsts: first row of each pack, int64 [packs]; files: open packs by place
    """

    folder: Path
    manifest: Manifest
    table: NDArray[np.void]
    orders: NDArray[np.uint32]
    firsts: NDArray[np.int64]
    files: dict[int, int] = field(default_factory=dict)


def open_packs(folder: Path, expected: str = "") -> Packs:
    """Open a pack folder in time that does not depend on its size; raises OrchError if it is not whole.

    expected: the folder's fingerprint when it was opened first; raises OrchError if it holds other packs now.
    """
    try:
        changed = (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        changed = 0  # read_manifest says what is wrong
    packs = _opened(folder, changed)
    if expected:
        require_unchanged(folder, packs.manifest.fingerprint, expected)
    return packs


@lru_cache(maxsize=16)
def _opened(folder: Path, _changed: int) -> Packs:
    manifest = read_manifest(folder)
    return Packs(
        folder=folder,
        manifest=manifest,
        table=_mapped(folder / TABLE, ROW, manifest),
        orders=_mapped(folder / ORDERS, np.dtype("<u4"), manifest),
        firsts=np.array([pack.first for pack in manifest.packs], np.int64),
    )


def _mapped(path: Path, kind: np.dtype[Any], manifest: Manifest) -> NDArray[Any]:
    """The rows of a file, mapped into memory; raises OrchError for a file of other packs."""
    try:
        with path.open("rb") as file:
            first = file.read(HEADER)
        size = path.stat().st_size
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise OrchError(message, hint="copy the folder again, or pack it again") from error
    if first != header(manifest.fingerprint) or size != HEADER + manifest.rows * kind.itemsize:
        message = f"{path} does not belong to {path.parent / MANIFEST}"
        raise OrchError(message, hint="copy the whole folder again, or pack it again")
    return np.memmap(path, kind, "r", offset=HEADER, shape=(manifest.rows,))


def read_stored(packs: Packs, rows: Rows) -> list[bytes]:
    """Stored bytes of `rows`, unchecked; raises OrchError for a pack that is missing or another's."""
    entries = packs.table[rows]
    numbers = np.searchsorted(packs.firsts, rows, side="right") - 1
    files, blobs = packs.files, []
    for number, size, offset in zip(
        numbers.tolist(), entries["bytes"].tolist(), entries["offset"].tolist(), strict=True
    ):
        file = files.get(number)
        blobs.append(os.pread(_open(packs, number) if file is None else file, size, offset))
    return blobs


def read_images(packs: Packs, rows: Rows) -> list[Images]:
    """Images uint8 [h, w, c] of `rows`, each checked; raises OrchError for bytes that were not packed."""
    entries = packs.table[rows]
    shapes = np.stack([entries[name] for name in ("height", "width", "channels")], 1).tolist()
    images = []
    for blob, form, crc, shape, row in zip(
        read_stored(packs, rows),
        entries["format"].tolist(),
        entries["crc"].tolist(),
        shapes,
        rows.tolist(),
        strict=True,
    ):
        if zlib.crc32(blob) != crc:
            raise _damaged(packs, row, "its bytes are not those that were packed")
        try:
            images.append(decode_stored(blob, FORMATS[form], tuple(shape)))
        except BadImage as error:
            raise _damaged(packs, row, str(error)) from error
    return images


def _open(packs: Packs, number: int) -> int:
    """Open a pack for reading, the one opened first closed where there are too many."""
    pack = packs.manifest.packs[number]
    path = packs.folder / pack.file
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise OrchError(
            message, hint="copy the pack again; `orch data stats --verify` checks them all"
        ) from error
    if os.pread(file, HEADER, 0) != header(pack.id) or os.fstat(file).st_size != pack.bytes:
        os.close(file)
        message = f"{path} is not the pack that {packs.folder / MANIFEST} describes"
        raise OrchError(
            message, hint="it is truncated or of other packs: copy the whole folder again, or pack it again"
        )
    if len(packs.files) >= MOST_OPEN:
        os.close(packs.files.pop(next(iter(packs.files))))
    packs.files[number] = file
    return file


def _damaged(packs: Packs, row: int, what: str) -> OrchError:
    number = int(np.searchsorted(packs.firsts, row, side="right")) - 1
    message = f"{packs.folder / packs.manifest.packs[number].file}, image {row}: {what}"
    return OrchError(message, hint="copy the pack again; `orch data stats --verify` checks them all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows of one modality (or all) in one split, in the order in which subsets nest.

    rows: None where they are first .. first+count-1, else [count]
    """

    first: int
    count: int
    rows: NDArray[np.integer] | None = None

    def at(self, places: Rows) -> Rows:
        """Rows of the images at `places` of the selection."""
        return self.first + places if self.rows is None else self.rows[places].astype(np.int64)


def select(packs: Packs, modality: str, split: str, subset_seed: int = 0) -> Selection:
    """Rows of a modality (or ALL) in a split, of `train` only those for pretraining.

    Takes no time that grows with the packs, but for another subset seed: that is a new order from the index
    (a minute for 21 million rows).
    """
    code = modality_code(packs.manifest, modality)
    if subset_seed and split == "train":
        rows = _reordered(packs, code, packs.manifest.pretraining, subset_seed)
        return Selection(first=0, count=len(rows), rows=rows)
    modalities = packs.manifest.modalities
    first, last = _bounds(modalities if code is None else (modalities[code],))[split]
    if code is None:
        return Selection(first=first, count=last - first)
    before = sum(sum(one.counts.values()) for one in modalities[:code])
    return Selection(first=0, count=last - first, rows=packs.orders[before + first : before + last])


def _bounds(parts: Sequence[Modality]) -> dict[str, tuple[int, int]]:
    """First and last place (exclusive) of what pretraining may see, of val and of test, in `parts` order."""
    val, test, last = np.cumsum([sum(one.counts[split] for one in parts) for split in SPLITS]).tolist()
    return {"train": (0, sum(one.pretraining for one in parts)), "val": (val, test), "test": (test, last)}


def _reordered(packs: Packs, code: int | None, last: int, subset_seed: int) -> Rows:
    """Rows for pretraining in the order of another subset seed."""
    columns = ["hash_high", "hash_low", "group", "source", "code"]
    index = pl.read_parquet(packs.folder / INDEX, columns=columns, n_rows=last)
    if code is not None:
        index = index.with_row_index().filter(pl.col("code") == code)
    rows = index["index"].to_numpy().astype(np.int64) if code is not None else np.arange(last)
    names = [source.name for source in packs.manifest.sources]
    ranks = ranks_at(index, names, subset_seed)
    order: Rows = rows[stratified_order(strata_of(index), ranks, index["hash_high"].to_numpy())]
    return order


def read_task(folder: Path, split: str, expected: str = "") -> tuple[Images, Labels]:
    """Images [n, h, w, c] and labels [n, k] of one split; raises OrchError if packs cannot serve as a task.

    expected: fingerprint, when the plan was made, of the folder or of one of its modalities, which is what is
    read then; raises OrchError if neither has it now.

    The train split is what pretraining may see: images that are in val or test too would flatter a probe.
    """
    problem = task_problem(folder)
    if problem:
        message = f"{folder} cannot be a task: {problem}"
        raise OrchError(message, hint=TASK_HINT)
    packs = open_packs(folder)
    modality = next((one.name for one in packs.manifest.modalities if one.fingerprint == expected), ALL)
    if modality == ALL and expected:
        require_unchanged(folder, packs.manifest.fingerprint, expected)
    require_unchanged(folder / INDEX, fingerprint(folder / INDEX), packs.manifest.files[INDEX])
    chosen = select(packs, modality, split)
    rows = chosen.at(np.arange(chosen.count))
    labels = pl.read_parquet(folder / INDEX, columns=["labels"])["labels"].gather(rows)
    return np.stack(read_images(packs, rows)), np.array(labels.to_list(), np.int64)
