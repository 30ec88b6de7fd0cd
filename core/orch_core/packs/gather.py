"""Sources to sorted runs: every image read once, checked, hashed, and laid down in the order of its rank.

A unit is what is read in one go and kept whole: a stretch of a folder's files, a split of an npz, a
shard. Its result is two files, the second one atomic, so that a packing that was killed goes on
with the units that it lacks.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import polars as pl

from orch_core.files import write_parquet
from orch_core.identity import digest
from orch_core.images.npz import Images
from orch_core.images.subset import hash_ranks
from orch_core.packs.decode import FORMATS, BadImage, decode, difference_hash, encode_jpeg, shrink

RUN_BYTES = 128 * 2**20
RUN_ROWS = 50_000
"""Stored images that a worker holds before it writes them down, sorted."""
UNKNOWN = "unknown"
"""Modality of images of which neither the source nor the file says it."""
EMPTY = "empty slice: one intensity everywhere"
STRAY = "not in the folder of a class or split, as the others are"
NOT_IMAGE = "not an image"
NO_PIXELS = "a DICOM file without an image, such as a directory, a report or a plan"
HARMLESS = (EMPTY, STRAY, NOT_IMAGE, NO_PIXELS)
"""Problems that are not faults: such files and slices are left out and listed, and do not count as bad."""
TURNED = "EXIF asks for another orientation, which is not applied"
UNLABELLED = "its label is missing or negative, so it has none"
Store = Literal["keep", "raw", "jpeg"]
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "name": pl.String,
    "problem": pl.String,
    "note": pl.String,
    "rank": pl.UInt64,
    "hash_high": pl.UInt64,
    "hash_low": pl.UInt64,
    "look": pl.UInt64,
    "modality": pl.String,
    "group": pl.String,
    "split": pl.String,
    "labels": pl.List(pl.Int32),
    "height": pl.UInt16,
    "width": pl.UInt16,
    "channels": pl.UInt8,
    "format": pl.UInt8,
    "offset": pl.UInt64,
    "bytes": pl.UInt32,
    "crc": pl.UInt32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How images are stored.

    store: keep what is JPEG, PNG or WebP as it is and the rest raw; or everything raw; or everything as JPEG
    side:  longest allowed shorter side in pixels, 0 for any; a reduced image is stored raw, or as JPEG
    """

    store: Store = "keep"
    side: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A source as the user gives it.

    modality: of all its images; empty where each says its own (DICOM's tag, a Parquet column)
    group:    what images of one patient, slide or volume share: a regular expression on the path,
              whose first group counts, or a column of Parquet, or a field of a shard's JSON; empty for
              what the format says itself
    window:   (level, width) of calibrated intensities; None for the default (see `slices`)
    exclude:  regular expression on the path below the source; what it matches is left out
    image, label: columns of Parquet; empty for those that are called so
    """

    name: str
    path: Path
    modality: str = ""
    group: str = ""
    window: tuple[float, float] | None = None
    exclude: str = ""
    image: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A part of a source. paths: files that it is read from; part: what of them, as the kind understands it.

    stamp: their sizes and times of change, so that a unit of changed files is read again
    classes: names of the source's classes, in the order of their labels
    split:   the split of all its images, if the file's name says it
    depth:   how many folders below the source those of the splits are, None without them
    """

    source: int
    kind: str
    paths: tuple[str, ...]
    part: str
    stamp: str
    classes: tuple[str, ...] = ()
    split: str = ""
    depth: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image of a source: encoded (`blob`) or as pixels uint8 [h, w, c]; or the problem that it has.

    note: what to know about an image that is packed
    """

    name: str
    blob: bytes = b""
    pixels: Images | None = None
    modality: str = ""
    group: str = ""
    split: str = ""
    labels: tuple[int, ...] = ()
    problem: str = ""
    note: str = ""


def printable(path: str | Path) -> str:
    """A path as text: bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def group_of(spec: Spec, name: str) -> str:
    """The group of a path: what the first parenthesis of the pattern matches, or all of it; else none."""
    found = re.search(spec.group, name) if spec.group else None
    return (found.group(1) if found.re.groups else found.group()) if found else ""


def unit_key(unit: Unit, spec: Spec, settings: Settings) -> str:
    """Identity of a unit's result: of its files, how they are read and how they are stored."""
    asked = asdict(spec) | {"path": printable(spec.path), "window": list(spec.window or ())}
    return digest({"unit": _plain(asdict(unit)), "spec": asked, "settings": asdict(settings)})


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [printable(one) for one in value] if isinstance(value, tuple) else value
        for name, value in document.items()
    }


def gather(items: Iterable[Item], key: str, spec: Spec, settings: Settings, folder: Path) -> None:
    """Write a unit's images as `KEY.runs` (sorted by rank, in stretches of RUN_BYTES) and `KEY.parquet`."""
    # names of this process's own: one that outlived its killed parent may be at the same unit
    runs, path = folder / f"{key}.{os.getpid()}.runs", folder / f"{key}.parquet"
    frames = [pl.DataFrame(schema=SCHEMA)]
    rows, blobs, held = list[dict[str, Any]](), list[bytes](), 0
    with runs.open("wb") as file:
        for item in items:
            row, blob = described(item, spec, settings)
            rows.append(row)
            blobs.append(blob)
            held += len(blob)
            if held > RUN_BYTES or len(rows) >= RUN_ROWS:
                frames.append(_run(file, rows, blobs))
                rows, blobs, held = [], [], 0
        frames.append(_run(file, rows, blobs))
        file.flush()
        os.fsync(file.fileno())
    os.replace(runs, folder / f"{key}.runs")
    write_parquet(pl.concat(frames), path, compression="lz4")


def _run(file: IO[bytes], rows: list[dict[str, Any]], blobs: list[bytes]) -> pl.DataFrame:
    """Write images by rank, and return their rows in the order in which they came, with their offsets."""
    for place in sorted(range(len(rows)), key=lambda place: (rows[place]["rank"], place)):
        rows[place]["offset"] = file.tell()
        file.write(blobs[place])
    return pl.DataFrame(rows, schema=SCHEMA)


def described(item: Item, spec: Spec, settings: Settings) -> tuple[dict[str, Any], bytes]:
    """An image's row of SCHEMA and its stored bytes; no bytes where `problem` says why it is left out."""
    if item.problem:
        return _empty_row(item.name, item.problem), b""
    try:
        pixels, form, blob = _stored(item, settings)
    except BadImage as problem:
        return _empty_row(item.name, str(problem)), b""
    content = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
    key = group_key(spec.name, item.group) if item.group else content
    high, low = np.frombuffer(content, ">u8").tolist()
    return {
        "name": item.name,
        "problem": "",
        "note": item.note,
        "rank": int(hash_ranks([key], 0)[0]),
        "hash_high": high,
        "hash_low": low,
        "look": difference_hash(pixels),
        "modality": spec.modality or item.modality or UNKNOWN,
        "group": item.group,
        "split": item.split,
        "labels": item.labels,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "channels": pixels.shape[2],
        "format": FORMATS.index(form),
        "offset": 0,
        "bytes": len(blob),
        "crc": zlib.crc32(blob),
    }, blob


def group_key(source: str, group: str) -> bytes:
    """What is hashed for the rank of every image of a group: two sources' patient 1 are two people."""
    return hashlib.blake2b(f"{source}\0{group}".encode(), digest_size=16).digest()


def _empty_row(name: str, problem: str) -> dict[str, Any]:
    numbers = dict.fromkeys(SCHEMA, 0)
    return (
        numbers
        | {"name": name, "problem": problem}
        | dict.fromkeys(("note", "modality", "group", "split"), "")
        | {"labels": ()}
    )


def _stored(item: Item, settings: Settings) -> tuple[Images, str, bytes]:
    """Pixels, format and bytes of an image as it is stored; the pixels are those that the bytes decode to."""
    pixels, form = (item.pixels, "raw") if item.pixels is not None else decode(item.blob)
    blob = item.blob
    if settings.side and min(pixels.shape[:2]) > settings.side:
        pixels, form = shrink(pixels, settings.side), "raw"
    if settings.store == "jpeg" and form != "jpeg":
        blob = encode_jpeg(pixels)
        pixels, form = decode(blob)
    if settings.store == "raw" or form == "raw":
        return pixels, "raw", pixels.tobytes()
    return pixels, form, blob
