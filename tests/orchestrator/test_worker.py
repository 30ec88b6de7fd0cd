"""Attempts: claimed by one, fenced by the next, buried when dead, and counted against a cell with care."""

import json
import multiprocessing
import os
import time
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch.launching import journal
from orch.launching.worker import causes, claims, main, training
from orch.launching.worker.process import Stop
from orch_core.cell import Cell, Job
from orch_core.errors import OrchError
from orch_core.study import attempts
from orch_core.study.attempts import End
from orch_core.study.folder import create_study


@pytest.fixture
def owner():
    return claims.current_owner("20260101-000000-abcdef01", "w0")


def _try_to_claim(folder, start, results):
    owner = claims.current_owner("20260101-000000-abcdef01", "w")
    start.wait()
    results.put(claims.claim(folder, owner, 1) is not None)


def test_of_many_claims_at_once_one_wins(tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=_try_to_claim, args=(tmp_path, start, results)) for _ in range(12)]
    for process in processes:
        process.start()
    start.set()
    won = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert sum(won) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["attempts"]  # the losers' drafts are gone


def test_an_attempt_is_busy_while_held_dead_when_dropped_and_claimable_when_buried(tmp_path, owner):
    attempt = claims.claim(tmp_path, owner, 1)
    assert attempts.claimability(tmp_path, after=0, limit=3) == ("busy", 1)
    os.close(attempt.lock)  # what the kernel does when a process dies
    assert attempts.claimability(tmp_path, after=0, limit=3) == ("dead", 1)
    assert claims.record_crash(tmp_path, 1).cause == "killed"
    assert claims.record_crash(tmp_path, 1) is None
    assert attempts.claimability(tmp_path, after=0, limit=3) == ("claim", 1)


def test_a_later_attempt_fences_the_earlier_one(tmp_path, owner):
    first = claims.claim(tmp_path, owner, 1)
    assert claims.is_newest(first)
    second = claims.claim(tmp_path, owner, 2)
    assert not claims.is_newest(first)
    assert claims.is_newest(second)


def test_a_fenced_attempt_neither_saves_nor_publishes(launching, fake_learn, tmp_path, monkeypatch):
    study = create_study(tmp_path, "s")
    (job,) = launching.jobs(1, pause=0.01)
    entry = journal.ManifestEntry(id=job.cell.id, job=job)
    token = journal.new_token()
    launch = journal.Launch(token=token, created=0.0)
    journal.begin(study, launch, [entry])
    context = training.WorkerContext(
        study=study,
        launch=launch,
        owner=claims.current_owner(token, "w0"),
        stop=Stop(),
        redirect=False,
    )
    folder = study.cell_folder(entry.id)
    real = claims.is_newest

    def overtaken(attempt):
        if attempt.number == 1 and not (folder / "attempts" / "2").exists():
            claims.claim(folder, replace(context.owner, worker="w1"), 2)
        return real(attempt)

    monkeypatch.setattr(claims, "is_newest", overtaken)
    assert main.walk_manifest(context, [entry]) == "finished"
    assert attempts.end_of(folder / "attempts" / "1").how == "fenced"
    assert not (folder / "record.json").exists()
    assert not list((folder / "checkpoint").glob("*"))


@pytest.mark.parametrize(
    ("first", "saved", "end"),
    [(True, False, "timeout"), (True, True, "deadline"), (False, False, "deadline")],
)
def test_a_job_too_short_to_save_anything_is_a_timeout_so_that_the_next_is_longer(
    launching, fake_learn, tmp_path, monkeypatch, first, saved, end
):
    """It would be requeued, and end in the same way, for ever."""
    from orch_core import learn

    study = create_study(tmp_path, "s")
    (job,) = launching.jobs(1)
    entry = journal.ManifestEntry(id=job.cell.id, job=job)
    launch = journal.Launch(token=journal.new_token(), created=0.0)
    journal.begin(study, launch, [entry])
    owner, stop = claims.current_owner(launch.token, "w0"), Stop(reason="deadline")
    context = training.WorkerContext(
        study=study, launch=launch, owner=owner, stop=stop, redirect=False, first=first
    )

    def pretrain(cell, folder, **_):
        if saved:
            (folder / "checkpoint").mkdir()
            (folder / "checkpoint" / "state").touch()
        raise learn.Stopped

    monkeypatch.setattr(learn, "pretrain", pretrain)
    attempt = claims.claim(study.cell_folder(entry.id), owner, 1)
    assert training.attempt_cell(context, entry, attempt).cause == end
    failures = [record.reason.cause for record in study.failures()]
    assert failures == (["timeout"] if end == "timeout" else [])


def test_a_worker_without_time_to_begin_does_not_come_back(launching, fake_learn, tmp_path, monkeypatch):
    study = create_study(tmp_path, "s")
    entries = [journal.ManifestEntry(id=job.cell.id, job=job) for job in launching.jobs(1)]
    launch = journal.Launch(token=journal.new_token(), created=0.0)
    journal.begin(study, launch, entries)
    context = training.WorkerContext(
        study=study, launch=launch, owner=claims.current_owner(launch.token, "w0"), stop=Stop(deadline=0.0)
    )
    assert main.walk_manifest(context, entries) == "too_short"
    assert not study.cell_folder(entries[0].id).exists()


def test_a_silent_owner_on_another_machine_is_dead_only_after_missed_heartbeats(tmp_path, owner):
    elsewhere = replace(owner, machine="another kernel", started=time.time() + 1e6)  # its clock is wrong
    attempt = claims.claim(tmp_path, elsewhere, 1)
    os.close(attempt.lock)  # locks are not always seen from elsewhere
    assert attempts.claimability(tmp_path, after=0, limit=3) == ("busy", 1)
    old = time.time() - attempts.STALE_SECONDS - 1
    os.utime(attempt.folder / "log.txt", (old, old))
    assert attempts.claimability(tmp_path, after=0, limit=3) == ("dead", 1)


def test_a_newer_workers_words_are_understood(tmp_path, owner):
    attempt = claims.claim(tmp_path, owner, 1)
    for name, document in (("owner.json", asdict(owner)), ("end.json", asdict(End(how="done")))):
        (attempt.folder / name).write_text(json.dumps({**document, "colour": "red"}))
    assert attempts.owner_of(attempt.folder) == owner
    assert attempts.end_of(attempt.folder) == End(how="done")


def test_a_damaged_owner_and_leftovers_of_killed_processes_stop_nobody(tmp_path, owner):
    (tmp_path / "attempts" / "1").mkdir(parents=True)
    (tmp_path / "attempts" / "1" / "owner.json").write_text('{"tok')
    (tmp_path / ".claim-stale").mkdir()
    (tmp_path / ".record.json.stale").write_text("{")
    verdict, newest = attempts.claimability(tmp_path, after=0, limit=3)
    assert (verdict, newest) == ("dead", 1)
    assert claims.record_crash(tmp_path, 1)
    assert claims.claim(tmp_path, owner, 2)


failed = st.builds(
    End,
    how=st.just("failed"),
    cause=st.sampled_from(sorted(attempts.RETRIED)),
    progress=st.booleans(),
)
free = st.builds(
    End, how=st.just("failed"), cause=st.sampled_from(sorted(attempts.FREE)), progress=st.booleans()
)
stopped = st.builds(End, how=st.sampled_from(["stopped", "done", "fenced"]))


@given(ends=st.lists(st.one_of(failed, free, stopped), max_size=12), limit=st.integers(1, 4))
def test_a_cell_is_spent_after_that_many_failures_in_a_row_without_progress(ends, limit):
    marks = "".join(
        "p" if end.progress else "x" for end in ends if end.how == "failed" and end.cause in attempts.RETRIED
    )
    longest_at_the_end = len(marks) - len(marks.rstrip("x"))
    assert attempts.is_spent(ends, limit) == (longest_at_the_end >= limit)


@given(
    before=st.lists(st.one_of(failed, free, stopped), max_size=4),
    cause=st.sampled_from(["code_error", "bad_data"]),
)
def test_errors_that_come_back_are_not_tried_again(before, cause):
    assert attempts.is_spent([*before, End(how="failed", cause=cause, progress=True)], 3)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OrchError("tissue.npz is truncated"), "bad_data"),
        (MemoryError(), "out_of_memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
        ),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB"),
            "out_of_memory",
        ),
        (OSError(28, "No space left on device"), "disk_full"),
        (OSError(122, "Disk quota exceeded"), "disk_full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk_full"),
        (FileNotFoundError(2, "No such file or directory", "/nowhere"), "code_error"),
        (PermissionError(13, "Permission denied", "/etc/shadow"), "code_error"),
        (ValueError("shapes do not match"), "code_error"),
    ],
)
def test_causes(error, cause, tmp_path):
    assert causes.cause_of(error, tmp_path) == cause


def test_the_same_bug_has_the_same_signature_whatever_its_words(tmp_path):
    def bug(what):
        raise ValueError(what)

    def signature(call, what):
        try:
            call(what)
        except ValueError as error:
            return causes.signature_of(error)

    def other(what):
        raise ValueError(what)

    assert signature(bug, "cell 1") == signature(bug, "cell 2")
    assert signature(bug, "cell 1") != signature(other, "cell 1")


def test_the_workers_lock_file_names_it_while_it_lives(tmp_path, owner):
    path = tmp_path / "w0.json"
    lock = claims.lock_file(path, json.dumps(asdict(owner)))
    assert attempts.is_held(path)
    assert attempts.read_owner(path) == owner
    os.close(lock)
    assert not attempts.is_held(path)


@pytest.mark.parametrize(
    ("planned", "processes", "ooms", "expected"),
    [
        ((0, False), 1, 0, (0, False)),
        ((16, False), 1, 0, (16, False)),
        ((64, False), 1, 0, (0, False)),  # the whole batch fits
        ((16, False), 1, 2, (4, False)),
        ((0, False), 4, 1, (8, False)),
        ((1, True), 1, 0, (1, True)),
        ((2, False), 1, 2, (1, True)),  # one image was too much
    ],
)
def test_a_cell_is_trained_as_planned_and_by_halves_after_memory_was_short(
    planned, processes, ooms, expected
):
    cell = Cell(model=None, recipe="pixels@1", resolution=28, patch=7, channels=1, samples_seen=640, batch=64)
    job = Job(cell=cell, micro_batch=planned[0], checkpointing=planned[1])
    memory_plan = training.memory_plan_of(job, processes, ooms)
    assert (memory_plan.micro_batch, memory_plan.checkpointing) == expected
