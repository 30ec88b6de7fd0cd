"""Launching on one machine, with everything killed that can be: nothing is lost, and nothing done twice."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from orch.launching import journal, waiting
from orch.launching.worker.process import Stop
from orch_core.study import attempts
from orch_core.study.folder import create_study, open_study


def test_two_workers_share_the_cells_and_a_second_launch_has_nothing_to_do(launching, start, tmp_path):
    summary = launching.finish(start(tmp_path, "--cells", 5, "--pause", 0.01))
    study, jobs = open_study(tmp_path), launching.jobs(5, pause=0.01)
    launching.check_complete(study, jobs)
    assert (summary["done"], summary["failed"], summary["remaining"]) == (5, 0, 0)
    record = study.record(jobs[0].cell.id)
    assert record.provenance["config"]["id"] == jobs[0].cell.id
    assert record.values["threads"] == "1"
    assert (tmp_path / record.provenance["log"]).read_text().startswith("training ok-s0")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/**/*")}
    assert launching.finish(start(tmp_path, "--cells", 5, "--pause", 0.01))["done"] == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/**/*")}


def test_a_launcher_killed_in_the_middle_loses_nothing(launching, start, tmp_path):
    arguments = (tmp_path, "--cells", 6, "--pause", 0.05)
    jobs = launching.jobs(6, pause=0.05)
    first = start(*arguments)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
    launching.until(lambda: launching.steps_seen(study, jobs) > 15 and len(launching.workers(tmp_path)) == 2)
    os.kill(first.pid, signal.SIGKILL)
    orphans = {owner.pid for owner in launching.workers(tmp_path)}
    assert len(orphans) == 2
    second = start(*arguments)
    launching.until(lambda: len(journal.tokens(tmp_path)) == 2 or second.poll() is not None)
    assert {owner.pid for owner in launching.workers(tmp_path)} <= orphans  # adopted, not joined by two more
    launching.finish(second)
    launching.check_complete(study, jobs)


def test_a_worker_killed_in_the_middle_is_noticed_and_its_cell_resumed(launching, start, tmp_path):
    jobs = launching.jobs(3, pause=0.05)
    launch = start(tmp_path, "--cells", 3, "--pause", 0.05)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
    launching.until(lambda: launching.steps_seen(study, jobs) > 14)
    victim = launching.workers(tmp_path)[0]
    os.kill(victim.pid, signal.SIGKILL)
    launching.finish(launch)
    launching.check_complete(study, jobs)
    killed = [
        attempts.end_of(path.parent)
        for path in tmp_path.glob("cells/*/attempts/*/owner.json")
        if attempts.read_owner(path).pid == victim.pid
    ]
    assert [end.cause for end in killed if end.how == "failed"] == ["killed"]
    begins = [line["begin"] for job in jobs for line in launching.audit(study, job) if "begin" in line]
    assert sorted(begins)[:3] == [0, 0, 0]
    assert sorted(begins)[3] in {0, 5, 10, 15}  # from its last checkpoint


def test_ctrl_c_saves_and_prints_how_to_continue(launching, start, tmp_path):
    jobs = launching.jobs(4, pause=0.1)
    launch = start(tmp_path, "--cells", 4, "--pause", 0.1)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
    launching.until(lambda: launching.steps_seen(study, jobs) > 6)
    os.killpg(launch.pid, signal.SIGINT)  # a terminal sends it to the whole group
    summary = launching.finish(launch, 130)
    assert summary["interrupted"]
    assert launching.workers(tmp_path) == []
    lines = [line for job in jobs for line in launching.audit(study, job)]
    stops = sorted(line["stopped"] for line in lines if "stopped" in line)
    assert stops
    assert not list(study.failures())
    launching.finish(start(tmp_path, "--cells", 4, "--pause", 0.1))
    launching.check_complete(study, jobs)
    lines = [line for job in jobs for line in launching.audit(study, job)]
    assert sorted(line["begin"] for line in lines if line.get("begin")) == [stop for stop in stops if stop]


def test_launches_at_once_do_nothing_twice(launching, start, tmp_path):
    launches = [start(tmp_path, "--cells", 6, "--pause", 0.02) for _ in range(3)]
    for launch in launches:
        launching.finish(launch)
    launching.check_complete(open_study(tmp_path), launching.jobs(6, pause=0.02))


def test_a_cell_that_is_killed_once_is_tried_again(launching, start, tmp_path):
    launching.finish(start(tmp_path, "--recipe", "once@1", "--cells", 2))
    launching.check_complete(open_study(tmp_path), launching.jobs(2, "once@1"))


@pytest.mark.parametrize(
    ("recipe", "cause", "tries"),
    [
        ("bug@1", "code_error", 1),
        ("bad@1", "bad_data", 1),
        ("oom@1", "out_of_memory", 4),  # the first one reached a checkpoint, and is free
        ("killed@1", "killed", 4),
    ],
)
def test_a_failed_cell_leaves_a_record_with_cause_and_log(launching, start, tmp_path, recipe, cause, tries):
    summary = launching.finish(
        start(tmp_path, "--recipe", recipe, "--cells", 1, "--settings", '{"parallel": 1}'), 1
    )
    (failure,) = summary["failures"]
    (record,) = open_study(tmp_path).failures()
    assert failure["cause"] == record.reason.cause == cause
    assert failure["message"] == record.reason.message
    folder = tmp_path / "cells" / failure["cell"] / "attempts"
    ends = [attempts.end_of(folder / str(number)) for number in attempts.numbers(folder.parent)]
    assert [end.progress for end in ends] == [True, False, False, False][:tries]
    log = (tmp_path / failure["log"]).read_text()
    assert "training" in log
    if cause == "code_error":
        assert "ValueError: a bug in bug-s0" in log
        assert "misbehave" in log


def test_three_identical_tracebacks_stop_their_class_and_no_other(launching, start, tmp_path):
    summary = launching.finish(
        start(tmp_path, "--recipe", "bug@1", "--cells", 9, "--settings", '{"parallel": 1}'), 1
    )
    assert summary["failed"] == 9
    assert len(summary["failures"]) == 3
    assert len(list(tmp_path.glob("cells/*"))) == 3
    launching.finish(start(tmp_path, "--cells", 2))
    check_complete_for = launching.jobs(2)
    assert all(open_study(tmp_path).record(job.cell.id) for job in check_complete_for)


def test_a_broken_probe_fails_alone(launching, start, tmp_path):
    summary = launching.finish(start(tmp_path, "--cells", 1, "--tasks", "a,broken,c"), 1)
    study = open_study(tmp_path)
    (job,) = launching.jobs(1, tasks=("a", "broken", "c"))
    assert [bool(study.record(job.cell.id, probe)) for probe in job.probes] == [True, False, True]
    (failure,) = summary["failures"]
    assert (failure["task"], failure["cause"]) == ("broken", "code_error")
    assert study.record(job.cell.id).status == "done"


def test_a_diverged_cell_is_a_result_without_probes(launching, start, tmp_path):
    summary = launching.finish(start(tmp_path, "--recipe", "diverge@1", "--cells", 1))
    assert (summary["diverged"], summary["remaining"]) == (1, 0)
    (record,) = open_study(tmp_path).records()
    assert (record.status, record.reason.cause) == ("diverged", "diverged")


def test_workers_run_the_code_that_was_launched_and_nothing_of_the_working_directory(
    launching, start, tmp_path, monkeypatch
):
    here = tmp_path / "here"
    here.mkdir()
    for name in ("random", "numpy", "orch"):
        (here / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(here)
    launching.finish(start(tmp_path / "study", "--cells", 1))
    study = open_study(tmp_path / "study")
    (record,) = [record for record in study.records() if not record.task]
    assert (study.root / record.provenance["code"]["snapshot"]).exists()


def test_a_worker_runs_no_other_code_than_what_was_launched(launching, start, tmp_path):
    """Python passes over a damaged zip on its path, and would run the orch that is installed."""
    launch = start(tmp_path, "--cells", 1, "--damage-code")
    _, talk = launch.communicate(timeout=90)
    assert launch.returncode == 2, talk
    assert "it is not the code that was launched" in talk
    assert not list((tmp_path / "cells").iterdir())


def test_inside_a_slurm_job_local_workers_are_no_part_of_it(launching, start, tmp_path, monkeypatch):
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NUM_NODES": "2"}.items():
        monkeypatch.setenv(name, value)
    launching.finish(start(tmp_path, "--cells", 2))
    study, jobs = open_study(tmp_path), launching.jobs(2)
    launching.check_complete(study, jobs)
    assert {line["ranks"] for job in jobs for line in launching.audit(study, job) if "ranks" in line} == {1}
    owners = [attempts.read_owner(path) for path in tmp_path.glob("cells/*/attempts/*/owner.json")]
    assert {(owner.job, owner.devices) for owner in owners} == {("", 1.0)}


def test_two_processes_train_a_cell_together_and_stop_together(launching, start, tmp_path):
    how = ("--settings", '{"parallel": 2, "gpus": 2}')
    jobs = launching.jobs(3, pause=0.1)
    launch = start(tmp_path, "--cells", 3, "--pause", 0.1, *how)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
    launching.until(lambda: launching.steps_seen(study, jobs) > 9)
    os.killpg(launch.pid, signal.SIGINT)
    launching.finish(launch, 130)
    audits = [line for job in jobs for line in launching.audit(study, job)]
    assert {line["ranks"] for line in audits if "ranks" in line} == {2}
    assert sum("stopped" in line for line in audits) == 2
    launching.finish(start(tmp_path, "--cells", 3, "--pause", 0.1, *how))
    launching.check_complete(study, jobs)
    for job in jobs:
        lines = launching.audit(study, job)
        stops = [line["stopped"] for line in lines if "stopped" in line]
        assert [line["begin"] for line in lines if "begin" in line] == [0, *stops]


def test_a_killed_workers_processes_end_and_the_cell_continues(launching, start, tmp_path):
    jobs, how = launching.jobs(1, pause=0.2), ("--settings", '{"parallel": 1, "gpus": 2}')
    launch = start(tmp_path, "--cells", 1, "--pause", 0.2, *how)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
    launching.until(lambda: launching.steps_seen(study, jobs) > 6)
    (first,) = (line["pid"] for line in launching.audit(study, jobs[0]) if "begin" in line)
    os.kill(launching.workers(tmp_path)[0].pid, signal.SIGKILL)
    launching.until(lambda: not Path(f"/proc/{first}").exists(), seconds=20)
    launching.finish(launch)
    launching.check_complete(study, jobs)


def test_each_time_out_of_memory_half_as_many_images_are_held_at_once(launching, start, tmp_path):
    how = ("--recipe", "greedy@1", "--cells", 1, "--batch", 8, "--settings", '{"parallel": 1}')
    launching.finish(start(tmp_path, *how))
    (job,) = launching.jobs(1, "greedy@1", batch=8)
    study = open_study(tmp_path)
    begins = [line["micro_batch"] for line in launching.audit(study, job) if "begin" in line]
    assert begins == [0, 4, 2]  # it fails until no more than two are held; 0 is the whole batch
    launching.check_complete(study, [job])


def test_a_study_that_has_overspent_its_budget_stops_its_workers(launching, tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "BUDGET_SECONDS", 0.0)
    study, (job,) = create_study(tmp_path, "s"), launching.jobs(1)
    stopped, spent = [], iter([False, True])
    watch = waiting.Watch(
        study=study,
        token="t",
        limit=3,
        stop=Stop(),
        display=lambda *_: None,
        overspent=lambda: next(spent),
    )
    workers = SimpleNamespace(
        keep=lambda _: 0, alive=lambda: 0, stop=lambda: stopped.append(True), note=str, detached=False
    )
    entry = journal.ManifestEntry(id=job.cell.id, job=job)
    (state,) = waiting.wait_for(watch, [entry], workers)
    assert (state.state, watch.stop.reason, stopped) == ("pending", "budget", [True])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MiB; needs root to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_the_launch_with_a_remedy_and_the_next_one_completes(launching, start, small_disk):
    root = small_disk / "study"
    launching.finish(start(root, "--cells", 2))
    launch = start(root, "--recipe", "big@1", "--cells", 2)
    _, talk = launch.communicate(timeout=90)
    assert launch.returncode == 2, talk
    assert "no space left" in talk
    assert "free some space" in talk
    assert "Traceback" not in talk
    launching.check_complete(open_study(root), launching.jobs(2))
    subprocess.run(["mount", "-o", "remount,size=400m", small_disk], check=True)
    launching.finish(start(root, "--recipe", "big@1", "--cells", 2))
    launching.check_complete(open_study(root), [*launching.jobs(2), *launching.jobs(2, "big@1")])


def test_a_study_that_becomes_read_only_stops_the_launch_and_keeps_what_is_there(launching, start):
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o777)
        # for root nothing is read-only, unless it gives that capability up
        mortal = ("setpriv", "--bounding-set", "-dac_override") if os.geteuid() == 0 else ()
        jobs = launching.jobs(4, pause=0.1)
        launch = start(home / "study", "--cells", 4, "--pause", 0.1, prefix=mortal)
        study = launching.until(
            lambda: (home / "study" / "study.json").exists() and open_study(home / "study")
        )
        launching.until(lambda: launching.steps_seen(study, jobs) > 12)
        folders = [path for path in [study.root, *study.root.glob("**/*")] if path.is_dir()]
        for folder in folders:
            folder.chmod(0o555)
        _, talk = launch.communicate(timeout=90)
        for folder in folders:
            folder.chmod(0o777)
        assert launch.returncode == 2, talk
        assert "cannot be written" in talk
        assert "Traceback" not in talk
        assert launching.workers(study.root) == []
        launching.finish(start(home / "study", "--cells", 4, "--pause", 0.1, prefix=mortal))
        launching.check_complete(study, jobs)
