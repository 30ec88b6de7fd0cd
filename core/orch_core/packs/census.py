"""What is in a pack folder or npz: counts, sizes, duplicates, groups on both sides of a split, thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from orch_core.images.npz import SPLITS, Images, npz_splits, stream_images
from orch_core.packs.gather import SCHEMA, Settings, Spec, described
from orch_core.packs.inputs import find_units, read_items
from orch_core.packs.layout import INDEX, LEFT_OUT, NAMES, is_pack_folder, read_manifest
from orch_core.packs.read import open_packs, read_images

SHOWN = 8
"""Thumbnails of each source and modality."""
THUMBNAIL = 64
LISTED = 20
"""Duplicates that are named."""
HASH = ("hash_high", "hash_low")


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Images of one source, modality and split: number, range of their sides in pixels, stored bytes."""

    source: str
    modality: str
    split: str
    images: int
    colour: int
    smallest: int
    median: int
    largest: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What was found.

    pretraining: training images that are in no other split, nor their groups
    repeated:    images beyond the first of each set of images with equal pixels; across:
                 sets in more than one split
    conflicting: sets of equal images whose labels differ
    alike:       images beyond the first of each set that look the same at 8 x 9 pixels but are not equal
    torn_groups: groups with images in more than one split
    named:       names of the images of some sets of equal images
    left_out:    images that were not packed, by reason
    """

    counts: tuple[Count, ...]
    pretraining: int
    repeated: int
    across: int
    conflicting: int
    alike: int
    torn_groups: int
    named: tuple[tuple[str, ...], ...]
    left_out: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The census as `orch data stats --json` prints it."""
        return asdict(self)


def census(path: Path) -> Census:
    """Count what is in a pack folder or an npz; raises OrchError for anything else, or a damaged one."""
    frame = _frame(path)
    grouped = frame.filter(pl.col("group") != "").group_by("source", "group").agg(pl.col("split").n_unique())
    sets = frame.group_by(HASH).agg(
        pl.len(),
        splits=pl.col("split").n_unique(),
        labels=pl.col("labels").n_unique(),
        look=pl.col("look").first(),
    )
    equal = sets.filter(pl.col("len") > 1)
    looks = sets.filter(pl.col("look") > 0)["look"]
    return Census(
        counts=tuple(_counts(frame)),
        pretraining=int(frame["pretraining"].sum()),
        repeated=len(frame) - len(sets),
        across=int((equal["splits"] > 1).sum()),
        conflicting=int((equal["labels"] > 1).sum()),
        alike=len(looks) - looks.n_unique(),
        torn_groups=int((grouped["split"] > 1).sum()),
        named=_named(path, frame, equal.sort(HASH).head(LISTED)),
        left_out=_left_out(path),
    )


def _frame(path: Path) -> pl.DataFrame:
    """Columns of the index, with the names of source, modality and split, and `row`."""
    if not is_pack_folder(path):
        return _frame_of_npz(path)
    manifest = read_manifest(path)
    columns = ["source", "code", "split", "group", "labels", "height", "width", "channels", "bytes", "look"]
    frame = pl.read_parquet(path / INDEX, columns=[*columns, *HASH, "pretraining"]).with_row_index("row")
    sources, modalities = ([one.name for one in part] for part in (manifest.sources, manifest.modalities))
    return frame.with_columns(
        source=pl.col("source").replace_strict(range(len(sources)), sources, return_dtype=pl.Enum(sources)),
        modality=pl.col("code").replace_strict(
            range(len(modalities)), modalities, return_dtype=pl.Enum(modalities)
        ),
        split=pl.col("split").replace_strict(range(3), SPLITS, return_dtype=pl.Enum(SPLITS)),
    )


def _frame_of_npz(path: Path) -> pl.DataFrame:
    spec = Spec(name=path.stem, path=path)
    rows = [
        described(item, spec, Settings())[0]
        for unit in find_units(0, spec)
        for item in read_items(unit, spec)
    ]
    frame = pl.DataFrame(rows, schema=SCHEMA).with_columns(source=pl.lit(spec.name)).with_row_index("row")
    held_out = frame.filter(pl.col("split") != "train").select(HASH).unique()
    kept = frame.filter(pl.col("split") == "train").join(held_out, on=HASH, how="anti")["row"]
    return frame.with_columns(pretraining=pl.col("row").is_in(kept.implode()))


def _counts(frame: pl.DataFrame) -> Iterator[Count]:
    side = pl.min_horizontal("height", "width")
    found = frame.group_by("source", "modality", "split").agg(
        images=pl.len(),
        colour=(pl.col("channels") == 3).sum(),
        smallest=side.min(),
        median=side.median().cast(pl.Int64),
        largest=pl.max_horizontal("height", "width").max(),
        bytes=pl.col("bytes").sum(),
    )
    order = pl.col("split").cast(pl.String).replace_strict(SPLITS, range(3))
    for row in found.sort("source", "modality", order).iter_rows(named=True):
        yield Count(**row)


def _named(path: Path, frame: pl.DataFrame, equal: pl.DataFrame) -> tuple[tuple[str, ...], ...]:
    """Names of the images of each set."""
    members = frame.join(equal.select(HASH), on=HASH, how="semi").select(*HASH, "row")
    names = frame["name"] if "name" in frame.columns else pl.read_parquet(path / NAMES)["name"]
    named = members.with_columns(name=names.gather(members["row"]))
    sets = named.group_by(HASH).agg(pl.col("name").sort()).sort(HASH)
    return tuple(tuple(one) for one in sets["name"].to_list())


def _left_out(path: Path) -> dict[str, int]:
    try:
        reasons = pl.read_csv(path / LEFT_OUT)["reason"].str.split(":").list.first()
    except OSError:
        return {}
    return dict(sorted(reasons.value_counts().iter_rows()))


def thumbnails(path: Path) -> dict[tuple[str, str], list[str]]:
    """The first images of each (source, modality) by hash rank: data URLs of JPEGs, sides up to 64 pixels."""
    if not is_pack_folder(path):
        split = npz_splits(path)[0]
        first = [image for image, _ in zip(stream_images(path, split), range(SHOWN), strict=False)]
        return {(path.stem, ""): [_url(image) for image in first]}
    packs = open_packs(path)
    keys = packs.table["source"].astype(np.int64) * 2**16 + packs.table["modality"]
    found: dict[tuple[str, str], list[str]] = {}
    for key in np.unique(keys).tolist():
        rows = np.flatnonzero(keys == key)[:SHOWN]
        name = (packs.manifest.sources[key >> 16].name, packs.manifest.modalities[key % 2**16].name)
        found[name] = [_url(image) for image in read_images(packs, rows)]
    return found


def _url(pixels: Images) -> str:
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
