"""Where a study stands, and what cancelling, logs and `why` say: read from a study that real workers made."""

import json

import pytest

from orch.launching import cell_report, journal, operations
from orch.launching.launch import launch_jobs
from orch.launching.settings import Settings
from orch.launching.status import AXES, eta_seconds, job_states, status, statuses
from orch.planning.planner import make_plan
from orch_core.errors import OrchError
from orch_core.study.folder import create_study
from orch_core.study.record import Record
from orch_core.study.stored import publish


@pytest.fixture
def mixed(launching, fake_learn, tmp_path):
    """Two cells done, one diverged, one failed, two never started."""
    study = create_study(tmp_path, "mixed")
    jobs = {
        "ok@1": launching.jobs(2, seconds=7200.0),
        "diverge@1": launching.jobs(1, "diverge@1"),
        "bug@1": launching.jobs(1, "bug@1"),
    }
    launched = [job for some in jobs.values() for job in some]
    summary = launch_jobs(study, launched, Settings(cluster="debug"))
    return study, [*launched, *launching.jobs(2, "later@1", seconds=3600.0)], summary


def test_every_cell_is_counted_once_under_its_state(mixed, tmp_path):
    study, jobs, summary = mixed
    assert (summary.done, summary.diverged, summary.failed, summary.remaining) == (2, 1, 1, 0)
    assert summary.exit_code == 1
    for axis in AXES:
        now = status(study, jobs, axis=axis)
        assert (now.total.done, now.total.diverged, now.total.pending) == (2, 1, 2)
        assert now.total.failed == {"code_error": 1}
        assert sum(row.done for row in now.rows) == 2
    now = status(study, jobs, axis="algorithm")
    assert [(row.label, row.done, row.pending) for row in now.rows] == [
        ("ok@1", 2, 0),
        ("diverge@1", 0, 0),
        ("bug@1", 0, 0),
        ("later@1", 0, 2),
    ]
    assert (now.total.probes, now.total.probes_done) == (12, 4)
    assert now.total.hours_planned == pytest.approx((2 * 7200 + 1 + 1 + 2 * 3600) / 3600)
    assert json.loads(json.dumps(now.to_json()))["total"]["done"] == 2


GRID = """\
study: watched
sources:
  ct: {path: ct.npz, modality: ct, images: 40000}
tasks:
  task: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
axes: {model: [ViT-Ti], algorithm: [mae@1], images: 40000, seed: [0, 1], resolution: 224, patch: 16, samples_seen: 64000}
training: {batch: 64}
cluster: {device: H100}
"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A study with a plan of two cells and their probe, nothing launched."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(GRID)
    return make_plan(tmp_path / "grid.yaml")


def test_watching_continues_until_nothing_is_left(planned, monkeypatch):
    plan, study = planned
    monkeypatch.setattr("orch.launching.status.WATCH_SECONDS", 0.0)
    pending = []
    for now in statuses(study, "model", watch=True):
        pending.append(now.total.pending)
        if len(pending) == 3:
            for job in plan.jobs():
                for probe in (None, *job.probes):
                    folder = study.result_folder(job.cell.id, probe)
                    folder.mkdir(parents=True)
                    publish(folder, Record(cell=job.cell.id, name="", status="done"))
    assert pending == [2, 2, 2, 0]


def test_a_planned_cell_has_a_name_before_it_is_launched(planned):
    plan, study = planned
    cell = next(plan.jobs()).cell
    assert operations.find_cell(study, cell.name) == operations.find_cell(study, cell.id[:8]) == cell.id
    report = cell_report.report(study, cell.id)
    assert (report.name, report.status, report.attempts) == (cell.name, "not done", ())
    assert report.config["recipe"] == "mae@1"
    assert cell.name in report.text
    with pytest.raises(OrchError, match="has not been started"):
        operations.log_path(study, cell.id)
    assert operations.cancel(study, [cell.name]).cells == 1
    assert operations.cancel(study, ["seed == 1 and model == 'ViT-Ti'"]).cells == 1
    assert operations.cancel(study, ["not seed == 1"]).cells == 1
    with pytest.raises(OrchError, match="no cell of watched is called 'in the attic'"):
        operations.cancel(study, ["in the attic"])


def test_an_unknown_axis_names_the_known_ones(mixed):
    with pytest.raises(OrchError, match="algorithm"):
        status(mixed[0], mixed[1], axis="colour")


def test_the_table_shows_rows_total_and_causes(mixed):
    text = status(mixed[0], mixed[1], axis="algorithm").text
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:6]] == [
        "algorithm",
        "ok@1",
        "diverge@1",
        "bug@1",
        "later@1",
        "total",
    ]
    assert "1 code_error" in lines[3]
    assert len({len(line) for line in lines[1:6]}) == 1


def test_eta_scales_the_plan_by_how_the_finished_cells_went(launching, mixed):
    study, jobs, _ = mixed
    entries = [journal.ManifestEntry(id=job.cell.id, job=job) for job in jobs]
    found = job_states(study, entries)
    spent = sum(state.seconds for state in found if state.state in {"done", "diverged"})
    assert eta_seconds(found, 2) == pytest.approx(2 * 3600 * spent / (2 * 7200 + 1) / 2)
    assert eta_seconds(found, 0) is None


def test_why_gives_config_attempts_and_the_log(mixed):
    study, jobs, summary = mixed
    bug = next(job for job in jobs if job.cell.recipe == "bug@1")
    answer = cell_report.report(study, operations.find_cell(study, bug.cell.name))
    assert answer.id == bug.cell.id
    assert answer.config["recipe"] == "bug@1"
    assert answer.reason == "code_error: ValueError: a bug in bug-s0"
    assert [(one.number, one.end.cause) for one in answer.attempts] == [(1, "code_error")]
    assert answer.log_tail == ""  # debug mode leaves the output on the terminal
    assert (study.root / summary.failures[0].log) == operations.log_path(study, bug.cell.id)
    good = cell_report.report(study, operations.find_cell(study, jobs[0].cell.id[:8]))
    assert good.status == "done"
    assert set(good.probes) == {"a", "b"}
    json.dumps(good.to_json())


def test_a_cell_that_is_not_there_gets_a_suggestion(mixed):
    with pytest.raises(OrchError, match="bug-s0"):
        operations.find_cell(mixed[0], "bug-s1")


def test_failed_jobs_are_those_to_retry(mixed):
    study, jobs, _ = mixed
    assert [job.cell.recipe for job in operations.failed_jobs(study, jobs)] == ["bug@1"]
    assert operations.failed_jobs(study, jobs, "killed") == []


def test_cells_dropped_from_the_plan_are_offered_for_cancelling(mixed, launching):
    study, jobs, _ = mixed
    kept = [job for job in jobs if job.cell.recipe != "bug@1"]
    assert operations.dropped_cells(study, kept) == [
        job.cell.id for job in jobs if job.cell.recipe == "bug@1"
    ]
    assert operations.dropped_cells(study, jobs) == []


def test_a_cancelled_launch_stops_its_workers_and_a_new_one_continues(launching, start, tmp_path):
    arguments = (tmp_path, "--cells", 4, "--pause", 0.1)
    jobs = launching.jobs(4, pause=0.1)
    launch = start(*arguments)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and create_study(tmp_path, "stand-in"))
    launching.until(lambda: launching.steps_seen(study, jobs) > 5 and len(launching.workers(tmp_path)) == 2)
    assert operations.cancel(study).workers == 2
    summary = launching.finish(launch, 4)  # not done, and nothing failed
    assert (summary["stopped"], summary["remaining"]) == ("cancelled", 4)
    assert launching.workers(tmp_path) == []
    launching.finish(start(*arguments))
    launching.check_complete(study, jobs)


def test_single_cells_are_cancelled_while_others_continue(launching, start, tmp_path):
    jobs = launching.jobs(3, pause=0.1)
    launch = start(tmp_path, "--cells", 3, "--pause", 0.1)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and create_study(tmp_path, "stand-in"))
    running = launching.until(lambda: [job for job in jobs if launching.audit(study, job)])
    operations.cancel(study, [running[0].cell.id])
    summary = launching.finish(launch, 1)
    assert (summary["done"], summary["failed"]) == (2, 1)
    assert study.record(running[0].cell.id) is None
    again = launching.finish(start(tmp_path, "--cells", 3, "--pause", 0.1))
    assert (again["done"], again["remaining"]) == (0, 0)  # a new launch leaves it cancelled
    assert study.record(running[0].cell.id) is None
    assert operations.failed_jobs(study, jobs) == []
    (cell,) = operations.failed_jobs(study, jobs, "cancelled")
    assert cell == running[0]
    journal.revive_cells(study.root, [cell.cell.id])
    launching.finish(start(tmp_path, "--cells", 3, "--pause", 0.1))
    launching.check_complete(study, jobs)
