"""Cost of the mirror: `python tests/bench/bench_track.py [CELLS] [PROBES]`, ratios measured in one run.

Compares a sync of CELLS cells (PROBES probes each, curves of 500 steps, artifacts) with the same sync of 50 of them
through MLflow's client, and with a sync that finds nothing new. Prints the peak of memory of all.
"""

from __future__ import annotations

import importlib.util
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orch.tracking import track
from orch.tracking.track import writers
from orch_core.study.folder import Study, create_study

SAMPLE = 50

spec = importlib.util.spec_from_file_location(
    "records", Path(__file__).parents[1] / "orchestrator" / "conftest.py"
)
records = importlib.util.module_from_spec(spec)
spec.loader.exec_module(records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds of one sync, and what it did."""

    wall: float
    cpu: float
    summary: track.SyncSummary


def timed(work: Callable[[], track.SyncSummary]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    summary = work()
    return Cost(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu, summary=summary)


def by_client(study: Study) -> track.SyncSummary:
    chosen, track.writer_of = (
        track.writer_of,
        lambda client, study, *, local: writers.ClientWriter(
            client=client,
            experiment=writers.experiment_of(client, study, study.artifacts.resolve().as_uri()),
        ),
    )
    try:
        return track.sync(study)
    finally:
        track.writer_of = chosen


def main(cells: int, probes: int) -> None:
    records.TASKS.clear()
    records.TASKS.update({f"task{number}": 8 for number in range(probes)})
    with tempfile.TemporaryDirectory() as folder:
        sample, study = (create_study(Path(folder) / name, name) for name in ("sample", "study"))
        for number in range(SAMPLE):
            records.record_cell(sample, number)
        for number in range(cells):
            records.record_cell(study, number)
        track.sync(create_study(Path(folder) / "warm", "warm"))  # imports and the first schema
        for one in (sample, study):
            shutil.copy(Path(folder) / "warm" / "mlflow.db", one.root / "mlflow.db")
        client = timed(lambda: by_client(sample))
        first = timed(lambda: track.sync(study))
        again = timed(lambda: track.sync(study))
    assert (first.summary.added, again.summary.unchanged) == (cells, cells)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, cost, count in (
        ("client", client, SAMPLE),
        ("sync", first, cells),
        ("sync again", again, cells),
    ):
        ratio = (cost.cpu / count) / (client.cpu / SAMPLE)
        print(
            f"{name:>10}: {cost.wall:7.1f} s wall, {cost.cpu:7.1f} s CPU, "
            f"{1000 * cost.cpu / count:6.2f} ms CPU a run, {ratio:.3f} of the client's"
        )
    print(f"peak memory {memory:.0f} MB")


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] or ["300", "4"])))
