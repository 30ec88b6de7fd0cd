"""Packs: whatever the source, the same images come back, in an order in which subsets nest; damage is named."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from orch_core.errors import OrchError
from orch_core.images import hash_order, image_keys, inspect_npz, pretraining_order, read_split
from orch_core.learn.data import as_tensor
from orch_core.packs.census import census, thumbnails
from orch_core.packs.facts import pack_facts, problems, read_task
from orch_core.packs.gather import Settings, Spec
from orch_core.packs.pack import Wishes, pack
from orch_core.packs.pixels import BadImage, decode, look, shrink, to_uint8
from orch_core.packs.read import ALL, open_packs, read_images, select

SHIPPED = Path(__file__).parents[2] / "experiments" / "images"


def packed(out: Path, *specs: Spec, store: str = "keep", side: int = 0, **wishes) -> Path:
    pack(out, specs, Wishes(settings=Settings(store=store, side=side), **wishes), lambda *_: None)
    return out


def spec(path: Path, name: str = "", modality: str = "ct", **fields) -> Spec:
    return Spec(name=name or path.stem, path=path, modality=modality, **fields)


def picture(seed: int, side: int = 24, colour: bool = False) -> np.ndarray:
    """A smooth image with its own gradient, so that JPEG hardly changes it."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, rng.uniform(20, 120), side)
    image = rng.uniform(0, 80) + x[:, None] + rng.uniform(0, 0.4) * x
    return np.stack([image, image / 2, image / 3], -1).astype(np.uint8) if colour else image.astype(np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def write_folder(root: Path, count: int = 30, classes: tuple[str, ...] = ("a", "b", "c")) -> Path:
    for number in range(count):
        path = root / classes[number % len(classes)] / f"p{number // 3}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number)))
    return root


def everything(folder: Path, split: str = "train", modality: str = ALL) -> list[np.ndarray]:
    packs = open_packs(folder)
    chosen = select(packs, modality, split)
    return read_images(packs, chosen.at(np.arange(chosen.count)))


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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


def test_the_order_of_two_seeds_of_one_modality_of_several_is_that_of_its_own_packs(tmp_path: Path) -> None:
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


def test_a_folder_of_classes_and_splits(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("validation", 6), ("test", 3)):
        write_folder(tmp_path / "scans" / split, count)
    (tmp_path / "scans" / "README.txt").write_text("ignored")
    facts = pack_facts(packed(tmp_path / "out", spec(tmp_path / "scans")), "ct")
    assert facts.counts == {"train": 12, "val": 6, "test": 3}
    assert (facts.labels, facts.classes) == (1, 3)
    assert open_packs(tmp_path / "out").manifest.sources[0].class_names == ("a", "b", "c")
    index = pl.read_parquet(tmp_path / "out" / "index.parquet")
    names = pl.read_parquet(tmp_path / "out" / "names.parquet")["name"]
    for label, name in zip(index["labels"].list.first(), names, strict=True):
        assert "abc"[label] == Path(name).parent.name


def test_what_a_file_holds_counts_not_its_name_and_bad_ones_are_listed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "scans", 96)
    sound = encoded(picture(1000, 64, colour=True), "JPEG")
    (root / "a" / "a-png.jpg").write_bytes(encoded(picture(1001)))
    (root / "a" / "a-jpeg.png").write_bytes(sound)
    (root / "b" / "text.png").write_text("no image at all")
    (root / "b" / "zero.png").write_bytes(b"")
    (root / "b" / "half.jpg").write_bytes(sound[: len(sound) // 2])
    (root / "b" / "half.png").write_bytes(encoded(picture(1002))[:-40])
    (root / "b" / "dangling.png").symlink_to("nowhere")
    bad = packed(tmp_path / "out", spec(root), max_bad=5 / 103)
    assert pack_facts(bad, "ct").pretraining + pack_facts(bad, "ct").counts["val"] == 98
    listed = dict(pl.read_csv(bad / "left-out.csv").select("image", "reason").iter_rows())
    assert set(listed) == {
        f"b/{name}" for name in ("text.png", "zero.png", "half.jpg", "half.png", "dangling.png")
    }
    assert listed["b/zero.png"] == "empty file"
    assert "not an image" in listed["b/text.png"]
    assert "truncated" in listed["b/half.jpg"]
    with pytest.raises(OrchError, match=r"5 of 103 images cannot be used, more than the 4%") as caught:
        packed(tmp_path / "refused", spec(root), max_bad=0.04)
    assert "left-out.csv" in caught.value.hint
    assert not (tmp_path / "refused" / "manifest.json").exists()
    again = packed(
        tmp_path / "refused", spec(root), max_bad=0.05
    )  # the same command with more patience goes on
    assert tree(again) == tree(bad)


def test_groups_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "scans", 300)
    out = packed(tmp_path / "out", spec(root, group=r"/(p\d+)-"), val=0.2)
    index = pl.read_parquet(out / "index.parquet")
    assert index["group"].n_unique() == 100
    assert index.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert 30 <= (index["split"] == 1).sum() <= 90  # 20% of 100 groups of 3, binomial: 60 +- 12
    assert census(out).torn_groups == 0


def test_a_source_that_splits_a_group_keeps_its_other_images_from_pretraining(tmp_path: Path) -> None:
    for split, numbers in (("train", range(12)), ("val", range(12, 15))):
        for number in numbers:
            path = tmp_path / "scans" / split / f"p{number % 6}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(number)))
    out = packed(tmp_path / "out", spec(tmp_path / "scans", group=r"(p\d+)-"))
    assert pack_facts(out, "ct").counts["train"] == 12
    assert pack_facts(out, "ct").pretraining == 6  # groups p0, p1, p2 are in val too
    assert census(out).torn_groups == 3


def test_shards_and_parquet_give_what_the_folder_gives(tmp_path: Path) -> None:
    blobs = {f"{number:03}": encoded(picture(number)) for number in range(20)}
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"train-{shard}.tar", "w") as tar:
            for number, (name, blob) in list(enumerate(blobs.items()))[shard::2]:
                fields = {
                    "png": blob,
                    "cls": b"%d" % (number % 4),
                    "json": json.dumps({"who": number // 5}).encode(),
                }
                for extension, data in fields.items():
                    member = tarfile.TarInfo(f"{name}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    rows = {
        "image": [{"bytes": blob, "path": name} for name, blob in blobs.items()],
        "label": ["abcd"[number % 4] for number in range(20)],
        "who": [number // 5 for number in range(20)],
        "split": ["train"] * 20,
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "table.parquet")
    found = []
    for path in (tmp_path / "shards", tmp_path / "table.parquet"):
        out = packed(tmp_path / f"{path.stem}-out", spec(path, "scans", group="who"), val=0.3)
        facts = pack_facts(out, "ct")
        assert facts.counts["train"] + facts.counts["val"] == 20
        assert (facts.labels, facts.classes) == (1, 4)
        index = pl.read_parquet(out / "index.parquet")
        assert index["group"].n_unique() == 4
        found.append((facts.fingerprint, index["labels"].list.first().to_list()))
        assert {image.tobytes() for split in ("train", "val") for image in everything(out, split)} == {
            picture(number).tobytes() for number in range(20)
        }
    assert found[0] == found[1]


def test_a_shard_that_ends_early_is_listed_and_a_broken_parquet_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(9):
            member, blob = tarfile.TarInfo(f"{number}.png"), encoded(picture(number, 64))
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    out = packed(tmp_path / "out", spec(path), max_bad=0.5)
    assert "ends early" in (out / "left-out.csv").read_text()
    table = tmp_path / "x.parquet"
    pl.DataFrame({"image": [b"1"]}).write_parquet(table)
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(OrchError, match="not a readable Parquet file"):
        packed(tmp_path / "no", spec(table))
    pl.DataFrame({"text": ["1"]}).write_parquet(table)
    with pytest.raises(OrchError, match="no column of image bytes; it has text"):
        packed(tmp_path / "no", spec(table))


def test_dicom_frames_are_windowed_as_the_standard_says(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian

    def write(name: str, stored: np.ndarray, **tags) -> None:
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        data.PixelData = stored.astype(np.uint16).tobytes()
        fields = {"Rows": stored.shape[0], "Columns": stored.shape[1], "BitsAllocated": 16, "BitsStored": 16,
                  "HighBit": 15, "PixelRepresentation": 0, "SamplesPerPixel": 1,
                  "PhotometricInterpretation": "MONOCHROME2"}  # fmt: skip
        for key, value in (fields | tags).items():
            setattr(data, key, value)
        (tmp_path / "scans").mkdir(exist_ok=True)
        data.save_as(tmp_path / "scans" / name, enforce_file_format=True)

    stored = np.arange(64 * 64).reshape(64, 64)
    write("1.2.3.456", stored, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024, PatientID="anna")
    write("film.dcm", stored, Modality="CR", WindowCenter=2048, WindowWidth=1000, PatientID="bert",
          PhotometricInterpretation="MONOCHROME1")  # fmt: skip
    (tmp_path / "scans" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"junk")
    out = packed(tmp_path / "out", spec(tmp_path / "scans", modality=""), val=0, max_bad=0.34)
    index = pl.read_parquet(out / "index.parquet")
    assert set(index["group"]) == {"anna", "bert"}
    hounsfield = stored - 1024.0
    expected = np.clip(np.rint((hounsfield - (40 - 200)) / 400 * 255), 0, 255)
    [ct] = [*everything(out, "train", "ct"), *everything(out, "val", "ct")]
    assert np.abs(ct[..., 0] - expected).max() <= 1  # halves may be rounded either way
    assert (ct[..., 0] != expected).mean() < 0.01
    # PS3.3 C.11.2.1.2.1, the linear function over the output range 0..255, then inverted for MONOCHROME1
    linear = ((stored - (2048 - 0.5)) / (1000 - 1) + 0.5) * 255
    [film] = [*everything(out, "train", "cr"), *everything(out, "val", "cr")]
    assert np.abs(film[..., 0] - (255 - np.clip(linear, 0, 255))).max() <= 1


def test_nifti_volumes_become_axial_slices_of_one_group(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    volume = np.random.default_rng(0).normal(40, 150, (12, 10, 8)).astype(np.float32)
    volume[..., 0] = -1000
    (tmp_path / "scans").mkdir()
    for name, modality in (("ct", "ct"), ("mr", "mr")):
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "scans" / f"{name}.nii.gz")
        out = packed(
            tmp_path / name, spec(tmp_path / "scans" / f"{name}.nii.gz", modality=modality), max_bad=0
        )
        images = [*everything(out), *everything(out, "val")]
        low, high = (-160, 240) if modality == "ct" else np.percentile(volume, (0.5, 99.5))
        scaled = np.clip(np.rint((volume.astype(float) - low) / (high - low) * 255), 0, 255)
        expected = {np.rot90(scaled[..., level]).astype(np.uint8).tobytes() for level in range(1, 8)}
        assert {image.tobytes() for image in images} == expected
        assert (out / "left-out.csv").read_text().count("empty slice") == 1
        assert pl.read_parquet(out / "index.parquet")["group"].unique().to_list() == [f"{name}.nii.gz"]
        with pytest.raises(OrchError, match=r"7 images of .* for pretraining and 0 in val"):
            pack_facts(out, modality)
    half = packed(tmp_path / "w", spec(tmp_path / "scans" / "ct.nii.gz", window=(40.0, 80.0)), max_bad=0)
    grey = np.stack(everything(half))
    assert np.allclose(
        np.sort((grey == 255).mean((1, 2, 3))), np.sort((volume[..., 1:] >= 80).mean((0, 1))), atol=0.02
    )


def test_sixteen_bits_palettes_and_transparency_become_eight_bit_grey_or_colour() -> None:
    wide = np.arange(0, 40960, 10, np.uint16).reshape(64, 64)
    low, high = np.percentile(wide, (0.5, 99.5))
    expected = np.clip(np.rint((wide - low) / (high - low) * 255), 0, 255)
    pixels, form = decode(encoded(wide))
    assert np.array_equal(pixels[..., 0], expected)
    assert form == "raw"
    rgba = np.dstack([picture(0, colour=True), np.full((24, 24), 7, np.uint8)])
    assert np.array_equal(decode(encoded(rgba))[0], rgba[..., :3])
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).convert("P").save(buffer, "GIF")
    assert decode(buffer.getvalue())[0].shape == (24, 24, 3)
    assert to_uint8(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(BadImage, match=r"cannot be decoded|truncated|not an image"):
        decode(encoded(picture(0))[:50])


def test_a_side_reduces_the_shorter_side_and_jpeg_reencodes(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    root.mkdir()
    for number in range(8):
        wide = np.repeat(picture(number, 60), 2, axis=1)
        (root / f"{number}.png").write_bytes(encoded(wide))
    raw = packed(tmp_path / "raw", spec(root), side=30)
    jpeg = packed(tmp_path / "jpeg", spec(root), side=30, store="jpeg")
    assert {image.shape for image in everything(raw)} == {(30, 60, 1)}
    small = [*everything(raw), *everything(raw, "val")]
    for image in everything(jpeg):
        assert min(np.abs(image.astype(int) - other).mean() for other in small) < 2
    assert np.array_equal(shrink(picture(0, 30)[..., None], 40), picture(0, 30)[..., None])
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    training = (
        as_tensor(noise[None], resolution=12, channels=3)[0].permute(1, 2, 0).numpy()
    )  # by torch, in fp32
    assert np.abs(shrink(noise, 12).astype(int) - training).max() <= 1


KILLED = """
import os, signal, sys
from pathlib import Path
from orch_core.packs import gather, pack, write
from orch_core.record import os as record_os
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
wishes = pack.Wishes(settings=gather.Settings(), pack_bytes=2500)
pack.pack(Path(sys.argv[2]), specs, wishes, lambda *_: None)
"""


def test_killed_at_any_moment_it_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
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
    assert look(np.asarray(textured)[..., None]) == look(decode((root / "b" / "alike.jpg").read_bytes())[0])
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
