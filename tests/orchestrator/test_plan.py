"""Plans: which cells a grid means, that ids are those of the cells, and what the study holds of them."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from orch.cli import main
from orch.console import emit
from orch.planning.planner import make_plan
from orch.studies import find_study
from orch_core.cost import price
from orch_core.errors import OrchError
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid
from orch_core.grid.columns import cell_of
from orch_core.images.npz import pretraining_order
from orch_core.study.plan import read_plan
from orch_core.study.record import Record
from orch_core.study.stored import publish
from orch_core.study.summary import summary

GRID = """\
study: small
sources:
  ct: {path: ct.npz, modality: ct}
  us: {path: us.npz, modality: ultrasound}
mixes:
  all: [ct, us]
  only: [ct]
axes:
  model: [{name: a, width: 64, depth: 2}, {name: b, width: 128, depth: 2}]
  algorithm: [mae@1, random@1, pixels@1]
  images: [4, 8]
  mix: [all, only]
  seed: [0, 1]
  resolution: 32
  patch: 8
  samples_seen: 70
training:
  batch: 16
probes:
  tasks: [ct, us]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    generator = np.random.default_rng(0)
    for name, count in (("ct", 12), ("us", 20)):
        arrays = {}
        for split in ("train", "val", "test"):
            arrays[f"{split}_images"] = generator.integers(0, 256, (count, 6, 6), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8).reshape(-1, 1) % 2
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "grid.yaml").write_text(GRID)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frame_of(folder: Path, *changes: tuple[str, str]) -> pl.DataFrame:
    text = GRID
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "grid.yaml").write_text(text)
    return enumerate_cells(read_grid(folder / "grid.yaml"))


def test_the_product_has_every_cell_once_and_controls_only_on_the_axes_they_depend_on(folder: Path):
    counts = dict(frame_of(folder).group_by("algorithm").len().iter_rows())
    # 2 models x 2 sizes x 2 mixes x 2 seeds; 2 models x 2 seeds; one
    assert counts == {"mae": 16, "random": 4, "pixels": 1}


def test_every_row_is_its_cell_with_its_id_and_its_price(folder: Path):
    frame = frame_of(folder, ("batch: 16", "batch: 16\n  precision: bf16"))
    assert frame["id"].n_unique() == frame.height
    for row in frame.iter_rows(named=True):
        cell = cell_of(row)
        assert cell.id == row["id"]
        assert price(cell).flops_train == row["flops_train"]
        assert price(cell).memory_bytes == row["memory_bytes"]
        assert sum(portion.images for portion in cell.data) == row["images"]


def test_samples_are_whole_batches(folder: Path):
    mae = frame_of(folder).filter(pl.col("algorithm") == "mae")
    assert mae["samples_seen"].unique().to_list() == [64]
    epochs = frame_of(folder, ("samples_seen: 70", "epochs: 8")).filter(pl.col("algorithm") == "mae")
    assert set(epochs["samples_seen"]) == {32, 64}
    flops = frame_of(folder, ("samples_seen: 70", "flops: 1e9")).filter(pl.col("algorithm") == "mae")
    assert ((flops["flops_train"] / 1e9 - 1).abs() < 16 / flops["samples_seen"]).all()


def test_exclude_drops_and_include_adds(folder: Path):
    rule = (
        "probes:",
        "exclude:\n  - mix == 'only' and images > 4\ninclude:\n  - {model: a, algorithm: mae@1, images: 10, mix: only, seed: 7}\nprobes:",
    )
    mae = frame_of(folder, rule).filter(pl.col("algorithm") == "mae")
    assert mae.height == 16 - 4 + 1
    assert mae.filter(pl.col("seed") == 7)["images"].to_list() == [10]


def test_a_grid_without_cells_is_refused(folder: Path):
    with pytest.raises(OrchError, match="removes every cell"):
        frame_of(folder, ("probes:", "exclude: [images > 0 or images == 0]\nprobes:"))


def test_more_data_than_there_is_is_refused_or_repeated(folder: Path):
    with pytest.raises(OrchError, match=r"mix 'only' needs 13 images but has 12"):
        frame_of(folder, ("images: [4, 8]", "images: [4, 13]"))
    repeated = frame_of(
        folder, ("images: [4, 8]", "images: [4, 13]"), ("batch: 16", "batch: 16\n  beyond_data: repeat")
    )
    assert repeated.filter(pl.col("mix") == "only")["images"].max() == 12


def test_portions_are_nested(folder: Path):
    frame = frame_of(
        folder, ("images: [4, 8]", "images: [1, 2, 3, 5, 9, 17, 30]"), ("mix: [all, only]", "mix: all")
    )
    previous: dict[str, set[int]] = {}
    for row in (
        frame.filter(pl.col("algorithm") == "mae").unique("images").sort("images").iter_rows(named=True)
    ):
        chosen = {
            portion.source: set(pretraining_order(Path(portion.path), 0)[: portion.images].tolist())
            for portion in cell_of(row).data
        }
        assert all(chosen.get(name, set()) >= smaller for name, smaller in previous.items())
        previous = chosen


def test_moving_the_files_changes_no_id(folder: Path):
    before = frame_of(folder)["id"].to_list()
    (folder / "data").mkdir()
    (folder / "ct.npz").rename(folder / "data" / "ct.npz")
    assert frame_of(folder, ("path: ct.npz", "path: data/ct.npz"))["id"].to_list() == before


def test_a_plan_is_written_and_read_back_and_knows_what_is_done(folder: Path):
    plan, study = make_plan(folder / "grid.yaml")
    first = cell_of(plan.frame.row(0, named=True))
    target = study.cell_folder(first.id)
    target.mkdir()
    publish(target, Record(cell=first.id, name=first.name, status="done"))
    for probe in plan.probes[:1]:
        study.probe_folder(first.id, probe).mkdir(parents=True)
        publish(
            study.probe_folder(first.id, probe),
            Record(cell=first.id, name="", status="done", task=probe.task),
        )
    again = read_plan(find_study(None))
    assert again.hash == plan.hash
    assert summary(again).states == {"new": 20, "partial": 1, "done": 0}
    assert summary(again).probes_left == 2 * 21 - 1
    assert [job.cell.id for job in again.jobs()] == again.frame["id"].to_list()


def test_a_study_of_another_grid_is_refused_and_kept(folder: Path):
    _, study = make_plan(folder / "grid.yaml", folder / "there")
    kept = (study.root / "plan.json").read_bytes()
    (folder / "grid.yaml").write_text(GRID.replace("study: small", "study: other"))
    with pytest.raises(OrchError, match="belongs to the study 'small'"):
        make_plan(folder / "grid.yaml", folder / "there")
    assert (study.root / "plan.json").read_bytes() == kept


def test_duplicates_between_splits_are_noted_and_removed(folder: Path):
    arrays = dict(np.load(folder / "ct.npz"))
    arrays["val_images"][0] = arrays["train_images"][3]
    np.savez(folder / "ct.npz", **arrays)
    plan, _ = make_plan(folder / "grid.yaml")
    assert any("1 training images are also in val or test" in note for note in plan.notes)
    assert 3 not in pretraining_order(folder / "ct.npz", 0)


def test_the_summary_is_json(folder: Path):
    plan, _ = make_plan(folder / "grid.yaml")
    assert json.loads(json.dumps(summary(plan).to_json(), allow_nan=False))["schema_version"] == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--target", "params=nan,samples=1"),
        ("--target", "params=1e9,samples=inf"),
        ("--budget-gpu-hours", "nan"),
    ],
)
def test_what_is_no_number_is_a_mistake(folder: Path, words: tuple[str, str]):
    done = CliRunner().invoke(main, ["plan", "grid.yaml", *words], catch_exceptions=False)
    assert done.exit_code == 2
    assert "hint: " in done.stderr


def test_a_frontier_of_a_study_that_has_not_run_is_refused(folder: Path):
    CliRunner().invoke(main, ["plan", "grid.yaml"], catch_exceptions=False)
    done = CliRunner().invoke(main, ["frontier"], catch_exceptions=False)
    assert done.exit_code == 2
    assert "no training curve yet" in done.stderr


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]):
    emit({"a": [1.5, float("inf")], "b": {"c": float("nan")}})
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "a": [1.5, None], "b": {"c": None}}
