"""Images and labels in MedMNIST's npz format, and the subsets of them that cells see.

The format (Yang et al. 2023, MedMNIST v2): arrays `{train,val,test}_images` of uint8 [n, h, w] (grey)
or [n, h, w, 3] (colour) and `{train,val,test}_labels` of integers [n, 1], or [n, k] for k binary labels.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from orch_core.errors import OrchError
from orch_core.images.labels import is_one_hot, label_fault
from orch_core.images.subset import hash_ranks

SPLITS = ("train", "val", "test")
FEWEST = 5
"""Test images of a class below which its AUC is said to be uncertain."""
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NpzFacts:
    """The facts of an npz.

    counts:      images per split
    duplicates:  images byte-equal to one of another split, by pair of splits (`train/val`)
    pretraining: training images left for pretraining, those byte-equal to a val or test image taken out
    label_fault: why the labels do not make a sound task, with the remedy; empty if they do
    one_hot:     whether the columns of labels are one class each
    doubts:      what else about the labels makes scores undefined or doubtful, a sentence each
    """

    fingerprint: str
    counts: dict[str, int]
    height: int
    width: int
    channels: int
    labels: int
    classes: int
    duplicates: dict[str, int]
    pretraining: int
    label_fault: str = ""
    one_hot: bool = False
    doubts: tuple[str, ...] = ()


def read_split(path: Path, split: str, expected: str = "") -> tuple[Images, Labels]:
    """Images [n, h, w, c] and labels [n, k] of one split; raises OrchError for a mistake in the file.

    expected: the file's fingerprint in the plan; raises OrchError if the file has changed ("": do not check).

    The arrays are cached (up to KEPT_BYTES of them) and shared, so they must not be written to.
    """
    if not path.exists():
        return _read_split(path, split)  # raises with the mistake
    stamp = stamp_of(path)
    if expected:
        require_unchanged(path, fingerprint(path), expected)
    if (stamp, split) not in _kept:
        arrays = _read_split(path, split)
        if expected:
            require_unchanged(path, fingerprint(path), expected)  # not replaced while it was read
        _keep((stamp, split), arrays)
    return _kept[stamp, split]


def map_split(path: Path, split: str, expected: str, scratch: Path) -> tuple[Images, Labels]:
    """As `read_split`, but images are mapped into memory from a nameless file in the folder `scratch`.

    A few images are in memory at a time, and the system may drop what is mapped; the file takes the images'
    raw bytes on disk, until nothing refers to them. Raises OSError if the disk is full.
    """
    require_unchanged(path, fingerprint(path), expected)
    labels, count, shape = read_labels(path, split), 0, ()
    with TemporaryFile(dir=scratch) as file:
        for image in stream_images(path, split):
            file.write(image.tobytes())
            count, shape = count + 1, image.shape
        file.flush()
        _check_counts(path, split, count, len(labels))
        images: Images = np.memmap(file, np.uint8, "r", shape=(count, *shape))
    require_unchanged(path, fingerprint(path), expected)  # not replaced while it was read
    return images, labels


def raw_bytes(path: Path, split: str) -> int:
    """Bytes of the images of a split without compression; 0 if it has none."""
    with _open(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    return sizes.get(f"{split}_images.npy", 0)


Stamp = tuple[str, int, int, int]
"""A file's path, size, time of change in nanoseconds, and inode."""
KEPT_BYTES = 2**28
_kept: dict[tuple[Stamp, str], tuple[Images, Labels]] = {}
_fingerprints: dict[Stamp, str] = {}


def stamp_of(path: Path) -> Stamp:
    """The file as it is now; equal stamps are taken for equal contents."""
    stat = path.stat()
    return (str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _keep(key: tuple[Stamp, str], arrays: tuple[Images, Labels]) -> None:
    """Keep the arrays, and drop the oldest beyond KEPT_BYTES (but never the newest)."""
    _kept[key] = arrays
    while len(_kept) > 1 and sum(one.nbytes for pair in _kept.values() for one in pair) > KEPT_BYTES:
        del _kept[next(iter(_kept))]


def require_unchanged(path: Path, now: str, expected: str) -> None:
    """Raise OrchError if the fingerprint of a source or task differs from that in the plan."""
    if now != expected:
        message = (
            f"{path} has changed since the plan was made: its fingerprint is {now[:12]}, not {expected[:12]}"
        )
        raise OrchError(message, hint="put the old file back, or plan again: the cells then have new ids")


def _read_split(path: Path, split: str) -> tuple[Images, Labels]:
    with _open(path) as archive:
        images = _array(archive, path, f"{split}_images")
        labels = _labels(archive, path, split)
    _check_images(path, split, images.dtype, images.shape)
    _check_counts(path, split, len(images), len(labels))
    return images.reshape(*images.shape[:3], -1).astype(np.uint8, copy=False), labels


def _check_counts(path: Path, split: str, images: int, labels: int) -> None:
    if images != labels:
        message = f"{path}: {images} {split} images but {labels} labels"
        raise OrchError(message, hint="every image needs its label; rebuild the file")
    if images == 0:
        message = f"{path}: the {split} split is empty"
        raise OrchError(message, hint="put at least one image in each of train, val and test")


def _check_images(path: Path, split: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    if dtype != np.uint8 or len(shape) not in {3, 4} or (len(shape) == 4 and shape[3] not in {1, 3}):
        wrong = True
    else:
        wrong = 0 in shape[1:]
    if wrong:
        message = f"{path}: {split}_images is {dtype} {list(shape)}"
        raise OrchError(message, hint="images must be uint8 [n, h, w] or [n, h, w, 3], as in MedMNIST")


def _labels(archive: zipfile.ZipFile, path: Path, split: str) -> Labels:
    labels = _array(archive, path, f"{split}_labels")
    if labels.dtype.kind not in "iub" or labels.ndim not in {1, 2} or 0 in labels.shape[1:]:
        message = f"{path}: {split}_labels is {labels.dtype} {list(labels.shape)}"
        raise OrchError(message, hint="labels must be integers [n] or [n, k]")
    return labels.astype(np.int64).reshape(len(labels), labels.shape[1] if labels.ndim == 2 else 1)


def npz_splits(path: Path) -> list[str]:
    """Splits that an npz has images of; raises OrchError for a file that is not one, or has none."""
    with _open(path) as archive:
        names = archive.namelist()
    found = [split for split in SPLITS if f"{split}_images.npy" in names]
    if not found:
        message = f"{path} has no images; it contains {', '.join(sorted(names)) or 'nothing'}"
        raise OrchError(message, hint="expected {train,val,test}_{images,labels}, as MedMNIST names them")
    return found


def read_labels(path: Path, split: str) -> Labels:
    """Labels [n, k] of one split; raises OrchError for a mistake in them."""
    with _open(path) as archive:
        return _labels(archive, path, split)


def stream_images(path: Path, split: str) -> Iterator[Images]:
    """Images [h, w, c] of one split, one by one, without loading the split (except in Fortran order)."""
    name = f"{split}_images"
    with _open(path) as archive:
        try:
            file = archive.open(f"{name}.npy")
        except Exception:
            _array(archive, path, name)
            raise
        with file:
            yield from _streamed(file, archive, path, split)


def _streamed(file: IO[bytes], archive: zipfile.ZipFile, path: Path, split: str) -> Iterator[Images]:
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
    except Exception as error:  # damaged bytes raise whatever numpy or the decompressor trips on
        raise _unreadable(path, f"{split}_images", error) from error
    _check_images(path, split, dtype, shape)
    if fortran:
        yield from (
            _array(archive, path, f"{split}_images").reshape(*shape[:3], -1).astype(np.uint8, copy=False)
        )
        return
    size = math.prod(shape[1:])
    for _ in range(shape[0]):
        try:
            blob = file.read(size)
        except Exception as error:
            raise _unreadable(path, f"{split}_images", error) from error
        if len(blob) != size:
            raise _unreadable(path, f"{split}_images", EOFError("it ends early"))
        yield np.frombuffer(blob, np.uint8).reshape(*shape[1:3], -1)


def inspect_npz(path: Path) -> NpzFacts:
    """Read the whole file once and check it; raises OrchError for a mistake in it."""
    parts = {split: read_split(path, split) for split in SPLITS}
    shapes = {images.shape[1:] for images, _ in parts.values()}
    if len(shapes) > 1:
        message = f"{path}: splits have images of different shapes: {sorted(shapes)}"
        raise OrchError(message, hint="all splits must share height, width and channels")
    height, width, channels = shapes.pop()
    columns = {split: labels.shape[1] for split, (_, labels) in parts.items()}
    if len(set(columns.values())) > 1:
        message = f"{path}: splits have different numbers of labels per image: {columns}"
        raise OrchError(message, hint="labels must be [n, k] with the same k in every split")
    by_split = {split: labels for split, (_, labels) in parts.items()}
    labels = np.concatenate(list(by_split.values()))
    if labels.min() < 0:
        message = f"{path}: a label is {labels.min()}"
        raise OrchError(message, hint="labels count from 0")
    keys = {split: split_keys(path, split) for split in SPLITS}
    hashes = {split: set(keys[split]) for split in SPLITS}
    held_out = hashes["val"] | hashes["test"]
    pairs = [("train", "val"), ("train", "test"), ("val", "test")]
    return NpzFacts(
        fingerprint=fingerprint(path),
        counts={split: len(images) for split, (images, _) in parts.items()},
        height=height,
        width=width,
        channels=channels,
        labels=labels.shape[1],
        classes=labels.shape[1] if labels.shape[1] > 1 else int(labels.max()) + 1,
        duplicates={f"{a}/{b}": len(hashes[a] & hashes[b]) for a, b in pairs if hashes[a] & hashes[b]},
        pretraining=sum(key not in held_out for key in keys["train"]),
        label_fault=label_fault(by_split),
        one_hot=is_one_hot(by_split),
        doubts=tuple(_doubts(by_split)),
    )


def _doubts(labels: dict[str, Labels]) -> Iterator[str]:
    """What about the labels of a task, by split, makes its scores undefined or doubtful."""
    every = np.concatenate(list(labels.values()))
    if every.shape[1] > 1:
        if ((every == 0) | (every == 1)).all() and (every.sum(1) == 1).all():
            yield "every image has one label of several: read as multi-label; multi-class has one column"
        elif every.max() > 1:
            yield f"it has several columns of labels and values up to {every.max()}: multi-label is 0 and 1"
        counts = {split: (part > 0).sum(0) for split, part in labels.items()}
        what, classes = "label", list(range(every.shape[1]))
    else:
        classes, size = np.unique(every).tolist(), int(every.max()) + 1
        if len(classes) < size:
            numbers = ", ".join(map(str, classes[:6])) + (", ..." if len(classes) > 6 else "")
            remedy = "number them from 0 without gaps"
            yield f"it has {len(classes)} of {size} classes: labels are {numbers}; {remedy}"
        counts = {split: np.array([(part == one).sum() for one in classes]) for split, part in labels.items()}
        what = "class"
    for split, numbers in counts.items():
        absent = [str(one) for one, number in zip(classes, numbers, strict=True) if not number]
        if absent:
            single = what == "class" and len(classes) - len(absent) == 1
            result = "a probe cannot learn it" if split == "train" else f"its AUC on {split} is undefined"
            result = "every probe will fail" if split == "train" and single else result
            yield f"no {split} image has {what} {', '.join(absent[:6])}: {result}"
    few = [str(one) for one, number in zip(classes, counts["test"], strict=True) if 0 < number < FEWEST]
    if few:
        yield f"fewer than {FEWEST} test images have {what} {', '.join(few[:6])}: its AUC has a wide interval"


def pretraining_order(path: Path, subset_seed: int, expected: str = "") -> NDArray[np.int64]:
    """Indices into the train split in hash order, without images that are also in the val or test split.

    expected: as in `read_split`.

    The first n are the pretraining subset of size n; there are `inspect_npz(path).pretraining` of them.
    """
    keys = image_keys(read_split(path, "train", expected)[0])
    held_out = {key for split in ("val", "test") for key in image_keys(read_split(path, split, expected)[0])}
    order = hash_order(keys, subset_seed)
    return np.array([index for index in order if keys[index] not in held_out], dtype=np.int64)


def fingerprint(path: Path) -> str:
    """Content hash of a file: blake2b-128, 32 hexadecimal digits. It is kept until the file changes."""
    stamp = stamp_of(path)
    if stamp not in _fingerprints:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        _fingerprints[stamp] = digest.hexdigest()
    return _fingerprints[stamp]


_keys: dict[tuple[Stamp, str], list[bytes]] = {}


def split_keys(path: Path, split: str) -> list[bytes]:
    """Content keys of a split's images; those of a file that has not changed are computed once a process."""
    stamp = stamp_of(path)
    if (stamp, split) not in _keys:
        _keys[stamp, split] = image_keys(read_split(path, split)[0])
    return _keys[stamp, split]


def image_keys(images: Images) -> list[bytes]:
    """A 128-bit content key per image."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def hash_order(keys: list[bytes], subset_seed: int) -> NDArray[np.int64]:
    """Indices of the images in the order of blake2b(seed, key): the first n are the subset of size n.

    A smaller subset is contained in every larger one, for any order of the file, and byte-equal
    images stay together.
    """
    return np.argsort(hash_ranks(keys, subset_seed), kind="stable")


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        message = f"{path} does not exist"
        raise OrchError(message, hint="paths in a grid are relative to the grid's folder") from error
    except Exception as error:  # damaged headers raise whatever zipfile trips on
        message = f"{path} is not a readable npz file: {str(error) or type(error).__name__}"
        raise OrchError(message, hint="it may be truncated: copy or download it again") from error


def _array(archive: zipfile.ZipFile, path: Path, name: str) -> NDArray[np.generic]:
    try:
        with archive.open(f"{name}.npy") as file:
            array: NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
    except KeyError as error:
        found = ", ".join(sorted(entry.removesuffix(".npy") for entry in archive.namelist())) or "nothing"
        message = f"{path} has no array `{name}`; it contains {found}"
        raise OrchError(
            message, hint="expected {train,val,test}_{images,labels}, as MedMNIST names them"
        ) from error
    except Exception as error:  # damaged bytes raise whatever numpy or the decompressor trips on
        raise _unreadable(path, name, error) from error
    return array


def _unreadable(path: Path, name: str, error: Exception) -> OrchError:
    if "allow_pickle" in str(error):
        message = f"{path}: array `{name}` holds Python objects, such as images of different sizes"
        return OrchError(message, hint="`orch data pack` takes images of any size from a folder of files")
    message = f"{path}: array `{name}` cannot be read: {str(error) or type(error).__name__}"
    return OrchError(message, hint="the file is damaged: copy or download it again")
