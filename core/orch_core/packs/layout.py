"""The files of a pack folder: their format, and reading them with what is wrong said."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orch_core.errors import OrchError

FORMAT = 1
ALL = "all"
"""The modality of a grid's source that takes every row of a pack folder."""
MAGIC = b"ORCHPACK"
HEADER = 64
"""Bytes before the images of a pack and the rows of the table: magic, format, id (32 hexadecimal digits)."""
MANIFEST, TABLE, ORDERS, INDEX, NAMES, LEFT_OUT = (
    "manifest.json",
    "table.bin",
    "orders.bin",
    "index.parquet",
    "names.parquet",
    "left-out.csv",
)
ROW = np.dtype(
    [
        ("offset", "<u8"),  # from the beginning of the pack
        ("bytes", "<u4"),
        ("crc", "<u4"),  # CRC-32 of the stored bytes
        ("height", "<u2"),
        ("width", "<u2"),
        ("label", "<i4"),  # the first label; -1 without one
        ("modality", "<u2"),  # place in the manifest's `modalities`
        ("source", "<u2"),  # place in the manifest's `sources`
        ("channels", "u1"),
        ("format", "u1"),  # place in `pixels.FORMATS`
        ("split", "u1"),  # place in `images.SPLITS`
        ("pretraining", "u1"),  # 1 for training images that pretraining may see
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """One file of images: rows first .. first+rows-1 of the table.

    bytes: of the whole file; hash: blake2b-128 of the whole file; id: blake2b-128 of its
    images' hashes, in its header
    """

    file: str
    first: int
    rows: int
    bytes: int
    hash: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Modality:
    """What a pack folder holds of one modality.

    fingerprint: content hash of its rows: pixels, order, splits, labels
    counts:      images per split; pretraining: training images that are in no other split, nor their groups
    labels:      labels an image, 0 without any; classes: over its sources, each source's after the one before
    duplicates:  images equal to one of another split, by pair of splits (`train/val`)
    shape:       (h, w, c) of every image, None where they differ
    sources:     places of the sources that have images of it
    """

    name: str
    fingerprint: str
    counts: dict[str, int]
    pretraining: int
    labels: int
    classes: int
    duplicates: dict[str, int]
    shape: tuple[int, int, int] | None
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A source as it was packed: images in it, images left out, highest first label plus 1 (0 without)."""

    name: str
    images: int
    left_out: int
    classes: int
    class_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """A data size at which a pack ends: its first `images` and `packs`; hash: blake2b-128 of their hashes."""

    share: float
    images: int
    packs: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What `manifest.json` says.

    files:  blake2b-128 of the table, index and names
    inputs: hash of what was packed
    notes:  what the sources left open, a sentence each
    """

    fingerprint: str
    rows: int
    pretraining: int
    modalities: tuple[Modality, ...]
    sources: tuple[Source, ...]
    packs: tuple[Pack, ...]
    subsets: tuple[Subset, ...]
    files: dict[str, str]
    inputs: str
    format: int = FORMAT
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The manifest as written."""
        return asdict(self) | {"notes": list(self.notes)}


def is_pack_folder(path: Path) -> bool:
    """Whether a path is a pack folder, or was meant to become one."""
    return (path / MANIFEST).is_file() or (path / "packs").is_dir()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a pack folder; raises OrchError where there is none, or one of another format."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_bytes())
        version = document["format"]
    except FileNotFoundError as error:
        message = f"{folder} has no {MANIFEST}: packing it has not finished"
        raise OrchError(
            message, hint="run the same `orch data pack` again: it goes on where it stopped"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is damaged: {error}"
        raise OrchError(message, hint="copy the folder again, or pack it again") from error
    if version != FORMAT:
        message = f"{folder} has packs of format {version}; this version of orch reads format {FORMAT}"
        raise OrchError(message, hint="pack it again, or use the version of orch that packed it")
    try:
        return _manifest(document)
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path} is damaged: {error}"
        raise OrchError(message, hint="copy the folder again, or pack it again") from error


def _manifest(document: dict[str, Any]) -> Manifest:
    shapes = [entry.pop("shape") for entry in document["modalities"]]
    places = [tuple(entry.pop("sources")) for entry in document["modalities"]]
    return Manifest(
        **document
        | {
            "modalities": tuple(
                Modality(**entry, shape=tuple(shape) if shape else None, sources=sources)
                for entry, shape, sources in zip(document["modalities"], shapes, places, strict=True)
            ),
            "sources": tuple(
                Source(**entry | {"class_names": tuple(entry["class_names"])})
                for entry in document["sources"]
            ),
            "subsets": tuple(Subset(**entry) for entry in document["subsets"]),
            "packs": tuple(Pack(**entry) for entry in document["packs"]),
            "notes": tuple(document.get("notes", ())),
        }
    )


def modality_code(manifest: Manifest, modality: str) -> int | None:
    """Place of a modality in the manifest, None for every one; raises OrchError for one that is not there."""
    names = [one.name for one in manifest.modalities]
    if modality == ALL or names == [modality]:
        return None
    if modality in names:
        return names.index(modality)
    message = f"the packs have no modality {modality!r}; they have {', '.join(names)}"
    raise OrchError(message, hint=f"name one of them as the source's modality, or `{ALL}` for every image")


def header(identity: str) -> bytes:
    """The first 64 bytes of a pack or table; identity: 32 hexadecimal digits."""
    return (MAGIC + FORMAT.to_bytes(4, "little") + bytes.fromhex(identity)).ljust(HEADER, b"\0")
