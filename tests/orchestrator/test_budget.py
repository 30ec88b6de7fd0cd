"""Budgets: hours are reserved once, spent hours come from attempts, and what does not fit is refused by name."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orch.planning.planner import PlanOptions, make_plan, plan_grid
from orch_core.errors import OrchError
from orch_core.study import budget
from orch_core.study.attempts import End
from orch_core.study.budget import Limits, assess, limits_of, open_reservations, reserve, spent_hours
from orch_core.study.folder import Study
from orch_core.study.plan import Plan, read_plan
from orch_core.study.record import Record
from orch_core.study.stored import publish

GRID = """\
study: costs
sources:
  ct: {path: ct.npz, modality: ct, images: 40000000}
tasks:
  task: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
mixes:
  all: [ct]
axes:
  model: [ViT-Ti, ViT-S]
  algorithm: [mae@1]
  images: [1000000, 20000000]
  mix: all
  seed: [0, 1]
  resolution: 224
  patch: 16
  samples_seen: 50000000
training:
  batch: 2048
  precision: bf16
probes:
  tasks: [task]
cluster: {device: H100, usd_per_gpu_hour: 2.0}
"""


@pytest.fixture
def planned_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Study]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(GRID)
    return make_plan(tmp_path / "grid.yaml")


def attempt(study: Study, cell: str, number: int, hours: float, *, how: str = "done") -> None:
    folder = study.cell_folder(cell) / "attempts" / str(number)
    folder.mkdir(parents=True)
    (folder / "end.json").write_text(json.dumps(asdict(End(how=how, seconds=3600 * hours))))


def test_hours_are_flops_over_the_devices_rate(planned_study):
    plan, _ = planned_study
    for row in plan.frame.iter_rows(named=True):
        # H100 SXM: 989 TFLOP/s dense bf16 (data sheet), 30% assumed; the probe's 160 images forward, and its fit
        fit = 1e4 * 100 * 4 * row["width"]
        flops = row["flops_train"] + 160 * row["flops_forward"] + fit
        assert row["hours_mid"] == pytest.approx(flops / (989e12 * 0.30) / 3600, rel=1e-12)
        assert row["hours_low"] == pytest.approx(row["hours_mid"] * 0.30 / 0.45)
        assert row["hours_high"] == pytest.approx(row["hours_mid"] * 0.30 / 0.15)


def test_what_fits_is_kept_in_order_and_the_rest_is_named(planned_study):
    plan, study = planned_study
    total = plan.frame["hours_mid"].sum()
    with pytest.raises(OrchError, match=r"2 of 8 cells do not fit") as caught:
        reserve(plan, study, Limits(gpu_hours=0.8 * total))
    refused = assess(plan, study, Limits(gpu_hours=0.8 * total)).refused
    for row in refused.iter_rows(named=True):
        assert f"mae@1 ViT-S all {row['images']} seed {row['seed']}" in str(caught.value)
    assert open_reservations(study) == {}
    verdict = reserve(plan, study, Limits(gpu_hours=0.8 * total), within=True)
    assert verdict.fits["id"].to_list() == plan.frame["id"].to_list()[:6]
    assert sum(open_reservations(study).values()) == pytest.approx(verdict.asked)
    assert verdict.asked <= 0.8 * total


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.floats(0, 1.2))
def test_what_fits_never_passes_the_limit_and_nothing_that_still_fits_is_refused(planned_study, share: float):
    plan, study = planned_study
    limit = share * plan.frame["hours_mid"].sum()
    verdict = assess(plan, study, Limits(gpu_hours=limit))
    kept, dropped = verdict.fits["hours_mid"].sum(), verdict.refused["hours_mid"]
    assert kept <= limit * (1 + 1e-12)
    assert verdict.fits.height + verdict.refused.height == plan.frame.height
    if dropped.len():
        assert kept + dropped.max() > limit * (1 - 1e-12)


def test_money_is_hours_at_a_price_and_the_tighter_limit_counts(planned_study):
    plan, _ = planned_study
    assert limits_of(plan, usd=10).hours == 5
    assert limits_of(plan, usd=10, gpu_hours=3).hours == 3
    assert limits_of(plan).hours is None
    with pytest.raises(OrchError, match="needs the price"):
        limits_of(Plan(study="x", frame=plan.frame, probes=(), device="H100"), usd=1)


def test_spent_hours_are_those_of_every_attempt_failed_ones_too(planned_study):
    plan, study = planned_study
    first, second = plan.frame["id"].to_list()[:2]
    attempt(study, first, 1, 2.0, how="failed")
    attempt(study, first, 2, 3.0)
    attempt(study, second, 1, 1.5, how="stopped")
    assert spent_hours(study) == pytest.approx(6.5)


def test_a_done_cells_reservation_gives_way_to_what_it_took(planned_study):
    plan, study = planned_study
    reserve(plan, study, Limits())
    first = plan.frame["id"][0]
    attempt(study, first, 1, 0.25)
    publish(study.cell_folder(first), Record(cell=first, name="", status="done"))
    assert first not in open_reservations(study)
    again = read_plan(study)
    left = assess(again, study, Limits(gpu_hours=1000))
    assert left.spent == pytest.approx(0.25)
    assert left.fits.height == 8  # its probe is left to do
    new = again.frame.filter(pl.col("state") == "new")["hours_mid"].sum()
    assert left.asked == pytest.approx(new + again.frame["hours_probes"][0])


def test_another_launchs_reservation_counts_and_can_be_given_back(planned_study):
    plan, study = planned_study
    half = Plan(**{name: getattr(plan, name) for name in Plan.__slots__} | {"frame": plan.frame.head(4)})
    rest = Plan(**{name: getattr(plan, name) for name in Plan.__slots__} | {"frame": plan.frame.tail(4)})
    total = plan.frame["hours_mid"].sum()
    reserve(half, study, Limits(gpu_hours=total * 0.999))
    with pytest.raises(OrchError, match="1 of 4 cells do not fit"):
        reserve(rest, study, Limits(gpu_hours=total * 0.999))
    reserve(half, study, Limits(gpu_hours=total * 0.999))  # the same cells again reserve nothing more
    budget.release(study, half.frame["id"].to_list())
    reserve(rest, study, Limits(gpu_hours=total * 0.999))


def _race(root: str, part: int, limit: float) -> bool:
    study = Study(Path(root))
    plan = read_plan(study)
    own = Plan(**{name: getattr(plan, name) for name in Plan.__slots__} | {"frame": plan.frame[part::4]})
    try:
        reserve(own, study, Limits(gpu_hours=limit))
    except OrchError:
        return False
    return True


def test_launches_at_once_never_reserve_more_than_the_limit(planned_study):
    plan, study = planned_study
    limit = plan.frame["hours_mid"].sum() * 0.6
    with ThreadPoolExecutor(4) as pool:  # each call opens the lock file anew, as processes do
        won = list(pool.map(lambda part: _race(str(study.root), part, limit), range(4)))
    assert any(won)
    assert not all(won)
    assert sum(open_reservations(study).values()) <= limit


def test_the_plan_names_what_is_beyond_its_budget(planned_study, tmp_path: Path):
    plan, _ = planned_study
    total = plan.frame["hours_mid"].sum()
    made = plan_grid(tmp_path / "grid.yaml", None, PlanOptions(usd=2 * 0.8 * total))
    document, text = made.to_json(), made.text
    assert len(document["beyond_budget"]) == 2
    assert "refused by `orch launch`: 2 cells: mae@1 ViT-S" in text
    assert document["usd"] == pytest.approx(2 * total)
    assert read_plan(planned_study[1]).budget["usd"] == pytest.approx(2 * 0.8 * total)
