"""Cells trained by several processes, on several nodes, and several cells in one job: as exact as one process a cell."""

import json
import os
import signal
import subprocess
import time

import pytest

from orch.launching import journal
from orch_core.study import attempts
from orch_core.study.folder import open_study

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("healthy")]
FOUR_NODES = json.dumps(
    {
        "cluster": "slurm",
        "parallel": 1,
        "classes": {"default": {"nodes": 4, "gpus_per_node": 2, "time": "10"}},
    }
)


def call(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def ranks_of(root) -> list[int]:
    """Processes of this machine that are ranks of a study's cells."""
    words = f"orch.launching.worker.ranks rank {root}"
    found = subprocess.run(["pgrep", "-f", "--", words], capture_output=True, text=True).stdout
    return [int(line) for line in found.split()]


@pytest.fixture
def launch(launching, start, tmp_path):
    def launch(recipe: str = "ok@1", cells: int = 1, pause: float = 0.3, steps: int = 0):
        jobs = launching.jobs(cells, recipe, pause=pause)
        arguments = ("--recipe", recipe, "--cells", cells, "--pause", pause, "--settings", FOUR_NODES)
        process = start(tmp_path, *arguments)
        study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
        launching.until(lambda: launching.steps_seen(study, jobs) >= steps or process.poll() is not None)
        return process, study, jobs

    return launch


def ends_of(study):
    return [attempts.end_of(path.parent) for path in sorted(study.root.glob("cells/*/attempts/*/end.json"))]


def test_eight_processes_on_four_nodes_train_each_cell_once(launching, launch):
    process, study, jobs = launch(cells=2, pause=0.02)
    launching.finish(process)
    launching.check_complete(study, jobs)
    assert {line["ranks"] for job in jobs for line in launching.audit(study, job) if "ranks" in line} == {8}
    assert {end.devices for end in ends_of(study)} == {8.0}
    assert {record.provenance["devices"] for record in study.records()} == {8.0}
    assert not ranks_of(study.root)


def test_preemption_stops_all_nodes_at_the_same_step_and_loses_none(launching, launch):
    process, study, jobs = launch(pause=0.5, steps=4)
    rival = call(
        "sbatch", "--parsable", "-p", "urgent", "-N4", "--exclusive", "-t1", "-o/dev/null", "--wrap=sleep 4"
    )
    launching.until(lambda: rival.strip() not in call("squeue", "-h", "-o%i"))
    launching.finish(process, seconds=120)
    launching.check_complete(study, jobs)
    audit = launching.audit(study, jobs[0])
    stops = [line["stopped"] for line in audit if "stopped" in line]
    assert len(stops) == 1
    assert [line["begin"] for line in audit if "begin" in line] == [0, *stops]


def test_the_death_of_a_rank_is_the_death_of_its_attempt(launching, launch):
    process, study, jobs = launch("rankonce@1", pause=0.1)
    launching.finish(process)
    launching.check_complete(study, jobs)
    first, second = ends_of(study)
    assert (first.how, first.cause, second.how) == ("failed", "killed", "done")
    assert first.message.startswith("rank 1 on gpu1 died of SIGKILL")


def test_an_error_of_a_rank_names_itself_and_not_the_peers_that_lost_it(launching, launch):
    process, study, _ = launch("rankbug@1", pause=0.1)
    (failure,) = launching.finish(process, 1)["failures"]
    assert (failure["cause"], failure["message"]) == ("code_error", "ValueError: a bug in rank 1")
    log = (study.root / failure["log"]).read_text()
    assert 'raise ValueError("a bug in rank 1")' in log
    launching.until(lambda: not ranks_of(study.root))


def test_a_killed_worker_leaves_no_rank_behind_and_its_cell_continues(launching, launch):
    process, study, jobs = launch(pause=0.3, steps=7)
    os.kill(launching.workers(study.root)[0].pid, signal.SIGKILL)
    launching.finish(process, seconds=120)
    launching.check_complete(study, jobs)


def test_four_cells_side_by_side_in_one_job(launching, start, tmp_path):
    how = json.dumps(
        {"cluster": "slurm", "parallel": 8, "classes": {"default": {"time": "5", "cells_per_job": 4}}}
    )
    jobs = launching.jobs(6, pause=0.2)
    began = time.monotonic()
    launching.finish(start(tmp_path, "--cells", 6, "--pause", 0.2, "--settings", how))
    print(f"{time.monotonic() - began:.1f} s")
    study = open_study(tmp_path)
    launching.check_complete(study, jobs)
    (submitted,) = (event for event in journal.events(tmp_path) if event.step == "submitted")
    assert submitted.workers == 2
    assert len(list(tmp_path.glob("launches/*/workers/*"))) == 8
    assert {end.devices for end in ends_of(study)} == {0.25}
