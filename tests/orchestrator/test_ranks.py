"""Processes that train one cell: how many, which of them is to blame, and what the kernel's own record says."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch.launching.journal import ManifestEntry
from orch.launching.settings import LaunchOptions, settings_of
from orch.launching.worker import causes, claims, main, ranks, side_by_side
from orch.launching.worker.process import Stop
from orch.launching.worker.rendezvous import Meeting
from orch_core import provenance
from orch_core.grid.resources import Cluster
from orch_core.study import attempts
from orch_core.study.attempts import End
from orch_core.study.folder import create_study


def test_slurms_variables_determine_the_number_of_processes_of_a_cell():
    assert ranks.of_allocation({}) == ranks.ONE
    four_nodes = {"SLURM_JOB_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "8"}
    assert ranks.of_allocation(four_nodes).count == 32
    assert ranks.of_allocation({"SLURM_JOB_NUM_NODES": "4"}).count == 4  # nodes without GPUs


def test_gpus_are_dealt_out_to_cells_side_by_side():
    seen = [
        side_by_side.share_of(k, {"CUDA_VISIBLE_DEVICES": "4,5,7"})["CUDA_VISIBLE_DEVICES"] for k in range(5)
    ]
    assert seen == ["4", "5", "7", "4", "5"]
    assert side_by_side.share_of(0, {"CUDA_VISIBLE_DEVICES": ""}) == {}


@given(st.permutations(["network", "out_of_memory", "network", "code_error", "killed"]))
def test_of_ranks_that_failed_the_one_that_made_the_others_fail_is_blamed(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("ranks")
    for number, cause in enumerate(order):
        (folder / f"failed-{number}").write_text(json.dumps(asdict(End(how="failed", cause=cause))))
        assert ranks._failure(folder).cause == min(order[: number + 1], key=ranks.FIRST_CAUSES.index)
    (folder / "failed-9").write_text(json.dumps(asdict(End(how="fenced"))))
    assert ranks._failure(folder).how == "fenced"


@pytest.mark.parametrize(
    "words",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.7]:41231",
        "The server socket has failed to listen: EADDRINUSE: address already in use",
    ],
)
def test_a_lost_peer_is_the_networks_fault_and_tried_again(tmp_path, words):
    assert causes.cause_of(RuntimeError(words), tmp_path) == "network"
    assert not attempts.is_spent([End(how="failed", cause="network")], limit=3)


def test_a_process_killed_for_lack_of_memory_is_recognised(launching, tmp_path, monkeypatch):
    """The kernel counts such kills in /proc/vmstat, whatever the cluster knows."""
    vmstat = tmp_path / "vmstat"
    monkeypatch.setattr(claims, "VMSTAT", vmstat)
    study, jobs = create_study(tmp_path / "study", "s"), launching.jobs(2)
    found = []
    for job, kills in zip(jobs, (4, 5), strict=True):
        vmstat.write_text("pgfault 9\noom_kill 4\n")
        folder = study.cell_folder(job.cell.id)
        attempt = claims.claim(folder, replace(claims.current_owner("t", "w"), pid=1), 1)
        os.close(attempt.lock)
        vmstat.write_text(f"pgfault 9\noom_kill {kills}\n")
        main.record_death(study, ManifestEntry(id=job.cell.id, job=job), 1)
        found.append(attempts.end_of(attempt.folder).cause)
    assert found == ["killed", "out_of_memory"]


def test_ranks_end_when_one_dies_and_none_outlives_the_agent(tmp_path, monkeypatch):
    """Three processes that sleep: the second one is killed, and the agent ends the others."""
    folder = tmp_path / "ranks"
    folder.mkdir()
    config = ranks.RankConfig(root=str(tmp_path), cell="c", nodes=1, per_node=3, memory_plan={})
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    started = []
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]

    def start(*_):
        started.append(subprocess.Popen(sleep))
        return started[-1]

    monkeypatch.setattr(ranks, "_start_rank", start)
    looks = iter([False, False])

    def should_stop():
        if next(looks, True):
            started[1].send_signal(signal.SIGKILL)
        return False

    ranks.run_node(folder, 0, Meeting(address="127.0.0.1", port=1), "lo", should_stop)
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 3
    assert [path.name for path in folder.glob("failed-*")] == ["failed-1"]
    assert "rank 1" in ranks._failure(folder).message


@pytest.mark.parametrize(
    ("wanted", "here", "gpus"), [(8, 0, 1), (8, 2, 2), (2, 8, 2), (None, 8, 1), (0, 0, 1)]
)
def test_a_cell_takes_no_more_gpus_than_there_are_here(monkeypatch, wanted, here, gpus):
    monkeypatch.setattr(provenance, "gpus", lambda: ["a GPU"] * here)
    assert settings_of(Cluster(gpus_per_node=wanted), LaunchOptions()).gpus == gpus


def test_side_by_side_a_crash_gives_no_reason_and_the_weightiest_reason_counts(
    launching, tmp_path, monkeypatch
):
    assert side_by_side.side_by_side((str(tmp_path), "no such launch", "", "10"), 2, Stop()) == "signal"
    ends = iter(["finished", "deadline", "signal"])
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _, **how: real(["echo", f"some talk\n{next(ends)}\nlast talk"], **how)
    )
    assert side_by_side.side_by_side((), 3, Stop()) == "deadline"  # an unfinished one requeues the job
