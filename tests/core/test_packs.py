"""Packs: whatever the source, the same images come back, in an order in which subsets nest; damage is named."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packed import encoded, everything, packed, picture, spec, tree, write_folder
from PIL import Image

from orch_core.errors import OrchError
from orch_core.images.npz import hash_order, image_keys, inspect_npz, pretraining_order
from orch_core.images.source import read_split
from orch_core.packs.census import census, thumbnails
from orch_core.packs.decode import decode, difference_hash
from orch_core.packs.facts import pack_facts, problems
from orch_core.packs.layout import ALL
from orch_core.packs.read import open_packs, read_images, read_task, select

SHIPPED = Path(__file__).parents[2] / "experiments" / "images"


@pytest.mark.parametrize("store", ["keep", "raw"])
@pytest.mark.parametrize("name", ["pneumonia", "blood"])
def test_a_packed_npz_gives_the_images_of_the_npz_in_its_order(tmp_path: Path, name: str, store: str) -> None:
    path = SHIPPED / f"{name}.npz"
    out = packed(tmp_path / "out", spec(path), store=store)
    facts, expected = pack_facts(out, "ct"), inspect_npz(path)
    assert facts.counts == expected.counts
    assert (facts.height, facts.channels, facts.classes) == (28, expected.channels, expected.classes)
    images, labels = read_split(path, "train")
    for seed in (0, 3, -7):
        order = pretraining_order(path, seed)
        packs = open_packs(out)
        rows = select(packs, "ct", "train", seed).at(np.arange(expected.pretraining))
        assert np.array_equal(np.stack(read_images(packs, rows)), images[order])
        assert packs.table["label"][rows].tolist() == labels[order, 0].tolist()
    val = read_split(path, "val")[0]
    assert np.array_equal(np.stack(everything(out, "val")), val[hash_order(image_keys(val), 0)])


def test_the_order_of_one_modality_of_several_equals_that_of_separate_packs(tmp_path: Path) -> None:
    specs = [spec(SHIPPED / f"{name}.npz", modality=name) for name in ("breast", "pneumonia")]
    both, alone = packed(tmp_path / "both", *specs), packed(tmp_path / "alone", specs[0])
    for seed in (0, 5):
        found = []
        for folder in (both, alone):
            packs = open_packs(folder)
            chosen = select(packs, "breast", "train", seed)
            found.append(np.stack(read_images(packs, chosen.at(np.arange(chosen.count)))))
        assert np.array_equal(*found)
    assert pack_facts(both, "breast") == pack_facts(alone, "breast")
    assert pack_facts(alone, ALL) == pack_facts(alone, "breast")
    assert pack_facts(both, ALL).pretraining == 546 + 1700
    with pytest.raises(OrchError, match="no modality 'mr'; they have breast, pneumonia"):
        pack_facts(both, "mr")


def test_images_also_in_val_or_test_are_packed_but_not_for_pretraining(tmp_path: Path) -> None:
    images = np.stack([picture(seed) for seed in range(20)])
    parts = {"train_images": images[:12].copy(), "val_images": images[12:16], "test_images": images[16:]}
    parts["train_images"][4], parts["train_images"][9] = images[13], images[17]
    labels = {
        name.replace("images", "labels"): np.zeros((len(value), 1), int) for name, value in parts.items()
    }
    np.savez(tmp_path / "x.npz", **parts, **labels)
    facts = pack_facts(packed(tmp_path / "out", spec(tmp_path / "x.npz")), "ct")
    assert facts.counts == {"train": 12, "val": 4, "test": 4}
    assert facts.pretraining == 10
    assert facts.duplicates == {"train/val": 1, "train/test": 1}
    found = {image.tobytes() for image in everything(tmp_path / "out")}
    assert not found & {image.tobytes() for image in images[12:]}


KILLED = """
import os, signal, sys
from pathlib import Path
from orch_core.packs import gather, pack, write
left = int(sys.argv[3])
replace = os.replace
def dying(one, other):
    global left
    if left == 0 and sys.argv[4] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(one, other)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
os.replace = dying
specs = [gather.Spec(name=name, path=Path(sys.argv[1]) / name, modality="ct") for name in ("a", "b")]
options = pack.PackOptions(settings=gather.Settings(), pack_bytes=2500)
pack.pack(Path(sys.argv[2]), specs, options, lambda *_: None)
"""


def test_packing_killed_at_any_moment_continues_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_folder(tmp_path / name, 45)
    specs = [spec(tmp_path / name, name) for name in ("a", "b")]
    whole = tree(packed(tmp_path / "whole", *specs, pack_bytes=2500))
    assert len(whole) > 10
    killed = 0
    for moment in (0, 1, 2, 7, 12, 13, 14):
        when = ("before", "after")[moment % 2]
        out = tmp_path / f"killed-{moment}"
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(out), str(moment), when]
        ended = subprocess.run(command, capture_output=True, check=False)
        assert ended.returncode in {0, -signal.SIGKILL}, ended.stderr.decode()
        killed += ended.returncode != 0
        assert tree(packed(out, *specs, pack_bytes=2500)) == whole
        assert not (out / ".gathered").exists()
    assert killed >= 6
    assert tree(packed(tmp_path / "two", *specs, pack_bytes=2500, workers=2)) == whole


def test_a_folder_of_other_packs_is_left_alone(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "scans", 12)
    out = packed(tmp_path / "out", spec(root))
    before = tree(out)
    assert tree(packed(out, spec(root))) == before
    (root / "a" / "new.png").write_bytes(encoded(picture(99)))
    with pytest.raises(OrchError, match="packs of other sources, or of sources that have changed"):
        packed(out, spec(root))
    assert tree(out) == before


def test_the_fingerprint_is_of_the_content_not_of_places_names_or_encodings(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "one", 20)
    shutil.copytree(root, tmp_path / "elsewhere" / "two")
    first = packed(tmp_path / "a", spec(root, "scans"))
    second = packed(
        tmp_path / "b", spec(tmp_path / "elsewhere" / "two", "other"), store="raw", pack_bytes=2000
    )
    assert pack_facts(first, "ct").fingerprint == pack_facts(second, "ct").fingerprint
    (root / "a" / "p0-0.png").write_bytes(encoded(picture(500)))
    third = packed(tmp_path / "c", spec(root, "scans"))
    assert pack_facts(third, "ct").fingerprint != pack_facts(first, "ct").fingerprint


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two pack folders of the same shape and other images."""
    folders = []
    for name, first in (("one", 0), ("two", 100)):
        root = tmp_path / name
        root.mkdir()
        for number in range(first, first + 40):
            (root / f"{number:03}.png").write_bytes(encoded(picture(number)))
        folders.append(packed(tmp_path / f"{name}-packs", spec(root, "scans"), store="raw"))
    return folders[0], folders[1]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def largest(folder: Path) -> Path:
    return max((folder / "packs").iterdir(), key=lambda path: path.stat().st_size)


def manifest_of_another_format(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(document | {"format": 99}))


DAMAGE = {  # what is done to the first folder; who notices: planning (the facts) or the first read
    "a bit of an image": (lambda one, two: flip(largest(one), 700), "read", "not those that were packed"),
    "a pack cut short": (lambda one, two: largest(one).write_bytes(largest(one).read_bytes()[:-9]), "plan", "bytes"),
    "a pack of others": (lambda one, two: shutil.copy(largest(two), largest(one)), "read", "is not the pack"),
    "a pack gone": (lambda one, two: largest(one).unlink(), "plan", "is missing"),
    "another's index": (lambda one, two: shutil.copy(two / "index.parquet", one), "plan", "does not belong"),
    "another's table": (lambda one, two: shutil.copy(two / "table.bin", one), "plan", "does not belong"),
    "another's manifest": (lambda one, two: shutil.copy(two / "manifest.json", one), "plan", "does not belong"),
    "no manifest": (lambda one, two: (one / "manifest.json").unlink(), "plan", "has not finished"),
    "half a manifest": (lambda one, two: (one / "manifest.json").write_text("{"), "plan", "is damaged"),
    "another format": (lambda one, two: manifest_of_another_format(one), "plan", "format 99"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_with_a_remedy(two: tuple[Path, Path], case: str) -> None:
    damage, notices, said = DAMAGE[case]
    damage(*two)

    def read() -> None:
        for split in ("train", "val"):
            everything(two[0], split)

    notice = read if notices == "read" else lambda: pack_facts(two[0], "ct")
    with pytest.raises(OrchError, match=said) as caught:
        notice()
    assert caught.value.hint
    if notices == "read":
        assert len(list(problems(two[0], lambda *_: None))) == 1
    elif case != "another's index":  # which training only reads for another subset seed
        with pytest.raises(OrchError):
            read()


def test_more_packs_than_may_be_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orch_core.packs.read.MOST_OPEN", 3)
    out = packed(tmp_path / "out", spec(write_folder(tmp_path / "scans", 60)), pack_bytes=1500, store="raw")
    packs = open_packs(out)
    rows = np.random.default_rng(0).permutation(packs.manifest.pretraining)
    images = read_images(packs, rows)
    assert len(packs.manifest.packs) > 20
    assert len(packs.files) == 3
    assert {image.tobytes() for image in images} <= {picture(number).tobytes() for number in range(60)}


def test_packs_serve_as_a_task_where_they_can(tmp_path: Path) -> None:
    out = packed(tmp_path / "out", spec(SHIPPED / "breast.npz"))
    images, labels = read_split(out, "test")
    expected, truth = read_split(SHIPPED / "breast.npz", "test")
    order = hash_order(image_keys(expected), 0)
    assert np.array_equal(images, expected[order])
    assert np.array_equal(labels, truth[order])
    root = write_folder(tmp_path / "scans", 12)
    for source, said in (
        (spec(root), "test split is empty"),
        (spec(write_mixed(tmp_path / "mixed")), "differ in size"),
    ):
        with pytest.raises(OrchError, match=said):
            read_task(packed(tmp_path / f"{source.name}-out", source), "train")


def write_mixed(root: Path) -> Path:
    root.mkdir()
    for number in range(12):
        (root / f"{number}.png").write_bytes(encoded(picture(number, 20 + number, colour=number % 2 == 0)))
    return root


def test_the_census_finds_what_was_planted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "scans" / "train", 30)
    write_folder(tmp_path / "scans" / "val", 3)  # equal to the first three of train
    rng = np.random.default_rng(0)
    textured = Image.fromarray(rng.integers(0, 256, (6, 7), np.uint8)).resize(
        (56, 48), Image.Resampling.BICUBIC
    )
    (root / "a" / "same.png").write_bytes(encoded(picture(4)))  # picture 4 is a `b`: labels conflict
    (root / "a" / "look.png").write_bytes(encoded(np.asarray(textured)))
    (root / "b" / "alike.jpg").write_bytes(encoded(np.asarray(textured), "JPEG", quality=95))
    out = packed(tmp_path / "out", spec(tmp_path / "scans"))
    found = census(out)
    assert (found.repeated, found.across, found.conflicting) == (4, 3, 1)
    assert found.alike >= 1
    assert difference_hash(np.asarray(textured)[..., None]) == difference_hash(
        decode((root / "b" / "alike.jpg").read_bytes())[0]
    )
    assert ("train/a/same.png", "train/b/p1-4.png") in found.named
    assert {one.split: one.images for one in found.counts} == {"train": 33, "val": 3}
    assert found.pretraining == 30
    urls = thumbnails(out)[("scans", "ct")]
    assert len(urls) == 8
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    npz = census(SHIPPED / "pneumonia.npz")
    images = np.concatenate(
        [read_split(SHIPPED / "pneumonia.npz", split)[0] for split in ("train", "val", "test")]
    )
    assert npz.repeated == len(images) - len(np.unique(images.reshape(len(images), -1), axis=0))
