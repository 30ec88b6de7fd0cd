"""Runs that share a trunk: ids, prices and order against the recipes' own word and against the closed form."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orch.planning.planner import make_plan
from orch_core.errors import GridError
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid
from orch_core.grid.columns import cell_of
from orch_core.recipes import constants, trunk
from orch_core.recipes.base import branch_step
from orch_core.study.budget import Limits, assess
from orch_core.study.plan import hours_left
from orch_core.study.summary import summary

GRID = """\
study: trunks
sources:
  ct: {path: ct.npz, modality: ct, images: 40000000}
tasks:
  task: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
mixes:
  all: [ct]
axes:
  model: [{name: a, width: 64, depth: 2}, {name: b, width: 128, depth: 2}]
  algorithm: [mae@1, moco-v3@1, random@1]
  images: 1000000
  mix: all
  seed: [0, 1]
  resolution: 32
  patch: 8
  samples_seen: [6400000, 1600000, 3200000]
training: {batch: 64, cooldown: 0.2, warmup_samples: 64000}
probes: {tasks: [task]}
cluster: {device: H100}
"""


def frame_of(folder: Path, *changes: tuple[str, str]) -> pl.DataFrame:
    text = GRID
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "grid.yaml").write_text(text)
    return enumerate_cells(read_grid(folder / "grid.yaml"))


def branch(row: dict) -> int:
    cell = cell_of(row)
    return cell.batch * branch_step(cell.steps, constants(cell))


lengths = st.lists(st.integers(40, 4000), min_size=1, max_size=5, unique=True)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=lengths, cooldown=st.floats(0.01, 0.6), more=lengths)
def test_a_trunk_is_paid_once_and_every_cool_down(tmp_path: Path, steps, cooldown: float, more):
    frame = frame_of(
        tmp_path,
        ("[6400000, 1600000, 3200000]", str([64 * n for n in steps])),
        ("cooldown: 0.2, warmup_samples: 64000", f"cooldown: {cooldown}, warmup_samples: 64"),
        ("probes:", f"include: [{{samples_seen: {[64 * n for n in more]}}}]\nprobes:"),
    )
    trained = frame.filter(pl.col("recipe") != "random@1")
    rows = trained.to_dicts()
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(trunk(cell_of(row)), []).append(row)  # as training itself decides who shares
    assert len(groups) == 2 * 2 * 2
    for group in groups.values():
        branches = [branch(row) for row in group]
        closed = max(branches) + sum(
            row["samples_seen"] - at for row, at in zip(group, branches, strict=True)
        )
        assert sum(row["samples_paid"] for row in group) == closed
        assert branches == sorted(branches)  # so that each finds the trunk that it goes on from
        assert [row["continues"] for row in group] == [None, *(row["id"] for row in group[:-1])]
    assert all(cell_of(row).id == row["id"] for row in rows)


def test_cool_downs_of_other_lengths_share_a_trunk_too(tmp_path: Path):
    frame = frame_of(
        tmp_path,
        ("cooldown: 0.2, warmup_samples", "warmup_samples"),
        ("probes:", "overrides: {mae@1: {cooldown: [0.1, 0.4]}}\nprobes:"),
    )
    groups: dict[str, list[dict]] = {}
    for row in frame.filter(pl.col("recipe") == "mae@1").iter_rows(named=True):
        groups.setdefault(trunk(cell_of(row)), []).append(row)
    assert [len(group) for group in groups.values()] == [6] * 4
    for group in groups.values():
        branches = [branch(row) for row in group]
        assert sum(row["samples_paid"] for row in group) == max(branches) + sum(
            row["samples_seen"] - at for row, at in zip(group, branches, strict=True)
        )
    other = frame.filter(pl.col("recipe") == "moco-v3@1")  # warms up by samples, but has no cool-down
    assert other["samples_paid"].equals(other["samples_seen"].alias("samples_paid"))


@pytest.mark.parametrize(
    "schedule", ["cooldown: 0.2", "warmup_samples: 64000", "cooldown: 0, warmup_samples: 0"]
)
def test_without_both_constants_every_cell_pays_for_itself(tmp_path: Path, schedule: str):
    frame = frame_of(tmp_path, ("cooldown: 0.2, warmup_samples: 64000", schedule))
    assert frame["samples_paid"].to_list() == frame["samples_seen"].to_list()
    assert frame["continues"].null_count() == frame.height
    assert all(trunk(cell_of(row)) == "" for row in frame.iter_rows(named=True))


def test_no_cool_down_changes_no_id(tmp_path: Path):
    plain = frame_of(tmp_path, (", cooldown: 0.2, warmup_samples: 64000", ""))
    zero = frame_of(tmp_path, ("cooldown: 0.2, warmup_samples: 64000", "cooldown: 0.0, warmup_samples: 0"))
    cooled = frame_of(tmp_path)
    assert plain["id"].equals(zero["id"])
    untrained = {row["id"] for row in plain.filter(pl.col("recipe") == "random@1").iter_rows(named=True)}
    assert set(cooled["id"]) & set(plain["id"]) == untrained


def test_a_run_without_room_for_warm_up_and_cool_down_is_refused_at_its_length(tmp_path: Path):
    with pytest.raises(
        GridError, match=r"a run of 1,600,000 samples is too short for 1,300,000 of warm-up"
    ) as caught:
        frame_of(tmp_path, ("warmup_samples: 64000", "warmup_samples: 1300000"))
    (problem,) = caught.value.problems
    assert problem.text[problem.column - 1 :].startswith("[6400000, 1600000")


def test_isoflop_cells_branch_off_too(tmp_path: Path):
    frame = frame_of(
        tmp_path,
        ("  samples_seen: [6400000, 1600000, 3200000]\n", ""),
        (
            "probes:",
            "isoflop: [{budgets: [1e13, 2e13, 4e13], images: 1000000, model: a, algorithm: mae@1}]\nprobes:",
        ),
    ).filter(pl.col("recipe") == "mae@1")
    for seed in (0, 1):
        group = frame.filter(pl.col("seed") == seed).to_dicts()
        branches = [branch(row) for row in group]
        assert len(group) == 3
        assert sum(row["samples_paid"] for row in group) == branches[-1] + sum(
            row["samples_seen"] - at for row, at in zip(group, branches, strict=True)
        )


@pytest.fixture
def planned_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(GRID)
    return make_plan(tmp_path / "grid.yaml")


def test_the_plan_reports_the_rest_and_what_trunks_save(planned_study):
    plan, _ = planned_study
    numbers = summary(plan)
    seen = plan.frame["flops_train"].sum()
    assert numbers.flops_train + numbers.flops_shared == pytest.approx(seen)
    # 1.6, 3.2 and 6.4 million samples, a fifth of each cooled down: .8 x 6.4 + .2 x 11.2 of 11.2
    assert numbers.flops_shared / seen == pytest.approx(1 - (0.8 * 6.4 + 0.2 * 11.2) / 11.2, rel=1e-6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.floats(0, 1.1))
def test_a_budget_charges_the_trunk_to_whoever_trains_it(planned_study, share: float):
    plan, study = planned_study
    limit = share * float(plan.frame["hours_mid"].sum())
    verdict = assess(plan, study, Limits(gpu_hours=limit))
    kept = set(verdict.fits["id"])
    groups: dict[str, list[dict]] = {}
    for row in plan.frame.iter_rows(named=True):
        groups.setdefault(trunk(cell_of(row)), []).append(row)
    each = plan.frame.with_columns(left=hours_left(1))
    hours = dict(each.select("id", "left").iter_rows())
    total = sum(hours[row["id"]] for row in groups.pop("") if row["id"] in kept)
    for group in groups.values():
        chosen = [row for row in group if row["id"] in kept]
        if chosen:
            samples = max(map(branch, chosen)) + sum(row["samples_seen"] - branch(row) for row in chosen)
            an_hour = (group[0]["hours_mid"] - group[0]["hours_probes"]) / group[0]["samples_paid"]
            total += samples * an_hour + sum(row["hours_probes"] for row in chosen)
    assert verdict.asked == pytest.approx(total, rel=1e-9)
    assert verdict.asked <= limit * (1 + 1e-12)
