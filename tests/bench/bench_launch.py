"""What a launch of many cells costs, as counts and ratios measured in one run; needs a Slurm (tests/slurm/cluster up).

    python tests/bench/bench_launch.py [--cells 10000] [--folder DIR]

Submits an array that is held, counts what was called and written, asks for the status, cancels, and compares
with submitit's one job a cell (its own 0.2 s between two submissions included), extrapolated from 10 of them.
Then a second study of as many trivial cells is run to its end by eight workers, and checked cell by cell.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orch.launching import journal, operations, slurm
from orch.launching.launch import launch_jobs
from orch.launching.settings import Settings
from orch.launching.status import entries_now, job_states, status
from orch.launching.waiting import summarise
from orch_core.files import dumps
from orch_core.grid.resources import ResourceClass
from orch_core.study.attempts import End
from orch_core.study.folder import Study, create_study, open_study
from orch_core.study.record import Reason, Record

DRIVER = Path(__file__).parents[1] / "orchestrator" / "launching.py"


def timed(call):
    began, cpu = time.monotonic(), time.process_time()
    result = call()
    return result, time.monotonic() - began, time.process_time() - cpu


def one_by_one(folder: Path, count: int) -> tuple[float, int]:
    """Seconds and files of `count` held jobs submitted by submitit one by one."""
    import submitit

    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(job_name="orch-bench", additional_parameters={"hold": True})
    _, seconds, _ = timed(lambda: [executor.submit(print, number) for number in range(count)])
    subprocess.run(["scancel", "--me", "--name=orch-bench"], check=True)
    return seconds, sum(path.is_file() for path in folder.rglob("*"))


def finish(study: Study, jobs, failed: int) -> None:
    """Leave the study as workers would: the first `failed` cells with a reason, the others with a record."""
    for number, job in enumerate(jobs):
        cell = job.cell.id
        attempt = study.cell_folder(cell) / "attempts" / "1"
        attempt.mkdir(parents=True)
        bad = number < failed
        end = End(how="failed", cause="code_error", message="a bug") if bad else End(how="done", seconds=1.0)
        (attempt / "end.json").write_text(dumps({name: getattr(end, name) for name in End.__slots__}))
        reason = Reason(cause="code_error", message="a bug", log="log.txt") if bad else None
        record = Record(cell=cell, name=job.cell.name, status="failed" if bad else "done", reason=reason)
        (attempt / "record.json" if bad else attempt.parents[1] / "record.json").write_text(
            dumps(record.to_json())
        )


def complete(root: Path, launching, count: int) -> None:
    """Run `count` trivial cells to their end, in a launch of its own process, and check each."""
    how = '{"cluster": "slurm", "parallel": 8, "classes": {"default": {"time": "120"}}}'
    command = [sys.executable, DRIVER, root, "--cells", count, "--tasks", "", "--settings", how]
    before = os.times()
    done, seconds, _ = timed(
        lambda: subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    )
    after = os.times()
    study, jobs = open_study(root), launching.jobs(count, tasks=())
    launching.check_complete(study, jobs)
    calls = [event.workers for event in journal.events(root) if event.step == "submitted"]
    attempts = sum(len(list(study.cell_folder(job.cell.id).glob("attempts/*"))) for job in jobs)
    cpu = sum(after[2:4]) - sum(before[2:4])
    print(
        f"{count} trivial cells done and right: {seconds:.0f} s, {count / seconds:.0f} cells/s, {len(calls)} sbatch, "
        f"{attempts} attempts; the waiting launcher took {cpu:.1f} s CPU, {len(done.stderr.splitlines())} lines"
    )
    ids = [job.cell.id for job in jobs]
    _, seconds, cpu = timed(lambda: status(study, jobs, ids=ids))
    print(f"status, all done: {seconds:.2f} s ({cpu:.2f} s CPU)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    spec = importlib.util.spec_from_file_location("launching", DRIVER)
    launching = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launching)
    root = Path(tempfile.mkdtemp(dir=arguments.folder))
    study, jobs = create_study(root / "study", "bench"), launching.jobs(arguments.cells, tasks=())
    how = Settings(cluster="slurm", classes={"default": ResourceClass(time="10", sbatch={"hold": True})})
    _, seconds, cpu = timed(lambda: launch_jobs(study, jobs, how, wait=False))
    files = sum(path.is_file() for path in study.root.rglob("*"))
    calls = sum(event.step == "submitted" for event in journal.events(study.root))
    tasks = sum(job.tasks for job in slurm.queue())
    print(
        f"{arguments.cells} cells: {calls} sbatch for {tasks} workers, {seconds:.2f} s ({cpu:.2f} s CPU), {files} files"
    )
    their_seconds, their_files = one_by_one(root / "submitit", 10)
    scale = arguments.cells / 10
    print(
        f"submitit one by one: {their_seconds * scale:.0f} s, {arguments.cells} sbatch, {their_files * scale:.0f} files"
    )
    print(f"ratio: {their_seconds * scale / seconds:.0f} in time, {their_files * scale / files:.0f} in files")
    operations.cancel(study)
    ids = [job.cell.id for job in jobs]
    _, seconds, cpu = timed(lambda: status(study, jobs, ids=ids))
    print(f"status, nothing done: {seconds:.2f} s ({cpu:.2f} s CPU)")
    finish(study, jobs, failed=1_000)
    _, seconds, cpu = timed(lambda: status(study, jobs, ids=ids))
    print(f"status, all done but 1,000 failed: {seconds:.2f} s ({cpu:.2f} s CPU)")
    states = job_states(study, entries_now(study, jobs))
    summary, seconds, cpu = timed(lambda: summarise(study, "", states, stopped=""))
    print(f"{len(summary.failures)} failures by cause: {seconds:.2f} s ({cpu:.2f} s CPU)")
    complete(root / "complete", launching, arguments.cells)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
