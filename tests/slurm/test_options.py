"""What Slurm would refuse is said before anything is submitted, in its own words; cancelling means cancelled."""

import os
import signal
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
def test_a_bad_option_is_said_before_anything_is_submitted(launching, tmp_path, options, words):
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
        with pytest.raises(OrchError, match="memory of this machine"):
            launch_jobs(study, launching.jobs(1), Settings(cluster="slurm"))


def test_gpus_and_options_reach_the_workers(launching, start, tmp_path):
    how = '{"cluster": "slurm", "parallel": 2, "classes": {"default": {"gpus_per_node": 2, "time": "5", "sbatch": {"exclude": "gpu[1-3]"}}}}'
    launching.finish(start(tmp_path, "--cells", 2, "--settings", how))
    study = open_study(tmp_path)
    records = [record for record in study.records() if not record.task]
    assert {record.provenance["node"] for record in records} == {"gpu4"}


def test_cancel_means_cancelled_and_a_new_launch_goes_on(launching, start, tmp_path):
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


def test_profiles_give_a_class_its_own_array(launching, start, tmp_path):
    how = '{"cluster": "slurm", "parallel": 4, "classes": {"large": {"sbatch": {"exclude": "gpu[1-3]"}}, "small": {"sbatch": {"exclude": "gpu4"}}}}'
    launching.finish(start(tmp_path, "--models", "large,small", "--cells", 4, "--settings", how))
    study = open_study(tmp_path)
    places = {(r.name.split("-")[1], r.provenance["node"] == "gpu4") for r in study.records() if not r.task}
    assert places == {("large", True), ("small", False)}
    assert sorted(event.group for event in journal.events(tmp_path) if event.step == "intent") == [
        "large",
        "small",
    ]
