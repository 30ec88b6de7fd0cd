"""Slurm's commands, called sparingly: Slurm's answers are hints, the study is the source of truth."""

from __future__ import annotations

import contextlib
import getpass
import math
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orch_core.errors import OrchError
from orch_core.grid.resources import Option, minutes_of
from orch_core.study.record import Cause

COMMAND_SECONDS = 60.0
STRANGE = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SRUN_", "SALLOC_")
KEPT = frozenset({"SLURM_CONF", "SLURM_CLUSTERS"})  # they select the cluster
TERMINAL = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
})  # fmt: skip
"""squeue's states of jobs that have ended; a requeued PREEMPTED or NODE_FAIL job returns as PENDING."""
DEATHS = {
    "NODE_FAIL": (Cause.NODE_FAILURE, "its node failed"),
    "BOOT_FAIL": (Cause.NODE_FAILURE, "its node failed to boot"),
    "PREEMPTED": (Cause.PREEMPTED, "preempted before it could save"),
    "REQUEUED": (Cause.PREEMPTED, "requeued before it could save"),
    "TIMEOUT": (Cause.TIMEOUT, "it reached its time limit before it could save"),
    "OUT_OF_MEMORY": (Cause.OUT_OF_MEMORY, "killed by Slurm: out of memory"),
    "CANCELLED": (Cause.CANCELLED, "cancelled before it could save"),
}
UNKNOWN = (Cause.KILLED, "")
KILLED = frozenset({"FAILED", "CANCELLED"})  # states of a job whose process died of a signal
NEARLY = 0.9  # of the memory asked for: accounting looks now and then, and misses the last growth
MEMORY_KILL = re.compile(rb"exceeded (job )?memory limit|oom[-_]kill", re.IGNORECASE)
STUCK = ("launch failed", "JobHoldMaxRequeue")
NEVER = re.compile(r"PerJob|NotSatisfied|PartitionTimeLimit")  # reasons why a job can never start
UNSAFE = {  # patterns in a study's path
    r"\n": "which would end a line of the sbatch script",
    r"%\w": "which Slurm and submitit replace in the paths of their output",
    ":": "which separates the folders of PYTHONPATH, where the launched code is",
}
MEMORY_LOCAL = frozenset({"tmpfs", "ramfs", "devtmpfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """Workers as squeue lists them; the id is `12_3`, or `12_[4-9]` for `tasks` that are still together."""

    id: str
    tasks: int
    state: str
    reason: str
    name: str
    node: str


def environment() -> dict[str, str]:
    """The environment without variables that would change the options given here."""
    return {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(STRANGE)}


class SubmitLimitError(OrchError):
    """The user's limit of jobs in the queue is reached; a later submission may succeed."""


def refusal(command: str, words: str) -> OrchError:
    """The error for the message of a Slurm command that failed."""
    text = " ".join(words.split()).removeprefix(f"{command}: ")
    kind = SubmitLimitError if _is_submit_limit(text) else OrchError
    return kind(f"`{command}` reports: {text}", hint=hint_for(text))


def _is_submit_limit(text: str) -> bool:
    """Whether sbatch refused because of the number of jobs, which will fall, and not of their resources.

    Its last line may name both; then the queue decides: without jobs in it, the number is not the reason.
    """
    named = re.findall(r"\b(?:QOS|Assoc)\w+", text)
    if named:
        return any("Submit" in reason for reason in named)
    if "job submit limit" in text:
        return bool(run("squeue", "--me", "--noheader", "--format=%i", seconds=30).strip())
    return "JobCount" in text or "temporarily unavailable" in text


def run(*command: str, seconds: float = COMMAND_SECONDS) -> str:
    """Output of a Slurm command; raises OrchError with its message if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, env=environment()
        )
    except FileNotFoundError as error:
        message = f"there is no Slurm on this machine: `{command[0]}` is not on PATH"
        raise OrchError(message, hint="log in to the cluster's login node, or use --cluster local") from error
    except subprocess.TimeoutExpired as error:
        message = f"`{' '.join(command)}` did not answer within {seconds:.0f} s"
        raise OrchError(message, hint="the controller may be down: check with `scontrol ping`") from error
    if done.returncode:
        raise refusal(command[0], done.stderr or done.stdout)
    return done.stdout


def hint_for(words: str) -> str:
    """The remedy for an error message of Slurm."""
    lower = words.lower()
    for part, hint in (
        (
            "'--container",
            "this cluster has no pyxis: write `runtime: apptainer`, or ask who runs the cluster",
        ),
        ("partition", "`sinfo` lists the partitions"),
        ("account", "`sacctmgr show associations user=$USER` lists your accounts"),
        ("qos", "`sacctmgr show qos` lists the qualities of service"),
        ("node configuration", "`sinfo -o '%N %c %m %G'` shows what the nodes have"),
        ("time", "`sinfo -o '%P %l'` shows the partitions' time limits; give minutes or D-HH:MM:SS"),
        ("option", "options are sbatch's long names: `man sbatch`"),
        ("slurmctld", "the controller is down: wait, or ask an administrator; check with `scontrol ping`"),
        ("contact", "the controller may be down: check with `scontrol ping`"),
        ("socket", "the controller may be down: check with `scontrol ping`"),
    ):
        if part in lower:
            return hint
    return "see `man sbatch`"


def queue(prefixes: Iterable[str] = ("orch-",)) -> list[SlurmJob]:
    """Workers of the calling user, from one squeue call; raises OrchError if Slurm does not answer."""
    text = run("squeue", "--me", "--noheader", "--format", "%i|%T|%r|%j|%N", seconds=30)
    found, wanted = [], tuple(prefixes)
    for line in text.splitlines():
        job, state, reason, name, node = line.split("|", 4)
        if name.startswith(wanted) and state not in TERMINAL:
            found.append(
                SlurmJob(id=job, tasks=count_tasks(job), state=state, reason=reason, name=name, node=node)
            )
    return found


def describe(jobs: Sequence[SlurmJob]) -> str:
    """`Slurm: 3 running, 5 pending (Priority)`."""
    states: Counter[str] = Counter()
    for job in jobs:
        reason = f" ({job.reason})" if job.state == "PENDING" else ""
        states[job.state.lower() + reason] += job.tasks
    return "Slurm: " + (", ".join(f"{count} {state}" for state, count in states.items()) or "no workers")


def count_tasks(job: str) -> int:
    """Number of array tasks in a line of squeue: `7_[0-3,8%2]` is five."""
    ranges = re.search(r"_\[([\d,\-:]+)", job)
    if not ranges:
        return 1
    total = 0
    for part in ranges.group(1).split(","):
        first, _, last = part.partition("-")
        last, _, step = last.partition(":")
        total += (int(last) - int(first)) // int(step or 1) + 1 if last else 1
    return total


def start_now(jobs: Sequence[SlurmJob], has_ended: Callable[[str], bool]) -> None:
    """Start requeued jobs now, instead of after the two minutes that Slurm waits for the old credential.

    Only jobs whose worker `has_ended`: a node that failed and came back still runs the old process, and
    starting the job there again makes Slurm drain the node (`Duplicate jobid`).
    """
    waiting = [
        job.id for job in jobs if job.state == "PENDING" and job.reason == "BeginTime" and has_ended(job.id)
    ]
    for name in waiting:
        with contextlib.suppress(OrchError):  # it starts without this, later
            run("scontrol", "update", f"JobId={name}", "StartTime=now", seconds=15)


def without_stuck(jobs: Sequence[SlurmJob]) -> list[SlurmJob]:
    """The workers that will run, after cancelling those that Slurm holds because it failed to start them.

    Held jobs would wait for a person to release them; other workers are submitted instead.
    A job that the user holds is not cancelled.
    """
    stuck = [job.id for job in jobs if job.state == "PENDING" and job.reason.startswith(STUCK)]
    for name in stuck:
        with contextlib.suppress(OrchError):
            run("scancel", name, seconds=15)
    return [job for job in jobs if job.id not in stuck]


def hopeless(jobs: Sequence[SlurmJob]) -> list[SlurmJob]:
    """Pending jobs that can never start."""
    return [job for job in jobs if job.state == "PENDING" and NEVER.search(job.reason)]


def cause_of_death(job: str, token: str, restart: int) -> tuple[Cause, str]:
    """The cause and message of a worker's death by sacct; `killed` if unknown.

    A job has a row for each of its runs, which `restart` counts from 0. Rows whose name lacks the launch's
    token belong to an older job with the same id, from before the cluster's state was wiped. Without cgroups,
    the memory that the job had taken is the only evidence of a kill for memory.
    """
    if job and shutil.which("sacct"):
        with contextlib.suppress(OrchError):
            columns = "JobID,JobName,State,ReqMem,MaxRSS"
            table = run("sacct", "-n", "-P", "--duplicates", "-j", job, "-o", columns, seconds=15)
            rows = [line.split("|") for line in table.splitlines()]
            runs = [place for place, row in enumerate(rows) if "." not in row[0] and token in row[1]]
            if restart < len(runs):
                return _death(rows[runs[restart] :])
    return UNKNOWN


def _death(rows: Sequence[Sequence[str]]) -> tuple[Cause, str]:
    """The cause and message of the run in the first row of sacct, whose steps follow it."""
    state, limit = rows[0][2].split(" ")[0], rows[0][3]
    taken = next((row[4] for row in rows[1:] if row[0].endswith(".batch")), "")
    if state in KILLED and _bytes(taken) >= NEARLY * _bytes(limit) > 0:
        return Cause.OUT_OF_MEMORY, f"killed when it had taken {taken} of the {limit} that it asked for"
    return DEATHS.get(state, UNKNOWN)


def killed_for_memory(log: Path) -> bool:
    """Whether the end of a job's output says that its memory was what killed it: Slurm writes so into it."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            return bool(MEMORY_KILL.search(file.read()))
    except OSError:
        return False


def _bytes(text: str) -> float:
    """What sacct prints for memory, such as 4000M, 4Gn or 123456K; 0 if it is not that of a node."""
    found = re.fullmatch(r"([\d.]+)([KMGT]?)n?", text)
    return float(found.group(1)) * 1024.0 ** " KMGT".index(found.group(2) or " ") if found else 0.0


def seconds_left(job: str) -> float:
    """Seconds until a job's time limit; infinite if there is none or Slurm does not answer."""
    with contextlib.suppress(OrchError, ValueError):
        left, *_ = run("squeue", "-h", "-j", job, "-o", "%L", seconds=15).split()
        return 60.0 * minutes_of(left, exact=True)
    return math.inf


def requeue(job: str) -> bool:
    """Ask Slurm to run this job again; False if it refuses or does not answer."""
    try:
        run("scontrol", "requeue", job, seconds=30)
    except OrchError:
        return False
    return True


def check(options: Mapping[str, Option], root: Path) -> None:
    """Refuse options that Slurm would refuse, or with which a job would never start, before submission.

    Raises OrchError for an unknown partition, account, qos or option, for more resources than a node has, for
    a time above a limit, if there is no Slurm, and if the study is in a file system in memory. A full queue
    is not an error.
    """
    run("scontrol", "ping", seconds=30)
    flags = [flag(name, value) for name, value in options.items()]
    done = subprocess.run(
        ["sbatch", "--test-only", *flags],
        input="#!/bin/sh\n:\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment(),
    )
    if done.returncode and not _is_submit_limit(done.stderr):
        words = " ".join(done.stderr.split()).removeprefix("sbatch: ")
        message = f"sbatch refuses these options ({' '.join(flags)}): {words}"
        raise OrchError(message, hint=hint_for(words))
    limit, whose = wall_limit(options)
    if "time" in options and minutes_of(str(options["time"])) > limit:
        message = f"time {options['time']} is above the limit of {whose}, {limit:.0f} minutes"
        raise OrchError(message, hint="the job would never start: request less, or choose another one")
    for pattern, reason in UNSAFE.items():
        if found := re.search(pattern, str(root.resolve())):
            message = f"the study's path contains {found.group()!r}, {reason}: {root.resolve()}"
            raise OrchError(message, hint="rename its folder")
    kind = run("stat", "-f", "-c", "%T", str(root)).strip()
    if kind in MEMORY_LOCAL:
        message = f"the study is in this machine's memory ({kind}): {root}"
        raise OrchError(message, hint="move it to a file system that the nodes see")


def wall_limit(options: Mapping[str, Option]) -> tuple[float, str]:
    """The lowest time limit of a job in minutes, and its origin: a partition, QOS or account."""
    wanted = [name for name in str(options.get("partition", "")).split(",") if name]
    lines = run("scontrol", "show", "partition", "--oneliner").splitlines()
    partitions = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in lines]
    chosen = [
        one
        for one in partitions
        if (one.get("PartitionName") in wanted if wanted else one.get("Default") == "YES")
    ]
    limits = [(minutes_of(one["MaxTime"]), f"partition {one['PartitionName']}") for one in chosen]
    with contextlib.suppress(OrchError):  # a cluster without accounting has no other limits
        limits += _accounting_limits(options, [one.get("QoS", "N/A") for one in chosen])
    return min(limits, default=(math.inf, ""))


def _accounting_limits(
    options: Mapping[str, Option], partition_qos: Sequence[str]
) -> Iterable[tuple[float, str]]:
    """The time limits of the user's accounts and of the QOS that apply to these options."""
    user = getpass.getuser()
    account = str(options.get("account") or _accounting("user", f"user={user}", "DefaultAccount")[0][0])
    rows = _accounting("assoc", f"user={user} account={account}", "MaxWall,DefaultQOS")
    limits = [(wall, f"account {account}") for wall, _ in rows]
    qos = {str(options["qos"])} if options.get("qos") else {default for _, default in rows}
    limits += [
        (wall, f"QOS {name}")
        for name, wall in _accounting("qos", "", "Name,MaxWall")
        if name in {*qos, *partition_qos}
    ]
    return [(minutes_of(wall), whose) for wall, whose in limits if wall]


def _accounting(what: str, where: str, columns: str) -> list[list[str]]:
    """Rows of `sacctmgr show`; one empty row if there are none."""
    text = run("sacctmgr", "-nP", "show", what, *where.split(), f"format={columns}", seconds=30)
    return [line.split("|") for line in text.splitlines()] or [[""] * (columns.count(",") + 1)]


def max_array_size() -> int:
    """The cluster's MaxArraySize: one above the largest task number."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", run("scontrol", "show", "config"))
    return int(found.group(1)) if found else 1001


def flag(name: str, value: Option) -> str:
    """An option in sbatch's syntax: `--name=value`, or `--name` for True."""
    long = name.replace("_", "-")
    return f"--{long}" if value is True else f"--{long}={value}"
