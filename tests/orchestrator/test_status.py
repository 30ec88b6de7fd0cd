"""Where a study stands, and what cancelling, logs and `why` say: read from a study that real workers made."""

import itertools
import json
from types import SimpleNamespace

import polars as pl
import pytest

from orch.launching import journal, operations, progress, steering
from orch.launching.launch import launch_jobs
from orch.launching.settings import Settings
from orch.launching.status import AXES, eta_seconds, status, survey
from orch_core.errors import OrchError
from orch_core.study.folder import create_study


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


def test_watching_goes_on_until_nothing_is_left(mixed, monkeypatch):
    study, jobs, _ = mixed
    monkeypatch.setattr(steering, "WATCH_SECONDS", 0.0)
    monkeypatch.setattr(steering, "find_study", lambda _: study)
    plans = [
        SimpleNamespace(
            jobs=lambda part=part: part, frame=pl.DataFrame({"id": [job.cell.id for job in part]})
        )
        for part in (jobs, jobs[:4])  # what is left to do, then what is done
    ]
    monkeypatch.setattr(steering, "read_plan", lambda _: plans.pop(0))
    pending = [now.total.pending for now in itertools.islice(steering.statuses(None, "model", watch=True), 3)]
    assert pending == [2, 2, 2]
    assert [now.total.pending for now in steering.statuses(None, "model", watch=True)] == [0]


def test_an_unknown_axis_names_the_known_ones(mixed):
    with pytest.raises(OrchError, match="algorithm"):
        status(mixed[0], mixed[1], axis="colour")


def test_the_table_shows_rows_total_and_causes(mixed):
    text = progress.status_table(status(mixed[0], mixed[1], axis="algorithm"))
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
    standings = survey(study, entries)
    spent = sum(standing.seconds for standing in standings if standing.state in {"done", "diverged"})
    assert eta_seconds(standings, 2) == pytest.approx(2 * 3600 * spent / (2 * 7200 + 1) / 2)
    assert eta_seconds(standings, 0) is None


def test_why_gives_config_attempts_and_the_log(mixed):
    study, jobs, summary = mixed
    bug = next(job for job in jobs if job.cell.recipe == "bug@1")
    answer = operations.why(study, operations.find_cell(study, bug.cell.name))
    assert answer.id == bug.cell.id
    assert answer.config["recipe"] == "bug@1"
    assert answer.reason == "code_error: ValueError: a bug in bug-s0"
    assert [(one.number, one.end.cause) for one in answer.attempts] == [(1, "code_error")]
    assert answer.log_tail == ""  # debug mode leaves the output on the terminal
    assert (study.root / summary.failures[0].log) == operations.log_path(study, bug.cell.id)
    good = operations.why(study, operations.find_cell(study, jobs[0].cell.id[:8]))
    assert good.status == "done"
    assert set(good.probes) == {"a", "b"}
    json.dumps(good.to_json())


def test_a_planned_cell_that_has_no_file_yet_is_found_and_explained(mixed, monkeypatch):
    study, jobs, _ = mixed
    later = jobs[-1].cell
    ids = [job.cell.id for job in jobs]
    plan = SimpleNamespace(frame=pl.DataFrame({"id": ids}), jobs=lambda: jobs)
    monkeypatch.setattr(operations, "read_plan", lambda _: plan)
    assert not study.cell_folder(later.id).exists()
    assert operations.find_cell(study, later.name) == later.id == operations.find_cell(study, later.id[:8])
    answer = operations.why(study, later.id)
    assert (answer.name, answer.status, answer.attempts) == (later.name, "not done", ())
    assert answer.config["recipe"] == "later@1"
    assert steering.why_page(answer)
    with pytest.raises(OrchError, match="has not been started"):
        operations.log_path(study, later.id)


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
    assert operations.dropped(study, kept) == [job.cell.id for job in jobs if job.cell.recipe == "bug@1"]
    assert operations.dropped(study, jobs) == []


def test_a_cancelled_launch_stops_its_workers_and_a_new_one_goes_on(launching, start, tmp_path):
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


def test_single_cells_are_cancelled_while_the_others_go_on(launching, start, tmp_path):
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
