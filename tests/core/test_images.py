"""Images in MedMNIST's format: what is read, what is refused, and which subsets nest."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch_core.errors import OrchError
from orch_core.images.npz import (
    SPLITS,
    fingerprint,
    hash_order,
    image_keys,
    inspect_npz,
    pretraining_order,
    read_split,
)

SHIPPED = Path(__file__).parents[2] / "experiments" / "images"
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def arrays(colour: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """A sound data set of 12 + 4 + 6 images, three classes."""
    random = np.random.default_rng(seed)
    shape = (6, 5, 3) if colour else (6, 5)
    made = {}
    for split, count in zip(SPLITS, (12, 4, 6), strict=True):
        made[f"{split}_images"] = random.integers(0, 256, (count, *shape), dtype=np.uint8)
        made[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 3)[:, None]
    return made


def save(path: Path, parts: dict[str, np.ndarray], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in parts.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("colour", [False, True])
def test_every_compression_reads_as_numpy_reads_it(tmp_path: Path, compression: int, colour: bool) -> None:
    path = save(tmp_path / "x.npz", arrays(colour), compression)
    for split in SPLITS:
        images, labels = read_split(path, split)
        with np.load(path) as archive:
            assert np.array_equal(images.squeeze(), archive[f"{split}_images"])
            assert np.array_equal(labels, archive[f"{split}_labels"])
        assert images.shape[1:] == (6, 5, 3 if colour else 1)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64


def test_fortran_order_and_flat_labels_are_the_same_images(tmp_path: Path) -> None:
    parts = arrays()
    plain = save(tmp_path / "c.npz", parts)
    turned = {k: np.asfortranarray(v) if "images" in k else v[:, 0] for k, v in parts.items()}
    other = save(tmp_path / "f.npz", turned)
    for split in SPLITS:
        for one, two in zip(read_split(plain, split), read_split(other, split), strict=True):
            assert np.array_equal(one, two)
    assert np.array_equal(pretraining_order(plain, 7), pretraining_order(other, 7))


def test_facts_of_the_shipped_images() -> None:
    expected = {  # counts as experiments/images/README.md states them; classes as MedMNIST's INFO has them
        "breast": ((546, 78, 156), 1, 2),
        "pneumonia": ((1700, 200, 624), 1, 2),
        "blood": ((1000, 150, 700), 3, 8),
        "tissue": ((4400, 500, 2000), 1, 8),
    }
    total = 0
    for name, (counts, channels, classes) in expected.items():
        path = SHIPPED / f"{name}.npz"
        total += path.stat().st_size
        facts = inspect_npz(path)
        assert tuple(facts.counts.values()) == counts
        assert (facts.height, facts.width, facts.channels, facts.classes) == (28, 28, channels, classes)
        assert facts.duplicates == {}
        assert facts.pretraining == counts[0]
        with np.load(path) as archive:
            for split in SPLITS:
                assert set(archive[f"{split}_labels"].ravel()) == set(range(classes))
    assert total <= 8_000_000


def test_fingerprint_is_blake2b_of_the_bytes(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", arrays())
    assert fingerprint(path) == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def test_duplicates_between_splits_are_counted_and_kept_out_of_pretraining(tmp_path: Path) -> None:
    parts = arrays()
    parts["train_images"][3] = parts["val_images"][1]
    parts["train_images"][8] = parts["val_images"][1]
    parts["train_images"][5] = parts["test_images"][0]
    path = save(tmp_path / "x.npz", parts)
    facts = inspect_npz(path)
    assert facts.duplicates == {"train/val": 1, "train/test": 1}
    assert facts.pretraining == 9
    assert sorted(pretraining_order(path, 0)) == [0, 1, 2, 4, 6, 7, 9, 10, 11]


def test_binary_labels_in_columns_are_counted_as_classes(tmp_path: Path) -> None:
    parts = arrays()
    for split in SPLITS:
        parts[f"{split}_labels"] = np.eye(14, dtype=np.uint8)[: len(parts[f"{split}_images"])]
    facts = inspect_npz(save(tmp_path / "x.npz", parts))
    assert (facts.labels, facts.classes) == (14, 14)


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31), st.data())
@settings(max_examples=40, deadline=None)
def test_a_subset_of_the_hash_order_depends_on_content_alone(
    seed: int, subset: int, data: st.DataObject
) -> None:
    images = np.random.default_rng(seed).integers(0, 2, (24, 2, 3), dtype=np.uint8)  # with duplicates
    keys = image_keys(images)
    shuffled = data.draw(st.permutations(range(24)))
    size = data.draw(st.integers(1, 24))
    order = hash_order(keys, subset)
    other = hash_order([keys[index] for index in shuffled], subset)
    assert sorted(order) == list(range(24))
    chosen = sorted(keys[index] for index in order[:size])
    assert chosen == sorted(keys[shuffled[index]] for index in other[:size])


def test_subset_seeds_choose_different_images() -> None:
    keys = image_keys(np.random.default_rng(0).integers(0, 256, (400, 4, 4), dtype=np.uint8))
    first, second = (set(hash_order(keys, seed)[:200]) for seed in (0, 1))
    assert 70 < len(first & second) < 130  # hypergeometric, mean 100, sd 5


def wrong(name: str, value: np.ndarray | None) -> dict[str, np.ndarray]:
    parts = arrays()
    if value is None:
        del parts[name]
    else:
        parts[name] = value
    return parts


BAD_ARRAYS = {
    "missing array": (wrong("test_labels", None), "test_labels"),
    "float images": (wrong("train_images", np.zeros((12, 6, 5), np.float32)), "float32"),
    "int16 images": (wrong("val_images", np.zeros((4, 6, 5), np.int16)), "int16"),
    "flat images": (wrong("train_images", np.zeros((12, 30), np.uint8)), r"\[12, 30\]"),
    "channels first": (wrong("train_images", np.zeros((12, 3, 6, 5), np.uint8)), r"\[12, 3, 6, 5\]"),
    "volumes": (wrong("train_images", np.zeros((12, 6, 6, 6, 1), np.uint8)), r"\[12, 6, 6, 6, 1\]"),
    "one number": (wrong("train_images", np.uint8(3)), r"\[\]"),
    "float labels": (wrong("train_labels", np.zeros((12, 1))), "float64"),
    "text labels": (wrong("train_labels", np.array(["cat"] * 12)), "labels"),
    "negative label": (wrong("train_labels", np.full((12, 1), -1, np.int8)), "-1"),
    "too few labels": (wrong("train_labels", np.zeros((11, 1), np.uint8)), "12 train images but 11"),
    "empty split": (
        wrong("val_images", np.zeros((0, 6, 5), np.uint8)) | {"val_labels": np.zeros((0, 1), np.uint8)},
        "val split is empty",
    ),
    "no labels": (wrong("train_labels", np.zeros((12, 0), np.uint8)), "labels"),
    "no pixels": (wrong("train_images", np.zeros((12, 0, 5), np.uint8)), "train_images"),
    "shapes differ": (wrong("val_images", np.zeros((4, 7, 5), np.uint8)), "different shapes"),
    "label columns differ": (wrong("val_labels", np.zeros((4, 2), np.uint8)), "labels"),
    "beyond int64": (wrong("train_labels", np.full((12, 1), 2**64 - 1, np.uint64)), "label"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_wrong_arrays_are_named(tmp_path: Path, case: str) -> None:
    parts, said = BAD_ARRAYS[case]
    path = save(tmp_path / "x.npz", parts)
    with pytest.raises(OrchError, match=said) as caught:
        inspect_npz(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def encrypted(path: Path) -> None:
    """Set the encryption bit of every member, in the local and the central headers."""
    data = bytearray(save(path, arrays()).read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(magic)
        while start >= 0:
            data[start + offset] |= 1
            start = data.find(magic, start + 4)
    path.write_bytes(data)


def unknown_compression(path: Path) -> None:
    """Give every member compression method 97 (WavPack), which Python does not read."""
    data = bytearray(save(path, arrays()).read_bytes())
    for magic, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.find(magic)
        while start >= 0:
            data[start + offset : start + offset + 2] = (97).to_bytes(2, "little")
            start = data.find(magic, start + 4)
    path.write_bytes(data)


def huge_header(path: Path) -> None:
    """An array that claims 2**50 images."""
    save(path, arrays())
    with zipfile.ZipFile(path, "w") as archive, archive.open("train_images.npy", "w") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**50, 6, 5)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 100)


def pickled(path: Path) -> None:
    np.savez(path, **(arrays() | {"train_images": np.array([object()] * 12)}), allow_pickle=True)


BAD_FILES = {
    "absent": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("images, labels\n"),
    "npy": lambda path: (
        np.save(path.with_suffix(".npy"), np.zeros(3)) or path.with_suffix(".npy").rename(path)
    ),
    "not npy inside": lambda path: zipfile.ZipFile(path, "w").writestr("train_images.npy", b"hello"),
    "half": lambda path: path.write_bytes(save(path, arrays()).read_bytes()[: path.stat().st_size // 2]),
    "encrypted": encrypted,
    "unknown compression": unknown_compression,
    "huge header": huge_header,
    "pickled": pickled,
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_with_a_remedy(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.npz"
    BAD_FILES[case](path)
    with pytest.raises(OrchError) as caught:
        inspect_npz(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_damaged_bytes_never_end_in_a_traceback(tmp_path: Path, compression: int) -> None:
    path = save(tmp_path / "x.npz", arrays(), compression)
    sound = path.read_bytes()
    random = np.random.default_rng(compression)
    refused = 0
    for _ in range(250):
        damaged = bytearray(sound)
        for position in random.integers(0, len(sound), random.integers(1, 4)):
            damaged[position] ^= random.integers(1, 256)
        path.write_bytes(bytes(damaged))
        try:
            inspect_npz(path)
        except OrchError:
            refused += 1
    assert refused > 150  # the rest hit bytes that carry nothing (dates, checked sizes)


ROW = np.arange(24)
CLASSES = {"train": ROW % 3, "val": ROW % 3, "test": ROW % 3}


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({}, ()),
        (
            dict.fromkeys(SPLITS, ROW % 3 + 1),
            ("it has 3 of 4 classes: labels are 1, 2, 3; number them",),
        ),
        (dict.fromkeys(SPLITS, ROW % 2 * 1000), ("it has 2 of 1001 classes: labels are 0, 1000",)),
        ({"test": ROW % 2}, ("no test image has class 2: its AUC on test is undefined",)),
        ({"train": ROW % 2}, ("no train image has class 2: a probe cannot learn it",)),
        (
            {"train": ROW * 0, "val": ROW % 2, "test": ROW % 2},
            ("no train image has class 1: every probe will fail",),
        ),
        ({"test": np.minimum(ROW, 2)}, ("fewer than 5 test images have class 0, 1: its AUC has",)),
        (
            {split: np.eye(3, dtype=int)[ROW % 3] for split in SPLITS},
            ("every image has one label of several",),
        ),
        (
            {split: np.stack([ROW % 2, ROW % 3], 1) for split in SPLITS},
            ("it has several columns of labels and values up to 2",),
        ),
        (
            {split: np.stack([ROW % 2, ROW % 2 * (split != "test")], 1) for split in SPLITS},
            ("no test image has label 1: its AUC on test is undefined",),
        ),
    ],
)
def test_what_makes_scores_doubtful_is_said(tmp_path: Path, labels: dict, says: tuple[str, ...]) -> None:
    parts = {f"{split}_images": np.zeros((24, 4, 4), np.uint8) for split in SPLITS}
    parts |= {f"{split}_labels": values.astype(np.int64) for split, values in (CLASSES | labels).items()}
    doubts = inspect_npz(save(tmp_path / "x.npz", parts)).doubts
    assert len(doubts) == len(says)
    assert all(doubt.startswith(words) for doubt, words in zip(doubts, says, strict=True))
