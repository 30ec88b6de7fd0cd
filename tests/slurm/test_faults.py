"""The fault matrix on a real Slurm: whatever breaks, every cell ends done, exactly once, with the undisturbed result."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from orch.launching import journal, slurm
from orch_core.study import attempts
from orch_core.study.folder import open_study

KILLS = int(os.environ.get("ORCH_KILLS", "10"))
OUTAGE = int(os.environ.get("ORCH_OUTAGE", "0"))  # seconds without a controller; 0: as short as shows it
pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("healthy")]


def settings(**more) -> str:
    return json.dumps({"cluster": "slurm", "parallel": 2, **more})


@pytest.fixture
def launch(launching, start, tmp_path):
    """Launch stand-in cells on Slurm, and wait until some steps are done."""

    def launch(cells: int = 4, pause: float = 0.2, *, steps: int = 0, **more):
        jobs = launching.jobs(cells, pause=pause)
        process = start(tmp_path, "--cells", cells, "--pause", pause, "--settings", settings(**more))
        study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
        launching.until(lambda: launching.steps_seen(study, jobs) >= steps or process.poll() is not None)
        return process, study, jobs

    return launch


def call(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def cluster(*command: object) -> None:
    script = Path(__file__).with_name("cluster")
    subprocess.run([script, *map(str, command)], check=True, capture_output=True, timeout=300)


def arrays_of(root) -> set[str]:
    """Array jobs of a study's launches: accounting lags by seconds, the controller forgets after minutes."""
    told = call("sacct", "-nPX", "-o", "JobID,JobName") + call("squeue", "-h", "-t", "all", "-o", "%F|%j")
    rows = [row.split("|") for row in told.splitlines()]
    return {job.split("_")[0] for job, name in rows for token in journal.tokens(root) if token in name}


def lines(launching, study, jobs) -> list[dict]:
    return [line for job in jobs for line in launching.audit(study, job)]


def test_slurm_gives_the_same_records_as_one_machine_to_the_bit(launching, launch, start, tmp_path):
    process, study, jobs = launch(cells=5, pause=0.01)
    summary = launching.finish(process)
    assert (summary["done"], summary["failed"], summary["remaining"]) == (5, 0, 0)
    launching.check_complete(study, jobs)
    local = tmp_path / "local"
    launching.finish(start(local, "--cells", 5, "--pause", 0.01))
    here, there = (
        {(r.cell, r.task): r.values for r in open_study(root).records()} for root in (local, tmp_path)
    )
    assert here == there
    assert len(here) == 15
    record = study.record(jobs[0].cell.id)
    assert record.provenance["job"].split("_")[0].isdigit()
    assert record.provenance["node"].startswith("gpu")


def test_preemption_loses_no_step_and_the_cells_run_again_at_once(launching, launch):
    process, study, jobs = launch(cells=2, pause=1.0, steps=4)
    rival = call(
        "sbatch", "--parsable", "-p", "urgent", "-N4", "--exclusive", "-t1", "-o/dev/null", "--wrap=sleep 8"
    )
    launching.until(lambda: sum("stopped" in line for line in lines(launching, study, jobs)) == 2)
    launching.until(lambda: rival.strip() not in call("squeue", "-h", "-o%i"))
    freed = time.time()
    launching.until(lambda: sum(line.get("begin", 0) > 0 for line in lines(launching, study, jobs)) == 2)
    waited = time.time() - freed
    print(f"running again {waited:.1f} s after the nodes were free")
    assert waited < 60  # Slurm itself would let them wait for 120 s
    launching.finish(process)
    launching.check_complete(study, jobs)
    for job in jobs:
        audit = launching.audit(study, job)
        stops = [line["stopped"] for line in audit if "stopped" in line]
        assert [line["begin"] for line in audit if "begin" in line] == [0, *stops]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_submitter_killed_around_sbatch_leaves_one_array(launching, start, tmp_path, moment):
    path = tmp_path / "bin"
    path.mkdir()
    fake = path / "sbatch"
    # only the real submission: `--test-only` checks options
    call_through = (
        f'real() {{ {shutil.which("sbatch")} "$@"; }}\ncase "$1" in --test-only) real "$@"; exit;; esac\n'
    )
    action = {"before": "kill -9 $PPID; exit 1", "after": 'real "$@" >/dev/null; kill -9 $PPID'}[moment]
    fake.write_text(f"#!/bin/bash\n{call_through}{action}\n")
    fake.chmod(0o755)
    root = tmp_path / "study"
    first = start(root, "--cells", 3, "--settings", settings(), PATH=f"{path}:{os.environ['PATH']}")
    first.wait(timeout=60)
    assert first.returncode == -signal.SIGKILL
    assert [event.step for event in journal.events(root)] == ["intent"]
    launching.finish(start(root, "--cells", 3, "--settings", settings()))
    launching.check_complete(open_study(root), launching.jobs(3))
    assert len(arrays_of(root)) == 1


def test_a_submitter_killed_at_each_of_its_steps_leaves_one_array(launching, start, tmp_path):
    """Before every write, rename, link, folder and command, from the settings to the submission's end."""
    roots, processes, arguments = [], [], ("--cells", 1, "--settings", settings(parallel=1))
    while not processes or processes[-1].returncode:
        steps = range(len(roots), len(roots) + 8)
        roots += [tmp_path / str(step) for step in steps]
        processes = [start(tmp_path / str(step), *arguments, "--no-wait", "--die-at", step) for step in steps]
        for process in processes:
            process.communicate(timeout=120)
        assert {process.returncode for process in processes} <= {0, -signal.SIGKILL}
        # at once: a task whose submitter was killed waits a minute for it
        for process in [start(root, *arguments) for root in roots[-8:]]:
            launching.finish(process, seconds=180)
    print(f"{len(roots)} submitters, of which the last one lived")
    assert len(roots) > 16
    for root in roots:
        launching.check_complete(open_study(root), launching.jobs(1))
        assert len(arrays_of(root)) == 1


def test_submitters_killed_at_random_moments_lose_nothing(launching, start, tmp_path):
    generator = random.Random(0)
    arguments = (tmp_path, "--cells", 12, "--pause", 0.05, "--settings", settings(parallel=4))
    for _ in range(KILLS):
        process = start(*arguments)
        time.sleep(generator.uniform(0.2, 1.5))
        process.kill()
    launching.finish(start(*arguments), seconds=180)
    launching.check_complete(open_study(tmp_path), launching.jobs(12, pause=0.05))


@pytest.mark.parametrize("launches", [2, 8])
def test_launches_at_once_do_nothing_twice(launching, start, tmp_path, launches):
    arguments = (tmp_path, "--cells", 6, "--pause", 0.05, "--settings", settings())
    processes = [start(*arguments) for _ in range(launches)]
    for process in processes:
        launching.finish(process, seconds=180)
    launching.check_complete(open_study(tmp_path), launching.jobs(6, pause=0.05))


@pytest.mark.parametrize("what", ["task", "array"])
def test_scancel_behind_our_back(launching, launch, what):
    process, study, jobs = launch(steps=6)
    found = slurm.queue()
    job = found[0].id if what == "task" else found[0].id.split("_")[0]
    call("scancel", job)
    launching.finish(process)
    launching.check_complete(study, jobs)


def test_a_worker_killed(launching, launch):
    process, study, jobs = launch(steps=14)
    os.kill(launching.workers(study.root)[0].pid, signal.SIGKILL)
    launching.finish(process)
    launching.check_complete(study, jobs)


def test_a_time_limit_is_met_by_saving_and_coming_back(launching, launch):
    process, study, jobs = launch(cells=2, pause=2.5, classes={"default": {"time": "1"}})
    launching.finish(process, seconds=300)
    launching.check_complete(study, jobs)
    stops = [line["stopped"] for line in lines(launching, study, jobs) if "stopped" in line]
    assert len(stops) >= 2
    assert sorted(stops) == sorted(
        line["begin"] for line in lines(launching, study, jobs) if line.get("begin")
    )
    ends = [attempts.end_of(path.parent) for path in study.root.glob("cells/*/attempts/*/end.json")]
    assert {end.cause for end in ends if end.how == "stopped"} == {"deadline"}


def test_a_dead_slurmd_and_its_zombie_do_nothing_twice(launching, launch):
    process, study, jobs = launch(cells=3, pause=1.5, steps=3)
    node = launching.workers(study.root)[0].node
    cluster("kill", node[-1])
    launching.until(lambda: "NODE_FAIL" in call("sacct", "-nPX", "--duplicates", "-o", "State"), 120)
    cluster("revive", node[-1])
    launching.finish(process, seconds=240)
    launching.check_complete(study, jobs)


def test_a_controller_that_is_down_delays_and_breaks_nothing(launching, launch):
    process, study, jobs = launch(cells=6, steps=10)
    cluster("ctld", "stop")
    os.kill(launching.workers(study.root)[0].pid, signal.SIGTERM)
    time.sleep(OUTAGE or 20)
    cluster("ctld", "start")
    launching.finish(process, seconds=180)
    launching.check_complete(study, jobs)


def test_a_controller_that_is_down_at_the_moment_of_a_requeue(launching, launch):
    process, study, jobs = launch(cells=2, pause=0.5, steps=4)
    call("sbatch", "-p", "urgent", "-N4", "--exclusive", "-t1", "-o/dev/null", "--wrap=sleep 2")
    launching.until(lambda: any("stopped" in line for line in lines(launching, study, jobs)))
    cluster("ctld", "stop")
    time.sleep(OUTAGE or 10)
    cluster("ctld", "start")
    launching.finish(process, seconds=240)
    launching.check_complete(study, jobs)


def test_clocks_that_differ_by_hours_and_locks_that_nodes_do_not_share(launching, start, tmp_path):
    arguments = (tmp_path, "--cells", 4, "--pause", 0.3, "--far-apart", "--settings", settings())
    process, jobs = start(*arguments), launching.jobs(4, pause=0.3)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
    launching.until(lambda: launching.steps_seen(study, jobs) >= 8)
    victim = attempts.read_owner(next(study.root.glob("cells/*/attempts/1/owner.json")))
    os.kill(victim.pid, signal.SIGKILL)
    launching.finish(process, seconds=120)
    launching.check_complete(study, jobs)
    ends = [attempts.end_of(path.parent) for path in study.root.glob("cells/*/attempts/*/end.json")]
    assert sorted(end.how for end in ends) == ["done"] * 4 + ["failed"]
    assert all(0 <= end.seconds < 60 for end in ends)  # no clock's hours in what was spent


def test_without_accounting(launching, launch):
    cluster("dbd", "stop")
    process, study, jobs = launch(steps=14)
    os.kill(launching.workers(study.root)[0].pid, signal.SIGKILL)
    launching.finish(process)
    launching.check_complete(study, jobs)


def test_suspended_and_resumed(launching, launch):
    process, study, jobs = launch(steps=6)
    job = slurm.queue()[0].id
    call("scontrol", "suspend", job)
    time.sleep(8)
    call("scontrol", "resume", job)
    launching.finish(process)
    launching.check_complete(study, jobs)


def test_a_finished_job_that_is_requeued_finds_nothing_to_do(launching, launch):
    process, study, _ = launch(cells=2, pause=0.01)
    launching.finish(process)
    before = {path: path.stat().st_mtime_ns for path in study.root.glob("cells/**/*")}
    job = next(event.job for event in journal.events(study.root) if event.step == "submitted")
    launching.until(lambda: not slurm.queue())
    time.sleep(
        2
    )  # the node would refuse it within the second in which the old task ended: `Job credential revoked`
    call("scontrol", "requeue", f"{job}_0")
    call("scontrol", "update", f"JobId={job}_0", "StartTime=now")
    launching.until(lambda: len(list((study.root / "launches").glob("*/workers/*"))) == 3)
    launching.until(lambda: not slurm.queue())
    assert before == {path: path.stat().st_mtime_ns for path in study.root.glob("cells/**/*")}


def test_job_ids_that_restart_are_not_confused(launching, launch, start):
    process, study, _ = launch(cells=2, pause=0.01)
    launching.finish(process)
    cluster("wipe")
    more = launching.jobs(4, pause=0.01)
    launching.finish(start(study.root, "--cells", 4, "--pause", 0.01, "--settings", settings()))
    launching.check_complete(study, more)


def test_a_file_system_with_200_ms_per_operation(launching, start, tmp_path):
    launching.finish(start(tmp_path, "--cells", 3, "--slow", 0.2, "--settings", settings()), seconds=300)
    launching.check_complete(open_study(tmp_path), launching.jobs(3))


def test_code_edited_after_submission_does_not_reach_the_queue(launching, start, tmp_path):
    arguments = (tmp_path, "--cells", 3, "--pause", 0.05)
    launching.finish(
        start(
            *arguments,
            "--settings",
            settings(classes={"default": {"sbatch": {"begin": "now+8"}}}),
            "--no-wait",
        )
    )
    launching.finish(start(*arguments, "--code", "edited since", "--settings", settings()))
    study = open_study(tmp_path)
    launching.check_complete(study, launching.jobs(3, pause=0.05))
    assert {record.values["code"] for record in study.records() if not record.task} == {
        "the code that was launched"
    }
    assert len(list((tmp_path / "code").iterdir())) == 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB in a file, as the nodes' shared one."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    image.write_bytes(bytes(24 << 20))
    made = [["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, folder]]
    done = [subprocess.run(command, capture_output=True, text=True) for command in made]
    if any(one.returncode for one in done):
        pytest.skip(f"cannot mount a small file system: {done[-1].stderr.strip()}")
    yield folder
    subprocess.run(["chattr", "-R", "-i", folder], check=False)
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_while_running_stops_the_launch_and_the_next_one_completes(launching, start, small_disk):
    arguments = (small_disk / "study", "--recipe", "big@1", "--cells", 2, "--settings", settings())
    process = start(*arguments)
    _, talk = process.communicate(timeout=120)
    assert process.returncode == 2, talk
    assert "no space left" in talk
    launching.until(lambda: not slurm.queue())
    study, jobs = open_study(small_disk / "study"), launching.jobs(2, "big@1")
    assert not any(study.record(job.cell.id) for job in jobs)
    for path in study.root.glob("cells/*/checkpoint/big"):
        path.unlink()
    launching.finish(start(small_disk / "study", "--cells", 2, "--settings", settings()))
    launching.check_complete(study, launching.jobs(2))


def test_a_study_that_becomes_read_only_while_running(launching, start, small_disk):
    root = small_disk / "study"
    arguments = (root, "--cells", 4, "--pause", 0.2, "--settings", settings())
    process, jobs = start(*arguments), launching.jobs(4, pause=0.2)
    study = launching.until(lambda: (root / "study.json").exists() and open_study(root))
    launching.until(lambda: launching.steps_seen(study, jobs) > 12)
    call("find", root, "-type", "d", "-exec", "chattr", "+i", "{}", "+")
    _, talk = process.communicate(timeout=120)
    assert process.returncode == 2, talk
    assert "cannot be written" in talk
    launching.until(lambda: not slurm.queue())
    call("find", root, "-type", "d", "-exec", "chattr", "-i", "{}", "+")
    launching.finish(start(*arguments), seconds=120)
    launching.check_complete(study, jobs)


def test_leftovers_of_killed_writers_stop_nobody(launching, start, tmp_path):
    for job in launching.jobs(2):
        folder = tmp_path / "cells" / job.cell.id
        (folder / ".claim-stale").mkdir(parents=True)
        (folder / ".record.json.stale").write_text("{")
        (folder / "attempts" / "1").mkdir(parents=True)
    launching.finish(start(tmp_path, "--cells", 2, "--settings", settings()))
    launching.check_complete(open_study(tmp_path), launching.jobs(2))
