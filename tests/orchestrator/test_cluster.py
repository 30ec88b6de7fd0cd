"""Submitting to Slurm, with its commands played by small scripts: the submission path without a cluster."""

import itertools
import json
import math
import os
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from played_slurm import play

from orch.launching import journal, slurm
from orch.launching.journal import JobRequest
from orch.launching.launch import launch_jobs, scripts
from orch.launching.settings import Settings
from orch.launching.slurm_workers import SlurmWorkers, shares_of
from orch.launching.status import job_state
from orch_core.errors import OrchError
from orch_core.grid.resources import ResourceClass, minutes_of
from orch_core.study.folder import create_study, open_study


@pytest.fixture
def played(tmp_path, monkeypatch):
    """A folder of Slurm's commands, first on PATH; `limit` in it bounds the tasks in the queue."""
    play(tmp_path / "slurm", monkeypatch)
    return tmp_path / "slurm"


def settings(**more) -> str:
    return json.dumps({"cluster": "slurm", "parallel": 3, **more})


def test_one_sbatch_call_brings_all_cells_home(launching, start, played, tmp_path):
    root = tmp_path / "study"
    summary = launching.finish(start(root, "--cells", 5, "--settings", settings()))
    assert (summary["done"], summary["remaining"]) == (5, 0)
    launching.check_complete(open_study(root), launching.jobs(5))
    assert len((played / "sbatch.calls").read_text().splitlines()) == 1
    assert [event.step for event in journal.events(root)] == ["intent", "submitted"]
    assert len(list(root.glob("logs/*/*_submitted.pkl"))) == 3


def test_arrays_are_split_under_max_array_size(launching, start, played, tmp_path):
    root = tmp_path / "study"
    arguments = (root, "--cells", 7, "--pause", 0.05, "--settings", settings(parallel=7), "--no-wait")
    launching.finish(start(*arguments))
    sizes = [event.workers for event in journal.events(root) if event.step == "submitted"]
    assert sizes == [3, 3, 1]  # MaxArraySize is 4: tasks 0 to 3, and one spare
    launching.until(lambda: len(list(root.glob("cells/*/record.json"))) == 7)


@pytest.mark.parametrize(("answer", "seconds"), [("1:00:00", 3600), ("UNLIMITED", math.inf), ("", math.inf)])
def test_the_time_left_to_a_job_that_squeue_does_not_list_is_unlimited(monkeypatch, answer, seconds):
    monkeypatch.setattr(slurm, "run", lambda *_, **__: answer)
    assert slurm.seconds_left("7") == seconds


def test_a_submit_limit_means_fewer_workers(launching, start, played, tmp_path):
    (played / "limit").write_text("1")
    root = tmp_path / "study"
    arguments = (root, "--cells", 5, "--pause", 0.02, "--settings", settings(parallel=5), "--no-wait")
    launching.finish(start(*arguments))
    events = [(event.step, event.workers) for event in journal.events(root)]
    assert ("submitted", 3) in events
    assert events[-1][0] == "refused"
    launching.finish(start(*arguments[:-1]))  # again at the limit: it joins the workers that are there
    launching.until(lambda: len(list(root.glob("cells/*/record.json"))) == 5)


def test_two_launches_at_once_submit_the_workers_once(launching, start, played, tmp_path):
    root = tmp_path / "study"
    (played / "slowness").write_text("2")
    arguments = (root, "--cells", 6, "--pause", 0.05, "--settings", settings(), "--no-wait")
    for launch in [start(*arguments), start(*arguments)]:
        launching.finish(launch)
    submitted = [event.workers for event in journal.events(root) if event.step == "submitted"]
    assert submitted == [3]
    launching.until(lambda: len(list(root.glob("cells/*/record.json"))) == 6)


def test_nothing_of_a_surrounding_job_or_of_the_users_shell_reaches_the_workers(
    launching, start, played, tmp_path, monkeypatch
):
    """An array task launches: `SLURM_ARRAY_JOB_ID` would make its worker wait for a file of another job."""
    surrounding = {
        "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_GPUS_ON_NODE": "4",
        "SBATCH_PARTITION": "nowhere",
        "SBATCH_TIMELIMIT": "1",
        "SQUEUE_PARTITION": "nowhere",
    }
    for name, value in surrounding.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    root = tmp_path / "study"
    launching.finish(start(root, "--cells", 2, "--settings", settings(parallel=1)), seconds=50)
    study = open_study(root)
    launching.check_complete(study, launching.jobs(2))
    assert {record.provenance["job"] for record in study.records()} == {"101"}
    assert (played / "sbatch.env").read_text().split() == ["SLURM_CONF=/etc/slurm/slurm.conf"]


def test_what_is_running_is_not_submitted_again(launching, start, played, tmp_path):
    root = tmp_path / "study"
    arguments = (root, "--cells", 4, "--pause", 0.1, "--settings", settings())
    launching.finish(start(*arguments, "--no-wait"))
    launching.finish(start(*arguments))
    assert len((played / "sbatch.calls").read_text().splitlines()) == 1
    launching.check_complete(open_study(root), launching.jobs(4, pause=0.1))


def test_a_held_worker_that_slurm_failed_to_start_is_replaced(launching, start, played, tmp_path):
    root = tmp_path / "study"
    (played / "scancel").write_text(f'#!/bin/bash\necho "$@" >>{played}/scancel.calls\n')
    (played / "scancel").chmod(0o755)
    squeue = (played / "squeue").read_text()
    # the first array never runs: squeue shows its tasks as held, until they are cancelled
    (played / "squeue").write_text(
        squeue.replace(
            "then cat", "then sed 's/^101_\\(.\\)|RUNNING|None/101_\\1|PENDING|launch failed requeued held/'"
        )
    )
    (played / "never.sh").write_text("sleep 30")
    sbatch = (played / "sbatch").read_text()
    first = '$([ $id = 101 ] && echo "$HERE/never.sh" || echo "$1")'
    (played / "sbatch").write_text(sbatch.replace('setsid bash "$1"', f"setsid bash {first}"))
    launching.finish(start(root, "--cells", 3, "--settings", settings()))
    launching.check_complete(open_study(root), launching.jobs(3))
    assert {line.split("_")[0] for line in (played / "scancel.calls").read_text().split()} == {"101"}


def test_after_a_timeout_the_next_job_is_twice_as_long(launching, start, played, tmp_path):
    root = tmp_path / "study"
    row = f'echo "7|orch-$(ls -t {root}/launches | head -1)|TIMEOUT||"'
    (played / "sacct").write_text(f"#!/bin/bash\n{row}\n")
    how = settings(parallel=1, classes={"default": {"time": "15"}})
    launching.finish(start(root, "--recipe", "once@1", "--cells", 1, "--settings", how))
    launching.check_complete(open_study(root), launching.jobs(1, "once@1"))
    minutes = [event.minutes for event in journal.events(root) if event.step == "intent"]
    assert minutes == [15, 30]
    asked = [path.read_text() for path in sorted(root.glob("logs/*/*_submission.sh"))]
    assert ["--time=15" in text for text in asked] == [True, False]
    assert "--time=30" in asked[1]


@pytest.mark.parametrize(
    ("restart", "cause"), [(0, "preempted"), (1, "out_of_memory"), (2, "killed"), (3, "killed")]
)
def test_the_cause_of_a_death_is_that_of_the_run_in_which_it_happened(played, restart, cause):
    rows = [
        "7_1|orch-before-the-wipe|NODE_FAIL|1000M|",
        "7_1|orch-t1-x|REQUEUED|1000M|",
        "7_1.batch|batch|CANCELLED||990M",
        "7_1|orch-t1-x|OUT_OF_MEMORY|1000M|",
        "7_1|orch-t1-x|RUNNING|1000M|",
    ]
    (played / "sacct").write_text("#!/bin/bash\n" + "".join(f"echo '{row}'\n" for row in rows))
    assert slurm.cause_of_death("7_1", "t1", restart)[0] == cause


@pytest.mark.parametrize(
    ("asked", "taken", "state", "cause"),
    [
        ("1000M", "900000K", "FAILED", "killed"),
        ("1000M", "960000K", "FAILED", "out_of_memory"),
        ("1Gn", ".95G", "CANCELLED by 0", "out_of_memory"),
        ("1000Mc", "990M", "FAILED", "killed"),  # per core: how much the job had is not said
        ("0", "990M", "FAILED", "killed"),  # nothing was asked for
        ("1000M", "990M", "NODE_FAIL", "node_failure"),
    ],
)
def test_without_cgroups_a_kill_is_memorys_if_the_job_had_nearly_all_it_asked_for(
    played, asked, taken, state, cause
):
    rows = [
        f"7|orch-t1-x|{state}|{asked}|",
        f"7.batch|batch|{state.split()[0]}||{taken}",
        "7.extern|e|COMPLETED||2K",
    ]
    (played / "sacct").write_text("#!/bin/bash\n" + "".join(f"echo '{row}'\n" for row in rows))
    assert slurm.cause_of_death("7", "t1", 0)[0] == cause


@pytest.mark.parametrize(
    ("words", "found"),
    [  # of slurmstepd, by its versions and plugins
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=4.batch.", True),
        ("slurmstepd: error: Job 12 exceeded memory limit (420000 > 409600), being killed", True),
        ("slurmstepd: error: *** JOB 12 ON gpu1 CANCELLED AT 2026-11-28 DUE TO TIME LIMIT ***", False),
    ],
)
def test_what_slurm_writes_into_the_output_of_a_job_tells_of_its_memory(tmp_path, words, found):
    (tmp_path / "log").write_text("training\n" * 9999 + words + "\n")
    assert slurm.killed_for_memory(tmp_path / "log") is found
    assert not slurm.killed_for_memory(tmp_path / "none")


@pytest.mark.parametrize("cells", [1, 500])
def test_waiting_asks_slurm_once_in_a_while_however_many_cells(launching, played, tmp_path, cells):
    study = create_study(tmp_path / "study", "s")
    entries = [journal.ManifestEntry(id=job.cell.id, job=job) for job in launching.jobs(cells)]
    token = journal.new_token()
    journal.begin(study, journal.Launch(token=token, created=0.0), entries)
    (played / "queue" / str(os.getpid())).write_text(f"7_0|RUNNING|None|orch-{token}-default|gpu1\n")
    workers = SlurmWorkers(
        study=study,
        token=token,
        snapshot=tmp_path,
        shares=Counter(default=1),
        requests={"default": JobRequest(minutes=10.0, longest=60.0)},
    )
    pending = [job_state(study, entry) for entry in entries]
    for _ in range(50):
        assert workers.keep(pending) == 0
        assert workers.alive() == 1
    assert len((played / "squeue.calls").read_text().splitlines()) == 1


def test_a_dry_run_shows_the_scripts_and_submits_nothing(launching, played, tmp_path):
    study = create_study(tmp_path / "study", "s")
    how = Settings(
        cluster="slurm",
        parallel=2,
        classes={
            "default": ResourceClass(
                partition="main", gpus_per_node=1, time="2:00:00", sbatch={"constraint": "a100"}
            )
        },
    )
    (script,) = scripts(study, launching.jobs(3, seconds=1800.0), how)
    assert (script.cells, script.workers, script.gpu_hours) == (3, 2, 1.5)
    directives = [line for line in script.text.splitlines() if line.startswith("#SBATCH")]
    for expected in (
        "--array=0-1%2",
        "--partition=main",
        "--gpus-per-node=1",
        "--constraint=a100",
        "--time=120",
        "--requeue",
        "--signal=B:USR2@120",
        "--open-mode=append",
    ):
        assert f"#SBATCH {expected}" in directives
    assert " -P -u -m submitit" in script.text
    assert "PYTHONSAFEPATH=1" in script.text
    assert not (played / "sbatch.calls").exists()
    assert not (study.root / "launches").exists()


def test_a_machine_without_slurm_is_reported(launching, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    study = create_study(tmp_path / "study", "s")
    with pytest.raises(OrchError, match="no Slurm on this machine"):
        launch_jobs(study, launching.jobs(1), Settings(cluster="slurm"))
    assert not (study.root / "launches").exists()


POLICY = (
    "Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)"
)


@pytest.mark.parametrize(
    ("words", "queued", "full"),
    [
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit sbatch: error: {POLICY}", 0, True),
        (f"sbatch: error: AssocMaxSubmitJobLimit sbatch: error: {POLICY}", 0, True),
        (f"sbatch: error: QOSMaxWallDurationPerJobLimit sbatch: error: {POLICY}", 1, False),
        (f"sbatch: error: AssocMaxCpuPerJobLimit sbatch: error: {POLICY}", 1, False),
        (f"sbatch: error: {POLICY}", 1, True),
        (f"sbatch: error: {POLICY}", 0, False),  # nothing is in the queue that could be too much
        ("sbatch: error: Batch job submission failed: Resource temporarily unavailable", 0, True),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", 1, False),
    ],
)
def test_a_full_queue_is_distinguished_from_a_request_that_is_too_large(played, words, queued, full):
    if queued:
        (played / "queue" / str(os.getpid())).write_text("7_0|RUNNING|None|another|gpu1\n")
    assert isinstance(slurm.refusal("sbatch", words), slurm.SubmitLimitError) == full


SACCTMGR = """
case "$*" in
  *"show user"*) echo lab ;;
  *"show assoc"*account=lab*) echo "${ACCOUNT_WALL}|normal" ;;
  *"show qos"*) echo "normal|"; echo "tight|30"; echo "of-main|00:50:00" ;;
esac
"""


@pytest.mark.parametrize(
    ("options", "account_wall", "limit"),
    [
        ({}, "", (2880.0, "partition main")),
        ({}, "01:00:00", (60.0, "account lab")),
        ({"qos": "tight"}, "01:00:00", (30.0, "QOS tight")),
        ({"partition": "short,main"}, "", (10.0, "partition short")),
        ({"partition": "governed"}, "", (50.0, "QOS of-main")),
        ({"account": "other"}, "01:00:00", (2880.0, "partition main")),
    ],
)
def test_the_shortest_limit_of_partition_account_and_qos_counts(
    played, monkeypatch, options, account_wall, limit
):
    (played / "sacctmgr").write_text(f"#!/bin/bash\n{SACCTMGR}")
    monkeypatch.setenv("ACCOUNT_WALL", account_wall)
    assert slurm.wall_limit(options) == limit


def test_without_a_time_a_job_keeps_within_the_limit_of_its_qos(launching, played, tmp_path):
    (played / "sacctmgr").write_text(f"#!/bin/bash\n{SACCTMGR}")
    study = create_study(tmp_path / "study", "s")
    how = Settings(cluster="slurm", classes={"default": ResourceClass(qos="tight")})
    (script,) = scripts(study, launching.jobs(1, seconds=1e6), how)
    assert "#SBATCH --time=30" in script.text.splitlines()
    how = Settings(cluster="slurm", classes={"default": ResourceClass(qos="tight", time="31")})
    with pytest.raises(OrchError, match="time 31 is above the limit of QOS tight, 30 minutes"):
        launch_jobs(study, launching.jobs(1), how)


def test_a_worker_that_can_never_start_ends_the_launch_with_the_reason(launching, start, played, tmp_path):
    squeue = (played / "squeue").read_text()
    never = "s/RUNNING|None/PENDING|QOSMaxWallDurationPerJobLimit/"
    (played / "squeue").write_text(squeue.replace("then cat", f"then sed '{never}'"))
    (played / "scancel").write_text(f'#!/bin/bash\necho "$@" >>{played}/scancel.calls\n')
    (played / "scancel").chmod(0o755)
    launch = start(tmp_path / "study", "--cells", 4, "--pause", 1, "--settings", settings())
    _, talk = launch.communicate(timeout=60)
    assert launch.returncode == 2, talk
    assert "QOSMaxWallDurationPerJobLimit" in talk
    assert (played / "scancel.calls").read_text().split() == ["101_0", "101_1", "101_2"]


def test_a_dry_run_counts_the_hours_of_all_devices(launching, played, tmp_path):
    study = create_study(tmp_path / "study", "s")
    jobs = [replace(job, devices=8.0) for job in launching.jobs(3, seconds=1800.0)]
    (script,) = scripts(study, jobs, Settings(cluster="slurm"))
    assert script.gpu_hours == 12.0


def test_a_path_with_spaces_and_percent_signs_keeps_its_logs(launching, start, played, tmp_path):
    root = tmp_path / "50% of a study"
    launching.finish(start(root, "--cells", 1, "--settings", settings(parallel=1)))
    (script,) = scripts(open_study(root), launching.jobs(2), Settings(cluster="slurm", parallel=1))
    (line,) = (line for line in script.text.splitlines() if line.startswith("#SBATCH --output="))
    assert line == f"#SBATCH --output='{tmp_path}/50%% of a study/logs/TOKEN/%j_0_log.out'"


@pytest.mark.parametrize(
    ("name", "words"), [("a\n#SBATCH --wrap=evil", "end a line"), ("x%A%j", "'%A'"), ("co:lon", "PYTHONPATH")]
)
def test_a_path_that_slurm_would_change_is_refused(launching, played, tmp_path, name, words):
    study = create_study(tmp_path / name, "s")
    with pytest.raises(OrchError, match=words):
        launch_jobs(study, launching.jobs(1), Settings(cluster="slurm"))


def test_a_time_above_the_partitions_limit_is_refused(launching, played, tmp_path):
    study = create_study(tmp_path / "study", "s")
    how = Settings(cluster="slurm", classes={"default": ResourceClass(time="3-0")})
    with pytest.raises(OrchError, match="above the limit of partition main, 2880 minutes"):
        launch_jobs(study, launching.jobs(1), how)


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times_as_slurm_writes_them(days, hours, minutes, seconds):
    total = (24 * days + hours) * 60 + minutes + seconds / 60
    assert minutes_of(f"{days}-{hours:02}:{minutes:02}:{seconds:02}", exact=True) == pytest.approx(total)
    assert minutes_of(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == math.ceil(total)
    assert minutes_of(f"{days}-{hours}") == 60 * (24 * days + hours)
    assert minutes_of(f"{hours}:{minutes:02}:{seconds:02}", exact=True) == pytest.approx(
        60 * hours + minutes + seconds / 60
    )
    assert minutes_of(str(minutes)) == minutes


@pytest.mark.parametrize(
    ("job", "tasks"), [("7", 1), ("7_3", 1), ("7_[0-3]", 4), ("7_[2-3,8%2]", 3), ("7_[0-9:3]", 4)]
)
def test_tasks_in_a_line_of_squeue(job, tasks):
    assert slurm.count_tasks(job) == tasks


@given(st.integers(0, 60), st.floats(1, 1e4), st.floats(1, 1e5))
def test_time_limits_grow_with_timeouts_and_stay_within_what_slurm_allows(timeouts, first, longest):
    longest = max(first, longest)
    request = JobRequest(minutes=first, longest=longest)
    lengths = [request.minutes_after(count) for count in range(timeouts + 1)]
    assert lengths[0] == first
    assert lengths == sorted(lengths)
    assert all(b in (2 * a, longest) for a, b in itertools.pairwise(lengths) if math.isfinite(b))


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.integers(1, 50), st.floats(0.0, 1e6)), min_size=1
    ),
    st.integers(1, 64),
)
def test_every_class_gets_workers_and_none_more_than_cells(classes, parallel):
    groups = Counter({name: count for name, (count, _) in classes.items()})
    seconds = {name: total for name, (_, total) in classes.items()}
    shares = shares_of(parallel, groups, seconds, {})
    assert all(1 <= shares[name] <= count for name, count in groups.items())
    assert sum(shares.values()) <= parallel + len(groups)
