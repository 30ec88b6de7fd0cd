"""Workers that something else starts, on a shared folder, and workers that nobody waits for."""

import json
import os
import signal

import pytest

from orch.launching import journal
from orch.launching.worker import spending
from orch.launching.worker.spending import Spending
from orch_core.study import attempts
from orch_core.study.folder import create_study, open_study

BY_HAND = json.dumps({"cluster": "worker"})


def test_workers_started_by_hand_finish_a_study_once_though_one_is_killed(launching, start, tmp_path):
    how = ("--cells", 9, "--pause", 0.05, "--settings", BY_HAND)
    jobs = launching.jobs(9, pause=0.05)
    workers = [start(tmp_path, *how) for _ in range(3)]
    study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
    launching.until(lambda: launching.steps_seen(study, jobs) > 20)
    (first, *_) = launching.workers(tmp_path)
    os.kill(first.pid, signal.SIGKILL)
    killed = next(worker for worker in workers if worker.pid == first.pid)
    others = [worker for worker in workers if worker is not killed]
    summaries = [launching.finish(worker) for worker in others]
    assert [summary["done"] for summary in summaries] == [9, 9]
    launching.check_complete(study, jobs)
    hands = {attempts.owner_of(path.parent).pid for path in tmp_path.glob("cells/*/attempts/*/owner.json")}
    assert hands == {worker.pid for worker in workers}  # each did a part
    assert launching.finish(start(tmp_path, *how)) == {**summaries[0], "token": "", "done": 0}


def test_sigterm_has_a_worker_save_and_a_new_one_go_on(launching, start, tmp_path):
    how = ("--cells", 1, "--pause", 0.2, "--settings", BY_HAND)
    jobs = launching.jobs(1, pause=0.2)
    worker = start(tmp_path, *how)
    study = launching.until(lambda: (tmp_path / "study.json").exists() and open_study(tmp_path))
    launching.until(lambda: launching.steps_seen(study, jobs) > 3)
    worker.terminate()
    assert launching.finish(worker, 130)["remaining"] == 1
    launching.finish(start(tmp_path, *how))
    launching.check_complete(study, jobs)
    lines = launching.audit(study, jobs[0])
    (stopped,) = (line["stopped"] for line in lines if "stopped" in line)
    assert [line["begin"] for line in lines if "begin" in line] == [0, stopped]


def test_workers_that_nobody_waits_for_keep_to_the_limit_of_device_hours(launching, start, tmp_path):
    how = json.dumps({"cluster": "local", "parallel": 2, "max_gpu_hours": 0.002})  # 7.2 s
    arguments = ("--cells", 6, "--pause", 0.5)
    launching.finish(start(tmp_path, *arguments, "--settings", how, "--no-wait"))
    study, jobs = open_study(tmp_path), launching.jobs(6, pause=0.5)
    launching.until(lambda: not launching.workers(tmp_path))
    (token,) = journal.tokens(tmp_path)
    assert 7.2 < spending.spent(tmp_path, token) < 30
    ends = [attempts.end_of(path.parent) for path in tmp_path.glob("cells/*/attempts/*/end.json")]
    assert {end.cause for end in ends if end.how == "stopped"} == {"budget"}
    assert len(list(tmp_path.glob("cells/*/record.json"))) < 6
    launching.finish(start(tmp_path, "--cells", 6, "--pause", 0.5, "--settings", '{"parallel": 6}'))
    launching.check_complete(study, jobs)


@pytest.mark.parametrize(("most", "over"), [(99.0, False), (10.0, True)])
def test_a_worker_adds_up_what_all_have_counted(tmp_path, most, over):
    create_study(tmp_path, "s")
    folder = tmp_path / "launches" / "t" / "spent"
    folder.mkdir(parents=True)
    (folder / "a").write_text("4.0")
    (folder / "b").write_text("8.0")
    (folder / ".c-half-written").write_text("9")
    one = Spending(root=tmp_path, token="t", worker="c", most=most)
    assert one.is_over() is over
    assert spending.spent(tmp_path, "t") == pytest.approx(12.0, abs=0.1)
