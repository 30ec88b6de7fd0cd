"""Images as training sees them: from npz and from packs the same bits, in any process, from any step."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learn_cells import make_cell, make_probe, write_images
from PIL import Image

from orch_core.cell import Cell, SourceSubset
from orch_core.errors import OrchError
from orch_core.images import npz as images_module
from orch_core.images.source import ALL, inspect_source
from orch_core.learn import Stopped, pretrain, probe
from orch_core.learn.data import Batch, Packed, as_tensor, batches, held_out_set, pretraining_set
from orch_core.learn.randomness import epoch_indices
from orch_core.packs.gather import Settings, Spec
from orch_core.packs.pack import PackOptions, pack
from orch_core.packs.read import open_packs, read_images, select

SHIPPED = Path(__file__).parents[2] / "experiments" / "images"
MODALITIES = {"blood": "microscopy", "breast": "ultrasound", "pneumonia": "x-ray"}


def packed(out: Path, *specs: Spec, **settings) -> Path:
    pack(out, specs, PackOptions(settings=Settings(**settings), pack_bytes=100_000), lambda *_: None)
    return out


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> dict[str, Path]:
    """Every shipped source by itself, raw, and all of them together."""
    root = tmp_path_factory.mktemp("packs")
    specs = {
        name: Spec(name=name, path=SHIPPED / f"{name}.npz", modality=m) for name, m in MODALITIES.items()
    }
    found = {name: packed(root / name, spec, store="raw") for name, spec in specs.items()}
    return found | {"all": packed(root / "all", *specs.values())}


def portion(name: str, path: Path, images: int, modality: str = "") -> SourceSubset:
    modality = modality or MODALITIES[name]
    fingerprint = inspect_source(path, modality).fingerprint
    return SourceSubset(
        source=name, modality=modality, images=images, fingerprint=fingerprint, path=str(path)
    )


def cell_of(*portions: SourceSubset, **fields) -> Cell:
    cell = make_cell(None, channels=3, samples=640, batch=48)
    return replace(cell, data=portions, **fields)


def equal(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("images", "orientation_free", "labels")
    )


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("fields", [{}, {"resolution": 20, "channels": 1}, {"subset_seed": 9}])
def test_packs_give_the_bits_of_npz(packs: dict[str, Path], together: bool, fields: dict[str, int]) -> None:
    npz = cell_of(*(portion(name, SHIPPED / f"{name}.npz", 300) for name in MODALITIES), **fields)
    raw = cell_of(*(portion(name, packs["all" if together else name], 300) for name in MODALITIES), **fields)
    mixed = cell_of(npz.data[0], *raw.data[1:], **fields)
    expected = pretraining_set(npz)
    assert isinstance(expected, Batch)
    for cell in (raw, mixed):
        found = pretraining_set(cell)
        assert isinstance(found, Packed)
        rows = np.random.default_rng(0).integers(0, len(expected), 200)
        assert len(found) == len(expected) == 900
        assert equal(found.rows(rows), expected.rows(rows))
        assert equal(held_out_set(cell), held_out_set(npz))


def test_training_on_packs_gives_the_numbers_of_training_on_npz(
    packs: dict[str, Path], tmp_path: Path
) -> None:
    for name, path in (("npz", SHIPPED / "breast.npz"), ("packs", packs["breast"])):
        cell = replace(make_cell(None, samples=96), data=(portion("breast", path, 200),))
        results = pretrain(cell, tmp_path / name)
        (tmp_path / f"{name}.txt").write_text(repr(sorted(results.values.items())))
    assert (tmp_path / "npz.txt").read_text() == (tmp_path / "packs.txt").read_text()


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_those_of_the_seed_for_any_number_of_workers(
    packs: dict[str, Path], workers: int
) -> None:
    cell = cell_of(*(portion(name, packs[name], 300) for name in MODALITIES))
    images = pretraining_set(cell)
    state = torch.get_rng_state()
    for first, share in ((0, slice(None)), (9, slice(12, 40)), (cell.steps, slice(None))):
        found = list(batches(images, cell, first, workers, share=share))
        assert len(found) == cell.steps - first
        for step, batch in enumerate(found, first):
            rows = epoch_indices(step * cell.batch, cell.batch, len(images), cell.seed)[share]
            assert equal(batch, images.rows(rows))
    assert torch.equal(state, torch.get_rng_state())


def test_batches_larger_than_a_piece_come_whole_and_workers_end_with_them(packs: dict[str, Path]) -> None:
    cell = cell_of(portion("all", packs["all"], 3246, ALL), batch=300, samples_seen=300 * 50)
    images = pretraining_set(cell)
    ahead = batches(images, cell, 0, 2)
    first = next(ahead)
    assert equal(first, images.rows(epoch_indices(0, 300, len(images), cell.seed)))
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(
            worker.pid, signal.SIGTERM
        )  # Slurm sends it to every process; the run goes on until it has saved
    time.sleep(0.2)
    assert len(next(ahead)) == 300
    ahead.close()
    until = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_a_run_that_begins_at_a_late_step_reads_that_step_alone(packs: dict[str, Path], monkeypatch) -> None:
    cell = cell_of(portion("all", packs["all"], 3246, ALL), samples_seen=48 * 2_000_000)
    images, read = pretraining_set(cell), []
    monkeypatch.setattr(
        "orch_core.learn.data.packed.read_images",
        lambda packs, rows: read.append(len(rows)) or read_images(packs, rows),
    )
    next(batches(images, cell, 1_000_000))
    assert read == [48]


def test_a_subset_of_all_modalities_is_proportional_and_nested(packs: dict[str, Path]) -> None:
    opened = open_packs(packs["all"])
    whole = select(opened, ALL, "train")
    sources = opened.table["source"][whole.at(np.arange(whole.count))]
    sizes = np.bincount(sources)
    for images in (10, 100, 999, 3246):
        counts = np.bincount(sources[:images], minlength=3)
        assert np.abs(counts - images * sizes / len(sources)).max() <= 1


def test_changed_and_damaged_packs_are_reported_from_workers_too(
    packs: dict[str, Path], tmp_path: Path
) -> None:
    good = portion("breast", packs["breast"], 300)
    with pytest.raises(OrchError, match="has changed since the plan was made"):
        pretraining_set(cell_of(replace(good, fingerprint="0" * 32)))
    with pytest.raises(OrchError, match="547 images requested, but only 546 exist"):
        pretraining_set(cell_of(replace(good, images=547)))
    out = packed(tmp_path / "out", Spec(name="breast", path=SHIPPED / "breast.npz", modality="ultrasound"))
    for path in (out / "packs").iterdir():
        data = bytearray(path.read_bytes())
        data[-5] ^= 255
        path.write_bytes(bytes(data))
    cell = cell_of(portion("breast", out, 546))
    for workers in (0, 2):
        with pytest.raises(OrchError, match="not those that were packed") as caught:
            list(batches(pretraining_set(cell), cell, 0, workers))
        assert "--verify" in caught.value.hint


def test_images_of_any_size_become_the_cells_as_each_would_by_itself(tmp_path: Path) -> None:
    root, rng = tmp_path / "scans", np.random.default_rng(0)
    root.mkdir()
    for number in range(40):
        shape = (20 + number % 3 * 9, 28 + number % 2 * 5, 3)[: 2 + number % 2]
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(buffer, "PNG")
        (root / f"{number}.png").write_bytes(buffer.getvalue())
    out = packed(tmp_path / "out", Spec(name="scans", path=root, modality="histology"))
    count = inspect_source(out, "histology").pretraining
    for channels in (1, 3):
        cell = cell_of(portion("scans", out, count, "histology"), channels=channels)
        batch = pretraining_set(cell).rows(np.arange(count))
        opened = open_packs(out)
        for row, image in enumerate(read_images(opened, np.arange(count))):
            assert torch.equal(
                batch.images[row], as_tensor(image[None].copy(), resolution=28, channels=channels)[0]
            )
        assert batch.orientation_free.all()
        assert (batch.labels == -1).all()


def test_vertical_flips_depend_on_each_images_modality(packs: dict[str, Path]) -> None:
    cell = cell_of(portion("all", packs["all"], 900, ALL))
    batch = pretraining_set(cell).rows(np.arange(900))
    opened = open_packs(packs["all"])
    modalities = [one.name for one in opened.manifest.modalities]
    expected = [modalities[code] == "microscopy" for code in opened.table["modality"][:900]]
    assert batch.orientation_free.tolist() == expected
    assert 0 < sum(expected) < 900
    blood = opened.table["source"][:900] == 0
    assert set(batch.labels[blood].tolist()) == set(range(8))
    assert set(batch.labels[~blood].tolist()) == {8, 9, 10, 11}  # breast's two classes, then pneumonia's


def test_the_supervised_control_refuses_images_without_labels(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    root.mkdir()
    for number in range(40):
        Image.fromarray(np.full((28, 28), number, np.uint8)).save(root / f"{number}.png")
    out = packed(tmp_path / "out", Spec(name="scans", path=root, modality="ct"))
    data = (portion("scans", out, 20, "ct"),)
    with pytest.raises(OrchError, match="no label"):
        pretrain(replace(make_cell(None, "supervised@1", samples=32), data=data), tmp_path / "run")


def test_a_cells_npz_is_read_once(monkeypatch) -> None:
    opened = []
    array = images_module._array
    monkeypatch.setattr(
        images_module, "_array", lambda archive, path, name: opened.append(name) or array(archive, path, name)
    )
    monkeypatch.setattr(images_module, "_kept", {})
    cell = cell_of(portion("breast", SHIPPED / "breast.npz", 300))
    opened.clear()
    pretraining_set(cell)
    held_out_set(cell)
    assert len(opened) == len(set(opened))


def swapped(path: Path, *names: str) -> None:
    """Turn some arrays of an npz around; its size and time of change stay what they are."""
    before, arrays = path.stat(), dict(np.load(path))
    np.savez(path.with_suffix(".new.npz"), **arrays | {name: arrays[name][::-1] for name in names})
    path.with_suffix(".new.npz").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_source_that_changed_after_the_plan_is_refused_before_a_byte_of_it_is_used(tmp_path: Path) -> None:
    path = write_images(tmp_path / "bars.npz")
    cell = make_cell(path, samples=160)
    assert len(held_out_set(cell)) == 40
    swapped(path, "train_labels")
    for read in (pretraining_set, held_out_set):
        with pytest.raises(OrchError, match=r"bars.npz has changed since the plan was made") as caught:
            read(cell)
        assert "plan again" in caught.value.hint


def test_a_run_that_is_resumed_refuses_a_source_that_has_changed(tmp_path: Path) -> None:
    path = write_images(tmp_path / "bars.npz")
    cell, polls = make_cell(path, samples=160), iter([False, False, True])
    with pytest.raises(Stopped):
        pretrain(cell, tmp_path / "run", should_stop=lambda: next(polls))
    swapped(path, "val_images")
    with pytest.raises(OrchError, match="has changed since the plan was made"):
        pretrain(cell, tmp_path / "run")


@pytest.mark.parametrize("store", ["npz", "packs"])
def test_a_task_that_changed_after_the_plan_is_refused(tmp_path: Path, store: str) -> None:
    path = write_images(tmp_path / "bars.npz")
    cell, place = make_cell(None, "random@1"), path
    if store == "packs":
        place = packed(tmp_path / "packs", Spec(name="bars", path=path, modality="x-ray"))
    one = replace(make_probe(path), path=str(place), fingerprint=inspect_source(place, ALL).fingerprint)
    pretrain(cell, tmp_path / "run")
    assert len(list(probe(cell, tmp_path / "run", [one]))) == 1
    swapped(path, "test_labels")
    if store == "packs":
        shutil.rmtree(place)
        packed(place, Spec(name="bars", path=path, modality="x-ray"))
    with pytest.raises(OrchError, match="has changed since the plan was made"):
        list(probe(cell, tmp_path / "run", [one]))


def test_packs_that_are_swapped_under_a_run_are_refused(packs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(packs["breast"], out)
    cell = cell_of(portion("breast", out, 300))
    images = pretraining_set(cell)
    images.rows(np.arange(4))
    shutil.rmtree(out)
    shutil.copytree(packs["pneumonia"], out)
    with pytest.raises(OrchError, match="has changed since the plan was made"):
        images.rows(np.arange(4))


def test_a_file_is_hashed_once_a_process_while_it_stays_the_same(tmp_path: Path, monkeypatch) -> None:
    path, hashed = write_images(tmp_path / "bars.npz"), []
    original = hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda *given: hashed.append(1) or original(*given))
    cell = make_cell(path)
    for _ in range(3):
        pretraining_set(cell)
        held_out_set(cell)
    assert len(hashed) == 1
