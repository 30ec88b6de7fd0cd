"""Cost of the mirror: `python tests/bench/bench_track.py [CELLS]`, ratios measured in one run.

Compares a sync of CELLS cells (4 probes, curves of 500 steps, artifacts) with MLflow's own three calls per run
(create, one batch of the same numbers, end) into a database of the same kind, and with a sync that finds nothing new.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import tempfile
import time
from pathlib import Path

from orch.tracking import mirror, track
from orch_core.study.folder import create_study

spec = importlib.util.spec_from_file_location(
    "records", Path(__file__).parents[1] / "orchestrator" / "conftest.py"
)
records = importlib.util.module_from_spec(spec)
spec.loader.exec_module(records)


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main(cells: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        study = create_study(Path(folder) / "study", "bench")
        for number in range(cells):
            records.record_cell(study, number)
        track.sync(create_study(Path(folder) / "warm", "warm"))  # imports and the first schema
        began = clock()
        track.sync(study)
        whole = clock()
        summary = track.sync(study)
        again = clock()
        assert summary.unchanged == cells
        bare(study, f"sqlite:///{folder}/warm/mlflow.db")
        plain = clock()
        entries = list(mirror.entries(study))
        listed = clock()
        assert len(entries) == cells
    marks = [began, whole, again, plain, listed]
    costs = [[after[kind] - before[kind] for before, after in itertools.pairwise(marks)] for kind in (0, 1)]
    for name, wall, cpu in zip(
        ("sync", "sync again", "three bare calls", "hashing the records"), *costs, strict=True
    ):
        ratio = f"{wall / costs[0][2]:5.2f} and {cpu / costs[1][2]:5.2f} of the bare calls"
        print(
            f"{name:>20}: {1000 * wall / cells:7.2f} ms wall, {1000 * cpu / cells:7.2f} ms CPU a run; {ratio}"
        )


def bare(study: records.Study, uri: str) -> None:
    from mlflow.entities import Metric, Param

    client = track._client(uri)
    experiment = client.create_experiment("bare")
    for entry in mirror.entries(study):
        document = mirror.document(study, entry)
        run = client.create_run(experiment, run_name=document.name).info.run_id
        metrics = [Metric(point.key, point.value, point.time, point.step) for point in document.points]
        client.log_batch(run, metrics=metrics, params=[Param(*pair) for pair in document.params.items()])
        client.set_terminated(run)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
