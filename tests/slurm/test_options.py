"""What Slurm would refuse is said before anything is submitted, in its own words; cancelling means cancelled."""

import getpass
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from orch.launching import journal, operations, slurm
from orch.launching.launch import launch_jobs
from orch.launching.settings import Settings
from orch.launching.status import status
from orch_core.errors import OrchError
from orch_core.grid.resources import ResourceClass
from orch_core.study.folder import create_study, open_study

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("healthy")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"account": "nobody"}, "Invalid account"),
        ({"qos": "golden"}, "Invalid qos"),
        ({"colour": "red"}, "unrecognized option '--colour=red'"),
        ({"gpus-per-node": 9}, "Requested node configuration is not available"),
        ({"nodes": 5}, "not available"),
        ({"partition": "short", "time": "60"}, "above the limit of partition short, 10 minutes"),
    ],
)
def test_a_bad_option_is_reported_before_anything_is_submitted(launching, tmp_path, options, words):
    study = create_study(tmp_path, "s")
    asked = ResourceClass.model_validate({"sbatch": options})
    with pytest.raises(OrchError) as caught:
        launch_jobs(study, launching.jobs(1), Settings(cluster="slurm", classes={"default": asked}))
    assert words in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "launches").exists()
    assert not slurm.queue()


def test_a_study_in_one_machines_memory_is_refused(launching):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        study = create_study(Path(folder), "s")
        with pytest.raises(OrchError, match="in this machine's memory"):
            launch_jobs(study, launching.jobs(1), Settings(cluster="slurm"))


def test_gpus_and_options_reach_the_workers(launching, start, tmp_path):
    how = '{"cluster": "slurm", "parallel": 2, "classes": {"default": {"gpus_per_node": 2, "time": "5", "sbatch": {"exclude": "gpu[1-3]"}}}}'
    launching.finish(start(tmp_path, "--cells", 2, "--settings", how))
    study = open_study(tmp_path)
    records = [record for record in study.records() if not record.task]
    assert {record.provenance["node"] for record in records} == {"gpu4"}


def test_cancel_stops_a_launch_and_a_new_one_continues(launching, start, tmp_path):
    arguments = (tmp_path, "--cells", 4, "--pause", 0.3, "--settings", '{"cluster": "slurm", "parallel": 2}')
    jobs = launching.jobs(4, pause=0.3)
    launch = start(*arguments)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
    launching.until(lambda: launching.steps_seen(study, jobs) > 6)
    assert operations.cancel(study).note == "2 Slurm workers cancelled"
    assert launching.finish(launch, 4)["stopped"] == "cancelled"
    launching.until(lambda: not slurm.queue())
    time.sleep(3)
    assert not slurm.queue()  # nothing came back by itself
    saved = [line["stopped"] for job in jobs for line in launching.audit(study, job) if "stopped" in line]
    assert len(saved) == 2
    launching.finish(start(*arguments))
    launching.check_complete(study, jobs)


def test_ctrl_c_leaves_the_workers_to_slurm_and_the_next_launch_joins_them(launching, start, tmp_path):
    arguments = (tmp_path, "--cells", 3, "--pause", 0.3, "--settings", '{"cluster": "slurm", "parallel": 2}')
    jobs = launching.jobs(3, pause=0.3)
    launch = start(*arguments)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
    launching.until(lambda: launching.steps_seen(study, jobs) > 4)
    os.killpg(launch.pid, signal.SIGINT)
    launching.finish(launch, 130)
    now = status(study, jobs)
    assert (now.workers, now.total.running) == (2, 2)
    assert now.cluster == "Slurm: 2 running"
    launching.finish(start(*arguments))
    launching.check_complete(study, jobs)
    assert [event.step for event in journal.events(tmp_path)] == ["intent", "submitted"]


def test_a_budget_ends_the_launch_with_everything_saved(launching, start, tmp_path):
    how = '{"cluster": "slurm", "parallel": 2, "max_gpu_hours": 0.002}'
    jobs = launching.jobs(4, pause=0.5)
    summary = launching.finish(start(tmp_path, "--cells", 4, "--pause", 0.5, "--settings", how), 4)
    assert summary["stopped"] == "budget"
    assert summary["remaining"] > 0
    assert not slurm.queue()
    launching.finish(start(tmp_path, "--cells", 4, "--pause", 0.5, "--settings", '{"cluster": "slurm"}'))
    launching.check_complete(open_study(tmp_path), jobs)


def test_size_classes_get_separate_arrays(launching, start, tmp_path):
    how = '{"cluster": "slurm", "parallel": 4, "classes": {"large": {"sbatch": {"exclude": "gpu[1-3]"}}, "small": {"sbatch": {"exclude": "gpu4"}}}}'
    launching.finish(start(tmp_path, "--models", "large,small", "--cells", 4, "--settings", how))
    study = open_study(tmp_path)
    places = {(r.name.split("-")[1], r.provenance["node"] == "gpu4") for r in study.records() if not r.task}
    assert places == {("large", True), ("small", False)}
    assert sorted(event.group for event in journal.events(tmp_path) if event.step == "intent") == [
        "large",
        "small",
    ]


@pytest.mark.parametrize(
    ("asked", "processes"),
    [
        ({"sbatch": {"gres": "gpu:2"}}, 2),
        ({"sbatch": {"gpus": "2"}}, 2),
        ({"gpus_per_node": 2, "sbatch": {"exclusive": True}}, 8),  # the node's other GPUs are paid for too
    ],
)
def test_however_gpus_are_asked_for_each_trains_the_cell(launching, start, tmp_path, asked, processes):
    how = json.dumps({"cluster": "slurm", "parallel": 1, "classes": {"default": {"time": "5", **asked}}})
    launching.finish(start(tmp_path, "--cells", 1, "--settings", how))
    study, jobs = open_study(tmp_path), launching.jobs(1)
    launching.check_complete(study, jobs)
    assert {line["ranks"] for line in launching.audit(study, jobs[0]) if "ranks" in line} == {processes}
    assert {record.provenance["devices"] for record in study.records()} == {float(processes)}


def test_an_array_task_launches_whatever_its_job_and_the_users_shell_have_set(launching, tmp_path):
    how = json.dumps({"cluster": "slurm", "parallel": 1})
    words = [sys.executable, launching.__file__, tmp_path / "study", "--cells", 2, "--settings", how]
    surrounding = ["sbatch", "--wait", "--array=3", "--gpus-per-node=2", f"--output={tmp_path}/out"]
    subprocess.run(
        [*surrounding, f"--wrap={shlex.join(map(str, words))}"],
        env=os.environ | {"SBATCH_TIMELIMIT": "2", "SBATCH_EXCLUSIVE": "user"},
        check=True,
        timeout=300,
    )
    study = open_study(tmp_path / "study")
    launching.check_complete(study, launching.jobs(2))
    assert {record.provenance["devices"] for record in study.records()} == {1.0}


@pytest.fixture
def tight():
    """A QOS whose jobs may take 5 minutes, and of which a user may have one."""
    accounting = ["sacctmgr", "-i"]
    limits = ["MaxWall=5", "MaxSubmitJobsPerUser=1"]
    subprocess.run([*accounting, "add", "qos", "tight", *limits], check=True, capture_output=True)
    user = ["modify", "user", getpass.getuser(), "set"]
    subprocess.run([*accounting, *user, "qos+=tight"], check=True, capture_output=True)
    yield {"cluster": "slurm", "parallel": 1, "classes": {"default": {"qos": "tight"}}}
    subprocess.run(["scancel", "--me"], check=False)
    subprocess.run([*accounting, *user, "qos-=tight"], check=True, capture_output=True)
    subprocess.run([*accounting, "delete", "qos", "tight"], check=True, capture_output=True)


def test_a_qos_with_limits_is_kept_to_and_its_full_queue_is_joined(launching, start, tmp_path, tight):
    how = ("--pause", 0.3, "--seconds", 1e5, "--settings", json.dumps(tight))
    launching.finish(start(tmp_path, "--cells", 2, *how, "--no-wait"))
    launching.finish(start(tmp_path, "--cells", 2, *how))  # the queue is full: of the worker that serves it
    launching.check_complete(open_study(tmp_path), launching.jobs(2, pause=0.3))
    (intent,) = (event for event in journal.events(tmp_path) if event.step == "intent")
    assert intent.minutes == 5.0
    tight["classes"]["default"]["time"] = "6"
    launch = start(tmp_path, "--cells", 3, "--settings", json.dumps(tight))
    _, talk = launch.communicate(timeout=60)
    assert launch.returncode == 2
    assert "time 6 is above the limit of QOS tight, 5 minutes" in talk
