"""What a source is: its parts (units), what its names leave open, and the images of a part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from orch_core.errors import OrchError
from orch_core.images.npz import npz_splits, read_labels, stream_images
from orch_core.packs.formats.folders import (
    DICOM,
    IMAGES,
    NIFTI,
    classes_of,
    folder_files,
    folder_notes,
    image_items,
    other_items,
    place_of,
    split_depth,
    walk,
)
from orch_core.packs.formats.parquet import parquet_classes, parquet_items, parquet_notes
from orch_core.packs.formats.shards import SHARDS, shard_items
from orch_core.packs.formats.slices import dicom_items, nifti_items
from orch_core.packs.gather import STRAY, Item, Spec, Unit, group_of, printable
from orch_core.packs.splits import splits_of_files

STRETCH = 1000
"""Files of a folder that are one unit."""
FILES = (*SHARDS, ".parquet")
SOURCES = "a source is a folder of images, an npz, Parquet files or WebDataset shards"


def find_units(place: int, spec: Spec) -> list[Unit]:
    """The parts of the source at `place`; raises OrchError for a path that is no source."""
    path = spec.path
    if path.is_dir():
        shards = [file for file in walk(spec) if file.name.endswith(FILES)]
        return _shard_units(place, spec, shards) if shards else _folder_units(place, spec)
    if path.suffix == ".npz":
        return [_unit(place, "npz", [path], part=split) for split in npz_splits(path)]
    if path.is_file() and path.name.endswith(FILES):
        return _shard_units(place, spec, [path])
    if path.is_file() and path.name.endswith(NIFTI):
        return [_unit(place, "nifti", [path])]
    message = f"{path} does not exist" if not path.exists() else f"{path} is no source of images"
    raise OrchError(message, hint=SOURCES)


def source_notes(spec: Spec, units: list[Unit]) -> list[str]:
    """What the names of a source's files and columns leave open, for people: a sentence each."""
    parquet = [Path(unit.paths[0]) for unit in units if unit.kind == "parquet"]
    if parquet:
        return parquet_notes(parquet, spec)
    if not spec.path.is_dir():
        return []
    images, slices = (
        [Path(path) for unit in units if unit.kind in kinds for path in unit.paths]
        for kinds in (("images",), ("dicom", "nifti"))
    )
    return folder_notes(spec.path, images, slices, units[0].classes)


def _unit(place: int, kind: str, paths: list[Path], **fields: str | int | tuple[str, ...] | None) -> Unit:
    stats = [path.stat() if path.exists() else None for path in paths]  # a dangling link is a bad image
    stamp = " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" if stat else "gone" for stat in stats)
    unit = Unit(source=place, kind=kind, paths=tuple(map(str, paths)), part="", stamp=stamp)
    return replace(unit, **fields)  # type: ignore[arg-type]


def _shard_units(place: int, spec: Spec, shards: list[Path]) -> list[Unit]:
    root = spec.path if spec.path.is_dir() else spec.path.parent
    parquet = [path for path in shards if path.suffix == ".parquet"]
    classes = parquet_classes(parquet, spec)
    splits = splits_of_files(root, shards)
    kinds = {path: "parquet" if path.suffix == ".parquet" else "tar" for path in shards}
    units = [_unit(place, kinds[path], [path], classes=classes, split=splits[path]) for path in shards]
    others = [path for path in walk(spec) if path not in kinds] if spec.path.is_dir() else []
    return units + _stretches(place, "other", others, STRETCH, part=str(root))


def _folder_units(place: int, spec: Spec) -> list[Unit]:
    found = folder_files(spec)
    usable = found["images"] + found["dicom"] + found["nifti"]
    if not usable:
        message = f"{spec.path} has no images"
        raise OrchError(message, hint=f"looked for {', '.join((*IMAGES, *DICOM, *NIFTI))} in it and below it")
    depth = split_depth(spec.path, usable)
    placed = (place_of(path.relative_to(spec.path), depth) for path in found["images"])
    classes = classes_of([one for one in placed if one])
    units = []
    for kind, paths in found.items():
        named = classes if kind == "images" else ()
        stretch = 1 if kind == "nifti" else STRETCH
        units += _stretches(place, kind, paths, stretch, part=str(spec.path), classes=named, depth=depth)
    return units


def _stretches(
    place: int, kind: str, paths: list[Path], stretch: int, **fields: str | int | tuple[str, ...] | None
) -> list[Unit]:
    starts = range(0, len(paths), stretch)
    return [_unit(place, kind, paths[first : first + stretch], **fields) for first in starts]


def read_items(unit: Unit, spec: Spec) -> Iterator[Item]:
    """The images of a unit, in its order; raises OrchError where the unit itself cannot be read."""
    readers: Mapping[str, Callable[[Unit, Spec], Iterator[Item]]] = {
        "images": image_items,
        "npz": _npz,
        "tar": shard_items,
        "parquet": parquet_items,
        "dicom": _slices,
        "nifti": _slices,
        "other": other_items,
    }
    return readers[unit.kind](unit, spec)


def _npz(unit: Unit, _spec: Spec) -> Iterator[Item]:
    path, split = Path(unit.paths[0]), unit.part
    labels = read_labels(path, split)
    for row, image in enumerate(stream_images(path, split)):
        name = f"{path.name}/{split}/{row}"
        yield Item(name=name, pixels=image, split=split, labels=tuple(labels[row].tolist()))


def _slices(unit: Unit, spec: Spec) -> Iterator[Item]:
    read = dicom_items if unit.kind == "dicom" else nifti_items
    for path in map(Path, unit.paths):
        below = path.relative_to(unit.part) if unit.part else Path(path.name)
        name, placed = printable(below), place_of(below, unit.depth)
        if placed is None:
            yield Item(name=name, problem=STRAY)
            continue
        for item in read(path, name, spec.modality, group_of(spec, name), spec.window):
            yield replace(item, split=placed[0])
