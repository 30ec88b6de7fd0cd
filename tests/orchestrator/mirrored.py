"""What MLflow holds of a study, read through its client and by plain SQL."""

from __future__ import annotations

import contextlib
import sqlite3

from orch.tracking import track
from orch_core.study.folder import Study


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(study: Study, uri: str | None = None) -> dict:
    """Active runs by cell."""
    api = client(uri or track.local_uri(study))
    experiment = api.get_experiment_by_name("demo")
    runs = list(api.search_runs([experiment.experiment_id], max_results=1000))
    found = {run.data.tags["orch.cell"]: run for run in runs}
    assert len(found) == len(runs), "a cell has two runs"
    return found


def content(study: Study) -> dict[str, object]:
    """What the database says of active runs, ids and hashes of ids left out, to compare two databases."""
    queries = {
        "runs": "select t.value, r.name, r.status, r.start_time, r.end_time from runs r {tag}",
        "params": "select t.value, p.key, p.value from params p join runs r using (run_uuid) {tag}",
        "metrics": "select t.value, m.key, m.value, m.timestamp, m.step from metrics m join runs r using (run_uuid) {tag}",
        "latest": "select t.value, m.key, m.value from latest_metrics m join runs r using (run_uuid) {tag}",
        "tags": "select t.value, g.key, g.value from tags g join runs r using (run_uuid) {tag}",
        "inputs": "select t.value, d.name, d.digest from inputs i join runs r on i.destination_id = r.run_uuid"
        " join datasets d on d.dataset_uuid = i.source_id {tag}",
    }
    tag = "join tags t on t.run_uuid = r.run_uuid and t.key = 'orch.cell' where r.lifecycle_stage = 'active'"
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db")) as database:
        found = {key: sorted(database.execute(query.format(tag=tag))) for key, query in queries.items()}
    files = {}
    for run in runs_of(study).values():
        root = study.root / "mlruns" / run.info.run_id / "artifacts"
        for path in sorted(root.rglob("*")):
            if path.is_file():
                files[run.data.tags["orch.cell"], path.relative_to(root).as_posix()] = path.read_bytes()
    return found | {"files": files}
