"""Calibration: exact recovery of rates from made-up timings, non-negative least squares against scipy, real short runs."""

from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from orch.planning import speed
from orch_core.cell import Cell, Model
from orch_core.cost import price
from orch_core.errors import OrchError
from orch_core.grid import calibration
from orch_core.grid.calibration import Calibration, ProbeLoad, ProbeRate, Rate
from orch_core.study.draft import draft

GRID = """\
study: rates
sources:
  ct: {path: ct.npz, modality: ct, images: 40000}
tasks:
  task: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
mixes:
  all: [ct]
axes:
  model: [{name: a, width: 64, depth: 2}, {name: b, width: 128, depth: 4}]
  algorithm: [mae@1, moco-v3@1, random@1, pixels@1]
  images: 1000
  mix: all
  resolution: 32
  patch: 8
  samples_seen: 6400
training:
  batch: 64
probes:
  tasks: [task]
"""
RATES = Rate(0.5, 1e-3, 2e-6, 3e-11, 1e-9)
FOUND = Calibration(
    device="CPU",
    precision="fp32",
    machine="here",
    measured="2026-01-02",
    training={"mae@1": RATES},
    probe=ProbeRate(0.05, 1e-5, 2e-11, 3e-7, 4e-6),
    error=0.02,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(GRID)
    return tmp_path / "home"


def cell(width: int, patch: int, samples: int) -> Cell:
    return Cell(
        model=Model(name="x", width=width, depth=4, heads=1), recipe="mae@1", resolution=28, patch=patch, channels=3,
        samples_seen=samples, batch=64,
    )  # fmt: skip


def test_rates_are_recovered_from_the_seconds_they_give():
    runs = []
    for width, patch, steps in [(w, p, s) for w in (32, 64, 256) for p in (4, 7, 14) for s in (5, 20, 400)]:
        batch = 16 * patch
        one = replace(cell(width, patch, batch * steps), batch=batch)
        cost = price(one)
        run = speed.Measured(cell=one, cost=cost, looks=5, seconds=1.0)
        loads = np.array(
            [
                1,
                steps,
                batch * steps + batch + 5 * 128,
                (batch * steps + batch) * cost.flops_train_image
                + 5 * 128 * (cost.flops_train_image / 3 + cost.flops_forward)
                + (32 * (steps - 5) + 5 * (256 + 128)) * cost.flops_forward,
                (batch * steps + batch + 5 * 128 / 3) * cost.activation_bytes,
            ]
        )
        runs.append(replace(run, seconds=float(np.array(astuple(RATES)) @ loads)))
    assert astuple(speed.fit_rate(runs)) == pytest.approx(astuple(RATES), rel=1e-6)


@given(st.integers(0, 10_000), st.integers(4, 9), st.integers(1, 4))
def test_non_negative_least_squares_is_scipys(seed: int, rows: int, columns: int):
    generator = np.random.default_rng(seed)
    matrix, target = generator.normal(size=(rows, columns)), generator.normal(size=rows)
    found = speed.non_negative(matrix, target)
    assert found == pytest.approx(list(nnls(matrix, target)[0]), abs=1e-6)


def test_a_calibration_is_kept_and_takes_the_place_of_the_assumed_rate(home: Path):
    assert calibration.load("CPU", "fp32") is None
    assumed, _, _ = draft(Path("grid.yaml"))
    assert assumed.rates.startswith("assumed")
    calibration.save(FOUND)
    assert calibration.load("CPU", "fp32") == FOUND
    plan, _, _ = draft(Path("grid.yaml"))
    assert plan.rates == "measured on here, 2026-01-02"
    row = plan.frame.filter((pl.col("recipe") == "mae@1") & (pl.col("model") == "b")).row(0, named=True)
    # by hand: fixed + steps + images + FLOPs + bytes, with eight looks at 512 held-out images and 32 of them watched 100 times
    held = 8 * 512
    train = (
        0.5 + 100 * 1e-3 + (6400 + held) * 2e-6
        + 3e-11 * (6400 * row["flops_train_image"] + held * (row["flops_train_image"] / 3 + row["flops_forward"])
                       + 32 * 100 * row["flops_forward"])
        + 1e-9 * (6400 + held / 3) * row["activation_bytes"]
    )  # fmt: skip
    probe = 0.05 + 160 * 1e-5 + 2e-11 * 160 * row["flops_forward"] + 3e-7 * 400 * 128 + 4e-6 * 200
    assert row["hours_mid"] * 3600 == pytest.approx(train + probe)
    assert row["hours_probes"] * 3600 == pytest.approx(probe)
    controls = plan.frame.filter(pl.col("images") == 0)
    assert (controls["hours_mid"] == controls["hours_probes"]).all()
    pixels = plan.frame.filter(pl.col("recipe") == "pixels@1")
    assert pixels["hours_mid"].item() > 0


def test_another_precision_or_device_is_not_touched():
    calibration.save(FOUND)
    assert calibration.load("CPU", "bf16") is None
    assert calibration.load("H100", "fp32") is None


def test_a_damaged_file_is_reported_with_a_remedy(home: Path):
    path = calibration.save(FOUND)
    path.write_text("{")
    with pytest.raises(OrchError, match="cannot read the calibration") as caught:
        draft(Path("grid.yaml"))
    assert "orch calibrate" in str(caught.value.hint)


def test_more_work_takes_longer_whatever_the_rates():
    frame = draft(Path("grid.yaml"))[0].frame
    seconds = frame.with_columns(s=FOUND.training_seconds() + FOUND.probing(ProbeLoad(tasks=1, images=10)))
    small, large = (
        seconds.filter((pl.col("recipe") == "mae@1") & (pl.col("model") == name))["s"].item() for name in "ab"
    )
    assert small < large


def test_a_grids_cells_are_spread_over_their_work():
    from orch.planning.speed import cells_of

    chosen, precision = cells_of(Path("grid.yaml"))
    assert precision == "fp32"
    assert {(one.recipe, one.model.name) for one in chosen if one.model} == {
        (recipe, model) for recipe in ("mae@1", "moco-v3@1") for model in "ab"
    }


def test_real_short_runs_give_rates_that_reproduce_them(tmp_path: Path):
    pytest.importorskip("torch")
    images = speed._stand_in(tmp_path / "images.npz", classes=4, train=64)
    tiny = replace(cell(32, 14, 64), batch=8, data=(images,), images=64)
    _, clock = speed._this_device()
    runs = speed._runs(tiny, tmp_path, clock)
    rate = speed.fit_rate(runs)
    assert [run.cell.steps for run in runs] == list(speed.STEPS)
    assert all(value >= 0 for value in astuple(rate))
    for run in runs:  # two runs and five coefficients: reproduced exactly unless one would be negative
        assert speed._predicted(rate, run) == pytest.approx(run.seconds, rel=0.5)
