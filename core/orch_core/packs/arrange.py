"""Runs to the final order: splits, what pretraining may see, how subsets nest, the fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_core.identity import digest
from orch_core.images.npz import SPLITS
from orch_core.images.subset import (
    Ranks,
    Rows,
    hash_ranks,
    held_out_split,
    interleaved,
    is_in,
    shared_with,
    stratified_order,
)
from orch_core.packs.gather import group_key
from orch_core.packs.layout import Modality, Subset

LEVELS = (0.001, 0.01, 0.1, 1.0)
"""Data sizes, as shares of the images for pretraining, at which a pack ends: they are whole files."""
CHUNK = 2**20
HASHED = ("hash_high", "hash_low", "height", "width", "channels", "split", "pretraining", "source")
FACTS = (*HASHED, "labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """Every usable image, a row each, in its final order.

    index: columns of `gather.SCHEMA` but name and problem, and `unit`, `source` (place), `code` (of the
           modality), `split` (place in SPLITS), `pretraining` (bool)
    rows:  places of the rows in the order in which they were gathered, int64 [n]
    modalities: names, in the order of their codes
    """

    index: pl.DataFrame
    rows: Rows
    modalities: tuple[str, ...]


def joined(frames: Sequence[pl.DataFrame], sources: Sequence[int]) -> pl.DataFrame:
    """Rows of all units (columns of `gather.SCHEMA`), with `unit` and the place of its `source`."""
    return pl.concat(
        [
            frame.with_columns(unit=pl.lit(unit, pl.UInt32), source=pl.lit(source, pl.UInt16))
            for unit, (frame, source) in enumerate(zip(frames, sources, strict=True))
        ],
        rechunk=False,
    )


def arrange(index: pl.DataFrame, val: float) -> Arranged:
    """Order the rows of `joined`, all usable; `val` is the share to hold out.

    A source that brings its own val split keeps it; from any other, whole groups are held out. Where nothing
    else refers to the rows, memory never holds them twice.
    """
    names = tuple(sorted(index["modality"].unique().to_list()))
    codes = index["modality"].replace_strict(names, range(len(names)), return_dtype=pl.UInt16)
    index = index.drop("modality").with_columns(code=codes)
    index = index.with_columns(split=pl.Series(_splits(index, val), dtype=pl.UInt8))
    index = index.with_columns(pretraining=pl.Series(for_pretraining(index)))
    rows = final_order(index)
    # a column at a time: twice the index would be twice the memory
    columns = {name: index.drop_in_place(name).rechunk().gather(rows) for name in index.columns}
    return Arranged(index=pl.DataFrame(columns), rows=rows, modalities=names)


def _splits(index: pl.DataFrame, val: float) -> NDArray[np.uint8]:
    """Place in SPLITS of every row, val held out from sources that have none."""
    given = index["split"].replace_strict(("", *SPLITS), (0, 0, 1, 2), return_dtype=pl.UInt8).to_numpy()
    splits = given.copy()
    source, ranks = index["source"].to_numpy(), index["rank"].to_numpy()
    for place in np.flatnonzero(np.bincount(source)):
        train = np.flatnonzero((source == place) & (given == 0))
        if len(train) and not ((source == place) & (given == 1)).any():
            chosen = held_out_split(ranks[train], val)
            splits[train[chosen]] = 0 if chosen.all() else 1  # a single group is for training
    return splits


def for_pretraining(index: pl.DataFrame) -> NDArray[np.bool_]:
    """Training rows whose image, and whose group, is in no other split, bool [n]."""
    split = index["split"].to_numpy()
    train = np.flatnonzero(split == 0)
    held_out = np.flatnonzero(split > 0)
    high, low, rank = (index[name].to_numpy() for name in ("hash_high", "hash_low", "rank"))
    kept: NDArray[np.bool_] = split == 0
    leaked: NDArray[np.bool_] = is_in(rank[train], rank[held_out]) | shared_with(
        (high[train], low[train]), (high[held_out], low[held_out])
    )
    kept[train] = ~leaked
    return kept


def _parts(index: pl.DataFrame) -> Iterator[Rows]:
    """Rows for pretraining, of other training images, of val and of test, one after the other."""
    split, kept = index["split"].to_numpy(), index["pretraining"].to_numpy()
    for part in (kept, (split == 0) & ~kept, split == 1, split == 2):
        yield np.flatnonzero(part)


def final_order(index: pl.DataFrame) -> Rows:
    """Rows as packed: for pretraining, other training images, val, test; each in `stratified_order`."""
    strata = strata_of(index)
    ranks, within = index["rank"].to_numpy(), index["hash_high"].to_numpy()
    return np.concatenate(
        [rows[stratified_order(strata[rows], ranks[rows], within[rows])] for rows in _parts(index)]
    )


def ranks_at(index: pl.DataFrame, names: Sequence[str], subset_seed: int) -> Ranks:
    """Hash ranks of the rows at a seed: of the group, else of the pixels; names: of the sources, by place."""
    grouped = index["group"] != ""
    ranks = np.empty(len(index), np.uint64)
    pixels = content_hashes(index.filter(~grouped))
    ranks[~grouped.to_numpy()] = hash_ranks(
        (pixels[start : start + 16] for start in range(0, len(pixels), 16)), subset_seed
    )
    groups = index.select("source", "group").filter(grouped)
    distinct = groups.unique()  # a group has many images: its key is hashed once
    keys = (group_key(names[source], group) for source, group in distinct.iter_rows())
    distinct = distinct.with_columns(rank=pl.Series(hash_ranks(keys, subset_seed)))
    of_groups = groups.join(distinct, on=["source", "group"], how="left", maintain_order="left")
    ranks[grouped.to_numpy()] = of_groups["rank"].to_numpy()
    return ranks


def strata_of(index: pl.DataFrame) -> NDArray[np.uint16]:
    """Number of each row's stratum: its source and its modality, counted from 0 without gaps."""
    codes = index["code"].to_numpy()
    return dense(index["source"].to_numpy().astype(np.uint32) * (int(codes.max(initial=0)) + 1) + codes)


def dense(numbers: NDArray[np.integer]) -> NDArray[np.uint16]:
    """The numbers (of at most 65,536 kinds) counted from 0 without gaps, in their order."""
    found: NDArray[np.uint16] = (np.cumsum(np.bincount(numbers, minlength=1) > 0) - 1).astype(np.uint16)[
        numbers
    ]
    return found


def own_order(index: pl.DataFrame, code: int) -> Rows:
    """Rows of a modality in the order they would have without the others; `index` is in its final order."""
    rows = np.flatnonzero(index["code"].to_numpy() == code)
    if len(rows) == len(index):
        return rows
    part = index.select("split", "pretraining", "source").filter(index["code"] == code)
    sources = part["source"].to_numpy()
    return np.concatenate([rows[some[interleaved(dense(sources[some]))]] for some in _parts(part)])


def modality(index: pl.DataFrame, name: str, order: Rows, classes: Sequence[int]) -> Modality:
    """Facts of one modality; order: its rows in its own order; classes: by source's place."""
    part = index.select(*FACTS) if len(order) == len(index) else index.select(*FACTS)[order]
    counts = {split: int((part["split"] == place).sum()) for place, split in enumerate(SPLITS)}
    shapes = part.select("height", "width", "channels").unique()
    widths = part["labels"].list.len().unique().to_list()
    labels = widths[0] if len(widths) == 1 else 0
    present = sorted(part["source"].unique().to_list())
    return Modality(
        name=name,
        fingerprint=fingerprint(part),
        counts=counts,
        pretraining=int(part["pretraining"].sum()),
        labels=labels,
        classes=labels if labels > 1 else sum(classes[place] for place in present),
        duplicates=_duplicates(part),
        shape=shapes.row(0) if len(shapes) == 1 else None,
        sources=tuple(present),
    )


def fingerprint(part: pl.DataFrame) -> str:
    """Content hash of rows in their order: pixels, shape, split, use, labels, and which share a source."""
    hasher = hashlib.blake2b(digest_size=16)
    sources = pl.Series(dense(part["source"].to_numpy()), dtype=pl.UInt16)
    for start in range(0, len(part), CHUNK):
        chunk = part.slice(start, CHUNK).with_columns(source=sources.slice(start, CHUNK))
        for name in HASHED:
            hasher.update(np.ascontiguousarray(chunk[name].to_numpy()).tobytes())
        hasher.update(chunk["labels"].list.len().to_numpy().tobytes())
        hasher.update(chunk["labels"].explode().drop_nulls().to_numpy().tobytes())
    return hasher.hexdigest()


def content_hashes(index: pl.DataFrame) -> bytes:
    """Content hashes of the rows, 16 bytes each."""
    halves = index.select("hash_high", "hash_low").to_numpy()
    return halves.astype(">u8").tobytes()


def joint_fingerprint(modalities: Sequence[Modality]) -> str:
    """Of a whole folder: that of its only modality, or of all of them."""
    if len(modalities) == 1:
        return modalities[0].fingerprint
    return digest({one.name: one.fingerprint for one in modalities})


def _duplicates(part: pl.DataFrame) -> dict[str, int]:
    held_out = part.filter(pl.col("split") > 0)
    candidates = is_in(part["hash_low"].to_numpy(), held_out["hash_low"].to_numpy())  # of 21 million, a few
    few = part.select("split", "hash_high", "hash_low").filter(pl.Series(candidates))
    hashes = [few.filter(pl.col("split") == place).drop("split").unique() for place in range(3)]
    pairs = {}
    for one, other in ((0, 1), (0, 2), (1, 2)):
        shared = len(hashes[one].join(hashes[other], on=["hash_high", "hash_low"], how="semi"))
        if shared:
            pairs[f"{SPLITS[one]}/{SPLITS[other]}"] = shared
    return pairs


def subsets(index: pl.DataFrame, pretraining: int, bounds: Sequence[int]) -> tuple[Subset, ...]:
    """The data sizes of LEVELS with the hashes of what they hold; bounds: of the packs, see `pack_bounds`."""
    hasher, done, made = hashlib.blake2b(digest_size=16), 0, []
    for share in LEVELS:
        images = round(share * pretraining)
        for start in range(done, images, CHUNK):
            hasher.update(content_hashes(index.slice(start, min(CHUNK, images - start))))
        done = images
        packs = int(np.searchsorted(bounds, images))
        made.append(Subset(share=share, images=images, packs=packs, hash=hasher.copy().hexdigest()))
    return tuple(made)


def pack_bounds(sizes: NDArray[np.uint64], pretraining: int, pack_bytes: int) -> list[int]:
    """First rows of the packs, and the number of rows: as many as fit in `pack_bytes`, cut at LEVELS too."""
    ends = np.cumsum(sizes, dtype=np.uint64)
    cuts = sorted({round(level * pretraining) for level in LEVELS} | {len(sizes)})
    bounds = [0]
    for cut in cuts:
        while bounds[-1] < cut:
            before = int(ends[bounds[-1] - 1]) if bounds[-1] else 0
            fits = int(np.searchsorted(ends, np.uint64(before + pack_bytes), side="right"))
            bounds.append(min(cut, max(fits, bounds[-1] + 1)))
    return bounds
