"""What a source holds, in any format, is what comes back from its packs; what it cannot hold is named."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from packed import encoded, everything, packed, picture, spec, tree, write_folder
from PIL import Image

from orch_core.errors import OrchError
from orch_core.learn.data import as_tensor
from orch_core.packs.census import census
from orch_core.packs.decode import BadImage, decode, shrink, to_uint8
from orch_core.packs.facts import pack_facts
from orch_core.packs.gather import NO_PIXELS, NOT_IMAGE, STRAY, TURNED
from orch_core.packs.read import open_packs
from orch_core.packs.splits import split_of_word


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


def test_files_are_recognised_by_content_not_by_name_and_bad_ones_are_listed(tmp_path: Path) -> None:
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


def write_dicom(path: Path, stored: np.ndarray, **tags) -> None:
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.PixelData = stored.astype(np.uint16).tobytes()
    fields = {"Rows": stored.shape[0], "Columns": stored.shape[1], "BitsAllocated": 16, "BitsStored": 16,
              "HighBit": 15, "PixelRepresentation": 0, "SamplesPerPixel": 1,
              "PhotometricInterpretation": "MONOCHROME2"}  # fmt: skip
    for key, value in (fields | tags).items():
        setattr(data, key, value)
    for key in [key for key, value in tags.items() if value == "absent"]:
        delattr(data, key)
    path.parent.mkdir(exist_ok=True)
    data.save_as(path, enforce_file_format=True)


RAMP = np.arange(64 * 64).reshape(64, 64)
SPREAD = np.clip(
    np.rint((RAMP - np.percentile(RAMP, 0.5)) / np.ptp(np.percentile(RAMP, (0.5, 99.5))) * 255), 0, 255
)
PADDED = np.where(RAMP < 640, 60000, RAMP)
LOW, HIGH = np.percentile(RAMP[RAMP >= 640], (0.5, 99.5))


@pytest.mark.parametrize(
    ("stored", "tags", "expected"),
    [
        (
            RAMP,
            {"WindowCenter": 8192, "WindowWidth": 16384},
            (RAMP - 0.0) / 16383 * 255,
        ),  # dark, as it is shown
        (RAMP, {"RescaleSlope": None, "RescaleIntercept": None}, SPREAD),
        (RAMP, {"WindowCenter": 100, "WindowWidth": 0}, SPREAD),
        (RAMP, {"WindowCenter": None, "WindowWidth": None}, SPREAD),
        (
            RAMP,
            {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"},
            RAMP / 4096 * 255,
        ),
        (
            PADDED,
            {"PixelPaddingValue": 60000},
            np.where(RAMP < 640, 0, np.clip((RAMP - LOW) / (HIGH - LOW), 0, 1) * 255),
        ),
    ],
)
def test_dicom_without_a_usable_window_takes_percentiles_of_what_is_not_padding(
    tmp_path: Path, stored: np.ndarray, tags: dict, expected: np.ndarray
) -> None:
    write_dicom(tmp_path / "scans" / "a.dcm", stored, Modality="CR", **tags)
    out = packed(tmp_path / "out", spec(tmp_path / "scans"), val=0, max_bad=0)
    [image] = everything(out)
    assert np.abs(image[..., 0].astype(float) - expected).max() <= 1


def test_dicom_palettes_are_looked_up_and_files_without_images_are_not_bad(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 256))
    names = ("RedPalette", "GreenPalette", "BluePalette")
    tables = {f"{name}ColorLookupTableDescriptor": [256, 0, 16] for name in names}
    words = {
        f"{name}ColorLookupTableData": (table * 257).astype("<u2").tobytes()
        for name, table in zip(names, colours, strict=True)
    }
    tags = {"PhotometricInterpretation": "PALETTE COLOR", "Modality": "US"} | tables | words
    for split, shift in (("train", 0), ("test", 1)):
        (tmp_path / "scans").mkdir(exist_ok=True)
        write_dicom(tmp_path / "scans" / split / "a.dcm", RAMP // 16 + shift * (RAMP < 9), **tags)
    write_dicom(tmp_path / "scans" / "train" / "report", RAMP, PixelData="absent", Modality="SR")
    out = packed(tmp_path / "out", spec(tmp_path / "scans"), val=0, max_bad=0)
    [image] = everything(out)
    assert (image == colours.T[RAMP // 16]).all()
    assert len(everything(out, "test")) == 1  # folders of splits are read for DICOM too
    assert NO_PIXELS in (out / "left-out.csv").read_text()


def test_dicom_frames_are_windowed_as_the_standard_defines(tmp_path: Path) -> None:
    stored = RAMP
    write_dicom(
        tmp_path / "scans" / "1.2.3.456",
        stored,
        Modality="CT",
        RescaleSlope=1,
        RescaleIntercept=-1024,
        PatientID="anna",
    )
    write_dicom(tmp_path / "scans" / "film.dcm", stored, Modality="CR", WindowCenter=2048, WindowWidth=1000, PatientID="bert",
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


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("Training", "train_images", "TrainSet", "trn", "train2017", "imagesTr"), "train"),
        (("Valid", "validation", "dev", "val2017", "Val Set", "images-val"), "val"),
        (("Testing", "test_set", "TEST", "tst", "test-1", "imagesTs"), "test"),
        (("holdout", "train_test", "bullet-train-toy", "a", "", "2017"), ""),
    ],
)
def test_words_of_splits(names: tuple[str, ...], split: str) -> None:
    assert [split_of_word(name) for name in names] == [split] * len(names)


@pytest.mark.parametrize("outer", ["", "chest_xray"])
def test_splits_by_peoples_words_at_any_depth_keep_test_images_from_training(
    tmp_path: Path, outer: str
) -> None:
    for split, count in (("Training", 12), ("dev", 6), ("Testing", 3)):
        write_folder(tmp_path / "scans" / outer / split, count)
    facts = pack_facts(packed(tmp_path / "out", spec(tmp_path / "scans")), "ct")
    assert facts.counts == {"train": 12, "val": 6, "test": 3}
    assert (facts.labels, facts.classes) == (1, 3)


def test_a_word_of_no_split_is_refused(tmp_path: Path) -> None:
    for split in ("train", "holdout"):
        write_folder(tmp_path / "scans" / split, 6)
    with pytest.raises(OrchError, match="'holdout', which name no split"):
        packed(tmp_path / "no", spec(tmp_path / "scans"))
    out = packed(tmp_path / "out", spec(tmp_path / "scans", exclude="^holdout/"))
    assert open_packs(out).manifest.rows == 6
    rows = {
        "image": [encoded(picture(number)) for number in range(3)],
        "split": ["train", "held out", "test"],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(OrchError, match=r"column 'split' .* has 'held out'"):
        packed(tmp_path / "no", spec(tmp_path / "t.parquet"))


def test_files_name_their_split_anywhere(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, name in enumerate(("d-train-0.parquet", "d-validation-0.parquet", "test/0.parquet")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        frame = pl.DataFrame({"image": [encoded(picture(10 * number + i)) for i in range(number + 2)]})
        frame.write_parquet(root / name)
    assert pack_facts(packed(tmp_path / "out", spec(root)), "ct").counts == {"train": 2, "val": 3, "test": 4}
    shutil.copy(root / "d-train-0.parquet", root / "extra.parquet")
    with pytest.raises(OrchError, match=r"extra\.parquet names no split"):
        packed(tmp_path / "no", spec(root))
    (root / "extra.parquet").rename(root / "train-test.parquet")
    with pytest.raises(OrchError, match="names two splits: train and test"):
        packed(tmp_path / "no", spec(root))


def test_what_is_not_an_image_of_a_class_is_listed_and_labels_stay(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "scans", 30, ("1", "2", "10"))
    (root / "overview.png").write_bytes(encoded(picture(99)))
    (root / "notes.txt").write_text("how they were made")
    (root / "1" / "photo.jfif").write_bytes(encoded(picture(98), "JPEG"))
    (root / "1" / "scan").write_bytes(encoded(picture(97), "PPM"))
    (root / ".ipynb_checkpoints").mkdir()
    (root / ".ipynb_checkpoints" / "x.png").write_bytes(encoded(picture(96)))
    write_folder(tmp_path / "elsewhere", 6, ("20",))
    (root / "20").symlink_to(tmp_path / "elsewhere" / "20")
    (root / "20" / "loop").symlink_to(root)
    manifest = open_packs(packed(tmp_path / "out", spec(root), max_bad=0)).manifest
    assert manifest.rows == 38
    assert manifest.sources[0].class_names == ("1", "2", "10", "20")
    listed = dict(pl.read_csv(tmp_path / "out" / "left-out.csv").select("image", "reason").iter_rows())
    assert listed == {"notes.txt": NOT_IMAGE, "overview.png": STRAY}


def test_labels_that_folders_do_not_say_and_masks_are_noted(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / "scans" / f"patient{number}" / "day" / f"{number}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(picture(number)))
        path.with_name(f"{number}_mask.png").write_bytes(encoded(picture(100 + number)))
    said = open_packs(packed(tmp_path / "out", spec(tmp_path / "scans", group="(nothing)"))).manifest.notes
    assert [note.split(":")[1][:30] for note in said] == [
        " its images have no labels",
        " 6 of 12 files look like masks",
        " `group` gives 0 of 12 images ",
    ]
    out = packed(tmp_path / "less", spec(tmp_path / "scans", exclude="_mask", group="(patient.)"))
    assert open_packs(out).manifest.rows == 6
    assert len(open_packs(out).manifest.notes) == 1


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        ([0.0, 1.0, 2.0, float("nan")], [[0], [1], [2], []], ()),
        ([0, 2, -1, None], [[0], [2], [], []], ()),
        ([3_000_000_000, 5, 3_000_000_000, 5], [[1], [0], [1], [0]], ("5", "3000000000")),
        (["b10", "b2", "b2", None], [[1], [0], [0], []], ("b2", "b10")),
        ([["x"], ["x", "y"], [], ["y"]], [[1, 0], [1, 1], [0, 0], [0, 1]], ("x", "y")),
        ([[0], [0, 2], [], [2]], [[1, 0], [1, 1], [0, 0], [0, 1]], ("0", "2")),
        ([[1, 0], [1, 1], [0, 0], [0, 1]], [[1, 0], [1, 1], [0, 0], [0, 1]], ()),
        ([True, False, True, False], [[1], [0], [1], [0]], ()),
    ],
)
def test_labels_of_a_table_are_numbers_or_words(
    tmp_path: Path, labels: list, expected: list[list[int]], names: tuple[str, ...]
) -> None:
    images = [encoded(picture(number)) for number in range(len(labels))]
    frame = pl.DataFrame({"image": images, "label": pl.Series(labels, strict=False)})
    frame.write_parquet(tmp_path / "t.parquet")
    out = packed(tmp_path / "out", spec(tmp_path / "t.parquet"))
    rows = pl.read_parquet(out / "names.parquet")["name"].str.extract(r"/(\d+)$", 1).cast(pl.Int64)
    found = dict(zip(rows, pl.read_parquet(out / "index.parquet")["labels"].to_list(), strict=True))
    assert [found[row] for row in range(len(labels))] == expected
    manifest = open_packs(out).manifest
    assert manifest.sources[0].class_names == names
    assert any("have no label, so it cannot be a task" in note for note in manifest.notes) == ([] in expected)


def test_the_column_of_images_is_the_one_called_so_or_asked_for(tmp_path: Path) -> None:
    masks, images = ([encoded(picture(start + i)) for i in range(4)] for start in (0, 50))
    pl.DataFrame({"mask": masks, "img": images}).write_parquet(tmp_path / "t.parquet")
    out = packed(tmp_path / "out", spec(tmp_path / "t.parquet"))
    assert {image.tobytes() for split in ("train", "val") for image in everything(out, split)} == {
        picture(50 + i).tobytes() for i in range(4)
    }
    table = tmp_path / "u.parquet"
    pl.DataFrame({"left": masks, "right": images, "dx": [0, 1, 0, 1]}).write_parquet(table)
    with pytest.raises(OrchError, match="several columns of bytes: left, right"):
        packed(tmp_path / "no", spec(table))
    manifest = open_packs(packed(tmp_path / "v", spec(table, image="right"))).manifest
    assert "no column is called label; if one of dx is" in manifest.notes[0]
    assert (
        open_packs(packed(tmp_path / "w", spec(table, image="right", label="dx"))).manifest.sources[0].classes
        == 2
    )


def test_pages_names_that_are_not_utf8_and_orientation(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    root.mkdir()
    pages = [Image.fromarray(picture(number)) for number in range(3)]
    pages[0].save(root / "stack.tif", save_all=True, append_images=pages[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(7, colour=True)).save(root / "turned.jpg", exif=turned)
    (root / "nan.tif").write_bytes(encoded(np.full((4, 4), np.nan, np.float32), "TIFF"))
    Path(os.fsdecode(bytes(root) + b"/caf\xe9.png")).write_bytes(encoded(picture(9)))
    out = packed(tmp_path / "out", spec(root), max_bad=0.3)
    names = set(pl.read_parquet(out / "names.parquet")["name"])
    assert names == {"stack.tif#0", "stack.tif#1", "stack.tif#2", "turned.jpg", "caf\\xe9.png"}
    assert "nan.tif,no pixel is a finite number" in (out / "left-out.csv").read_text()
    assert open_packs(out).manifest.notes == (f"scans: 1 images: {TURNED}",)
