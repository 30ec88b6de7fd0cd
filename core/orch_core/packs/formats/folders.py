"""A folder of image files as a source: which files are images, and what their folders say of split and class.

What a file contains counts, not what it is called. Folders and files whose name starts with a dot are
skipped, links are followed, and every other file that is not an image is listed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orch_core.packs.decode import BadImage, decode_pages, is_turned
from orch_core.packs.formats.slices import looks_like_dicom
from orch_core.packs.gather import NOT_IMAGE, STRAY, TURNED, Item, Spec, Unit, group_of, printable
from orch_core.packs.splits import require_known, split_of_word

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2")
DICOM, NIFTI = (".dcm", ".dicom", ".ima"), (".nii", ".nii.gz")
MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP|\0\0\0\x0cjP|P[56]\s", re.DOTALL
)
"""How JPEG, PNG, GIF, BMP, TIFF, WebP, JPEG 2000 and PNM begin."""
MASKS = re.compile(r"(^|[^a-z])(masks?|seg|segmentations?|annotations?|labelstr|labelsts)([^a-z]|$)")
SKIPPED = "__MACOSX"


def folder_files(spec: Spec) -> dict[str, list[Path]]:
    """Files below a folder by kind (images, dicom, nifti, other), in natural order."""
    found: dict[str, list[Path]] = {"images": [], "dicom": [], "nifti": [], "other": []}
    for path in walk(spec):
        found[_kind(path)].append(path)
    return found


def walk(spec: Spec) -> Iterator[Path]:
    """Files below the source's folder that `exclude` does not match; a folder is entered only once."""
    entered: set[Path] = set()
    for root, folders, names in os.walk(spec.path, followlinks=True):
        real = Path(root).resolve()
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(
            (one for one in folders if not one.startswith(".") and one != SKIPPED), key=natural
        )
        for name in sorted(names, key=natural):
            path = Path(root, name)
            below = printable(path.relative_to(spec.path))
            if not name.startswith(".") and not (spec.exclude and re.search(spec.exclude, below)):
                yield path


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """The key of an order in which `2` comes before `10`."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts)


def _kind(path: Path) -> str:
    lower = path.name.lower()
    if lower.endswith(IMAGES):
        return "images"
    if lower.endswith(NIFTI):
        return "nifti"
    if lower.endswith(DICOM) or looks_like_dicom(path):
        return "dicom"
    try:
        with path.open("rb") as file:
            return "images" if MAGIC.match(file.read(16)) else "other"
    except OSError:
        return "other"


def split_depth(root: Path, paths: Sequence[Path]) -> int | None:
    """How many folders below `root` the folders of the splits are, None if there are none.

    It is the first depth at which any folder's name is a split's word. Raises OrchError if
    others beside it are not.
    """
    found = [path.relative_to(root).parts[:-1] for path in paths]
    named = (level for folders in found for level, name in enumerate(folders) if split_of_word(name))
    depth = min(named, default=None)
    if depth is not None:
        beside = {folders[depth] for folders in found if len(folders) > depth}
        require_known(beside, f"{root}, among its folders of splits,")
    return depth


def place_of(below: Path, depth: int | None) -> tuple[str, tuple[str, ...]] | None:
    """A file's split and the folders that it lies in below that; None for one above the folders of splits."""
    folders = below.parts[:-1]
    if depth is None:
        return "", folders
    return (split_of_word(folders[depth]), folders[depth + 1 :]) if len(folders) > depth else None


def classes_of(found: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """Names of the classes in natural order, none if the folders (see `place_of`) do not say them.

    A file's class is the first folder below its split: if most files lie right in it, or if all splits
    have the same folders there.
    """
    flat = [folders[0] for _, folders in found if len(folders) == 1]
    by_split: dict[str, set[str]] = {}
    for split, folders in found:
        by_split.setdefault(split, set()).update(folders[:1])
    alike = len(by_split) > 1 and len({frozenset(names) for names in by_split.values()}) == 1
    names = set(flat) if 2 * len(flat) > len(found) else by_split[found[0][0]] if alike else set()
    return tuple(sorted(names, key=natural))


def folder_notes(
    root: Path, images: Sequence[Path], others: Sequence[Path], classes: Sequence[str]
) -> list[str]:
    """What the folders leave open: labels of images that are not there, and files that look like masks."""
    said = []
    if not classes and any(path.parent != root for path in images):
        said.append(
            "its images have no labels: most do not lie in a folder for each class, below the source or its "
            "splits"
        )
    files = [path.relative_to(root) for path in (*images, *others)]
    masks = [path for path in files if any(MASKS.search(part.lower()) for part in path.parts)]
    if masks and len(masks) < len(files):
        said.append(
            f"{len(masks):,} of {len(files):,} files look like masks ({printable(masks[0])}): leave them "
            "out by `exclude`"
        )
    return said


def image_items(unit: Unit, spec: Spec) -> Iterator[Item]:
    """The images of a stretch of a folder's files, every frame of those that have several."""
    root = Path(unit.part)
    for path in map(Path, unit.paths):
        below = path.relative_to(root)
        name, place = printable(below), place_of(below, unit.depth)
        split, folders = place or ("", ())
        label = folders[0] if folders else ""
        if place is None or (unit.classes and label not in unit.classes):
            yield Item(name=name, problem=STRAY)
            continue
        try:
            blob = path.read_bytes()
        except OSError as error:
            yield Item(name=name, problem=f"cannot be read: {error.strerror}")
            continue
        labels = (unit.classes.index(label),) if unit.classes else ()
        item = Item(name=name, blob=blob, group=group_of(spec, name), split=split, labels=labels)
        yield from _frames(item)


def _frames(item: Item) -> Iterator[Item]:
    """An image as it is, or the frames of an animation or of a TIFF of several pages."""
    try:
        pages = decode_pages(item.blob)
    except BadImage as problem:
        yield Item(name=item.name, problem=str(problem))
        return
    if not pages:
        yield replace(item, note=TURNED) if is_turned(item.blob) else item
    for number, pixels in enumerate(pages):
        name = f"{item.name}#{number}"
        if pixels.shape == pages[0].shape:
            yield replace(item, name=name, blob=b"", pixels=pixels)
        else:
            yield Item(name=name, problem="a page of another size than the first")


def other_items(unit: Unit, _spec: Spec) -> Iterator[Item]:
    """Files that are not images, to be listed."""
    for path in map(Path, unit.paths):
        yield Item(name=printable(path.relative_to(unit.part)), problem=NOT_IMAGE)
