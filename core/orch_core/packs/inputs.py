"""What a source is: its parts (units), and the images of a part. What a file holds counts, not what it is called."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import polars as pl

from orch_core.errors import OrchError
from orch_core.images.npz import npz_splits, read_labels, stream_images
from orch_core.packs.gather import Item, Spec, Unit
from orch_core.packs.slices import dicom_items, looks_like_dicom, nifti_items

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2")
DICOM, NIFTI = (".dcm", ".dicom", ".ima"), (".nii", ".nii.gz")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
LABELS = ("label", "labels")
"""Columns of Parquet that hold labels."""
STRETCH = 1000
"""Files of a folder that are one unit."""


def find_units(place: int, spec: Spec) -> list[Unit]:
    """The parts of the source at `place`; raises OrchError for a path that is no source."""
    path = spec.path
    if path.is_dir():
        shards = sorted(entry for entry in path.iterdir() if entry.suffix in {".tar", ".parquet"})
        if shards:
            classes = _label_names(shards)
            return [_unit(place, entry.suffix[1:], [entry], classes=classes) for entry in shards]
        return _folder_units(place, spec)
    if path.suffix == ".npz":
        return [_unit(place, "npz", [path], split) for split in npz_splits(path)]
    if path.is_file() and path.suffix in {".tar", ".parquet"}:
        return [_unit(place, path.suffix[1:], [path], classes=_label_names([path]))]
    if path.is_file() and path.name.endswith(NIFTI):
        return [_unit(place, "nifti", [path])]
    message = f"{path} does not exist" if not path.exists() else f"{path} is no source of images"
    raise OrchError(
        message, hint="a source is a folder of images, an npz, Parquet files or WebDataset shards"
    )


def _unit(place: int, kind: str, paths: list[Path], part: str = "", classes: tuple[str, ...] = ()) -> Unit:
    stats = [path.stat() if path.exists() else None for path in paths]  # a dangling link is a bad image
    return Unit(
        source=place,
        kind=kind,
        paths=tuple(map(str, paths)),
        part=part,
        stamp=" ".join(f"{stat.st_size}:{stat.st_mtime_ns}" if stat else "gone" for stat in stats),
        classes=classes,
    )


def _folder_units(place: int, spec: Spec) -> list[Unit]:
    found: dict[str, list[Path]] = {"images": [], "dicom": [], "nifti": []}
    for root, folders, names in os.walk(spec.path):
        folders.sort()
        for name in sorted(names):
            kind = _kind(Path(root), name)
            if kind:
                found[kind].append(Path(root, name))
    classes = _classes(spec.path, found["images"])
    units = []
    for kind, paths in found.items():
        stretch = 1 if kind == "nifti" else STRETCH
        parts = (paths[first : first + stretch] for first in range(0, len(paths), stretch))
        units += [_unit(place, kind, part, str(spec.path), classes) for part in parts]
    if not units:
        message = f"{spec.path} has no images"
        raise OrchError(message, hint=f"looked for {', '.join((*IMAGES, *DICOM, *NIFTI))} in it and below it")
    return units


def _kind(root: Path, name: str) -> str:
    lower = name.lower()
    if name.startswith("."):
        return ""
    if lower.endswith(IMAGES):
        return "images"
    if lower.endswith(NIFTI):
        return "nifti"
    nameless = (
        not Path(name).suffix or Path(name).suffix[1:].isdigit()
    )  # DICOM files are often called by their UID
    if lower.endswith(DICOM) or (nameless and looks_like_dicom(root / name)):
        return "dicom"
    return ""


def _classes(root: Path, paths: list[Path]) -> tuple[str, ...]:
    """Names of the classes where every image lies in a folder of its class, in a split's folder or not; else none."""
    parts = [_below(root, path) for path in paths]
    return tuple(sorted({part[0] for part in parts})) if all(len(part) == 2 for part in parts) else ()


def _below(root: Path, path: Path) -> tuple[str, ...]:
    parts = path.relative_to(root).parts
    return parts[1:] if parts[0].lower() in SPLIT_WORDS and len(parts) > 1 else parts


def read_items(unit: Unit, spec: Spec) -> Iterator[Item]:
    """The images of a unit, in its order; raises OrchError where the unit itself cannot be read."""
    readers: Mapping[str, Callable[[Unit, Spec], Iterator[Item]]] = {
        "images": _image_files,
        "npz": _npz,
        "tar": _shard,
        "parquet": _parquet,
        "dicom": _slices,
        "nifti": _slices,
    }
    return readers[unit.kind](unit, spec)


def group_of(spec: Spec, name: str) -> str:
    """The group that a path is of: what the first parenthesis of the pattern matches, or all of it; else none."""
    found = re.search(spec.group, name) if spec.group else None
    return (found.group(1) if found.re.groups else found.group()) if found else ""


def _image_files(unit: Unit, spec: Spec) -> Iterator[Item]:
    root = Path(unit.part)
    for path in map(Path, unit.paths):
        name, below = str(path.relative_to(root)), _below(root, path)
        first = path.relative_to(root).parts[0].lower()
        try:
            blob = path.read_bytes()
        except OSError as error:
            yield Item(name=name, problem=f"cannot be read: {error.strerror}")
            continue
        yield Item(
            name=name,
            blob=blob,
            group=group_of(spec, name),
            split=SPLIT_WORDS.get(first, "") if len(path.relative_to(root).parts) > 1 else "",
            labels=(unit.classes.index(below[0]),) if unit.classes else (),
        )


def _npz(unit: Unit, _spec: Spec) -> Iterator[Item]:
    path, split = Path(unit.paths[0]), unit.part
    labels = read_labels(path, split)
    for row, image in enumerate(stream_images(path, split)):
        yield Item(
            name=f"{path.name}/{split}/{row}", pixels=image, split=split, labels=tuple(labels[row].tolist())
        )


def _shard(unit: Unit, spec: Spec) -> Iterator[Item]:
    """Images of a WebDataset shard: members of one key are one sample, `.cls` its label, `.json` its fields."""
    path = Path(unit.paths[0])
    split = _split_of_name(path)
    try:
        with tarfile.open(path, "r:*") as tar:
            for key, sample in _samples(tar):
                yield _sample_item(f"{path.name}/{key}", sample, spec, split)
            _check_end(tar)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        yield Item(name=path.name, problem=f"the shard ends early: {error}")


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError where an archive lacks the zeros at its end: tarfile takes a header cut short for the end."""
    file = cast("IO[bytes]", tar.fileobj)
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        message = "it lacks the mark of its end"
        raise tarfile.ReadError(message)


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    key, sample = "", dict[str, bytes]()
    for member in tar:
        if not member.isfile():
            continue
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        name = f"{folder}/{stem}" if folder else stem
        if name != key and sample:
            yield key, sample
            sample = {}
        key = name
        file = tar.extractfile(member)
        sample[extension.lower()] = file.read() if file else b""
    if sample:
        yield key, sample


def _sample_item(name: str, sample: Mapping[str, bytes], spec: Spec, split: str) -> Item:
    blob = next((sample[ext[1:]] for ext in IMAGES if ext[1:] in sample), None)
    if blob is None:
        return Item(name=name, problem=f"no image among {', '.join(sorted(sample))}")
    try:
        fields = json.loads(sample.get("json", b"{}"))
        labels = (int(sample["cls"]),) if "cls" in sample else ()
    except ValueError as error:
        return Item(name=name, problem=f"its .json or .cls cannot be read: {error}")
    group = str(fields[spec.group]) if spec.group in fields else group_of(spec, name)
    return Item(name=name, blob=blob, group=group, split=split, labels=labels)


def _parquet(unit: Unit, spec: Spec) -> Iterator[Item]:
    """Images of a Parquet file: a column of bytes, or of Hugging Face's {bytes, path}; `label`, `split`, `modality`."""
    path = Path(unit.paths[0])
    with _reading(path):
        scan = pl.scan_parquet(path)
        schema = scan.collect_schema()
    column = next((name for name, kind in schema.items() if _is_image(kind)), "")
    if not column:
        message = f"{path} has no column of image bytes; it has {', '.join(schema)}"
        raise OrchError(message, hint="a column of binary, or of {bytes, path} as Hugging Face writes it")
    known = [name for name in (*LABELS, "split", "modality", spec.group) if name in schema]
    row = 0
    with _reading(path):
        for frame in scan.select(column, *dict.fromkeys(known)).collect_batches(
            chunk_size=STRETCH, maintain_order=True
        ):
            for fields in frame.iter_rows(named=True):
                yield _parquet_item(f"{path.name}/{row}", fields, fields.pop(column), unit, spec)
                row += 1


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        message = f"{path} is not a readable Parquet file: {' '.join(str(error).split())[:200]}"
        raise OrchError(message, hint="it may be truncated: copy or download it again") from error


def _parquet_item(name: str, fields: Mapping[str, Any], image: Any, unit: Unit, spec: Spec) -> Item:
    label = next((fields[key] for key in LABELS if fields.get(key) is not None), None)
    if isinstance(label, str):
        label = unit.classes.index(label)
    split = fields.get("split")
    return Item(
        name=name,
        blob=(image["bytes"] if isinstance(image, dict) else image) or b"",
        modality=str(fields.get("modality") or ""),
        group=str(fields[spec.group]) if fields.get(spec.group) is not None else "",
        split=SPLIT_WORDS.get(str(split).lower(), "") if split else _split_of_name(Path(unit.paths[0])),
        labels=tuple(map(int, label)) if isinstance(label, list) else () if label is None else (int(label),),
    )


def _is_image(kind: pl.DataType) -> bool:
    return kind == pl.Binary or (isinstance(kind, pl.Struct) and any(f.name == "bytes" for f in kind.fields))


def _label_names(paths: list[Path]) -> tuple[str, ...]:
    """Names of the classes of Parquet files whose labels are words, sorted; none where they are numbers."""
    names: set[str] = set()
    for path in paths:
        if path.suffix == ".parquet":
            with _reading(path):
                scan = pl.scan_parquet(path)
                schema = scan.collect_schema()
                column = next((name for name in LABELS if schema.get(name) == pl.String), "")
                names |= set(scan.select(column).unique().collect()[column].drop_nulls()) if column else set()
    return tuple(sorted(names))


def _split_of_name(path: Path) -> str:
    """The split that a shard's name begins with (`train-00000-of-00010.parquet`), or none."""
    return SPLIT_WORDS.get(re.split(r"[-_.]", path.name.lower())[0], "")


def _slices(unit: Unit, spec: Spec) -> Iterator[Item]:
    read = dicom_items if unit.kind == "dicom" else nifti_items
    for path in map(Path, unit.paths):
        name = str(path.relative_to(unit.part)) if unit.part else path.name
        yield from read(path, name, spec.modality, group_of(spec, name), spec.window)
