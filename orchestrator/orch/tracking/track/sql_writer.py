"""Writing runs by MLflow's table models, a hundred in one transaction: a run is there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from orch.tracking.mirror import MirroredRun
from orch.tracking.track.writers import (
    BASE,
    DIGEST,
    KEY,
    STATUS,
    KnownRun,
    dataset_input,
    experiment_of,
    link_files,
    run_tags,
)
from orch_core.study.folder import Study

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from sqlalchemy import Connection, Engine

Row = dict[str, Any]
CACHE_KIB = 200_000  # of SQLite, whose indexes of many runs are larger than its usual 2 MB
ID_LENGTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """A run with its id in the store. replaced: id of the run of the same cell that it takes the place of."""

    run: MirroredRun
    id: str
    is_new: bool
    replaced: str = ""


class SqlWriter:
    """The writer for databases."""

    def __init__(self, client: MlflowClient, study: Study, engine: Engine, *, local: bool) -> None:
        place = study.artifacts.resolve().as_uri()
        self._client, self._engine = client, engine
        self._experiment = experiment_of(client, study, place if local else None)
        if local:
            if self._experiment.artifact_location != place:
                self._move_artifacts(self._experiment.artifact_location, place)
                self._experiment = client.get_experiment(self._experiment.experiment_id)
            self._remove_files_without_run(study.artifacts)

    @property
    def experiment(self) -> Experiment:
        """MLflow's experiment."""
        return self._experiment

    def known_runs(self) -> dict[str, KnownRun]:
        """The runs by key."""
        import sqlalchemy as sa
        from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag

        query: Any = (
            sa.select(SqlTag.run_uuid, SqlTag.key, SqlTag.value)
            .join(SqlRun, SqlRun.run_uuid == SqlTag.run_uuid)
            .where(SqlRun.experiment_id == self._number, SqlRun.lifecycle_stage == "active")
            .where(SqlTag.key.in_([KEY, BASE, DIGEST]))
        )
        tags: dict[str, dict[str, str]] = {}
        with self._engine.connect() as connection:
            for run, key, value in connection.execute(query):
                tags.setdefault(run, {})[key] = value
        known: dict[str, KnownRun] = {}
        for run, one in tags.items():
            if KEY in one:
                found = KnownRun(id=run, base=one.get(BASE, ""), digest=one.get(DIGEST, ""))
                other = known.setdefault(one[KEY], found)
                if other is not found:
                    self._client.delete_run((found if other.digest else other).id)
                    known[one[KEY]] = other if other.digest else found
        return known

    def write(self, batch: Sequence[MirroredRun], known: Mapping[str, KnownRun]) -> None:
        """Copy the files of some runs, then write all their rows in one transaction."""
        targets = [_target(run, known.get(run.key)) for run in batch]
        for target in targets:
            self._upload(target)
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "sqlite":
                connection.exec_driver_sql(f"PRAGMA cache_size = -{CACHE_KIB}")
            self._retire(connection, targets)
            self._insert_runs(connection, targets)
            _insert_metrics(connection, targets)
            _insert_pairs(connection, targets)
            self._insert_datasets(connection, targets)

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment."""
        for key, value in tags.items():
            self._client.set_experiment_tag(self._experiment.experiment_id, key, value)

    @property
    def _number(self) -> int:
        return int(self._experiment.experiment_id)

    def _artifacts(self, run_id: str) -> str:
        return f"{self._experiment.artifact_location}/{run_id}/artifacts"

    def _move_artifacts(self, old: str, new: str) -> None:
        """Let the runs of a study that was copied or moved have their files where the study is now."""
        import sqlalchemy as sa
        from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun

        tail = sa.func.substr(SqlRun.artifact_uri, len(old) + 1)
        moved = sa.update(SqlRun).where(SqlRun.artifact_uri.startswith(f"{old}/", autoescape=True))
        placed = sa.update(SqlExperiment).where(SqlExperiment.experiment_id == self._number)
        with self._engine.begin() as connection:
            connection.execute(
                moved.where(SqlRun.experiment_id == self._number).values(artifact_uri=sa.literal(new) + tail)
            )
            connection.execute(placed.values(artifact_location=new))

    def _remove_files_without_run(self, folder: Path) -> None:
        """Remove the artifacts of runs that were not written because a sync was killed."""
        import sqlalchemy as sa
        from mlflow.store.tracking.dbmodels.models import SqlRun

        with self._engine.connect() as connection:
            ids: set[str] = set(connection.execute(sa.select(SqlRun.run_uuid)).scalars())
        for path in folder.iterdir() if folder.is_dir() else ():
            if len(path.name) == ID_LENGTH and path.name not in ids and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)

    def _upload(self, target: _Target) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = self._artifacts(target.id)
        if uri.startswith(("file:", "/")):
            root = Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri)
            for place in {place for _, place in target.run.files}:
                (root / place).mkdir(parents=True, exist_ok=True)
            for path, place in target.run.files:
                shutil.copyfile(path, root / place / path.name)
        elif target.run.files:
            with tempfile.TemporaryDirectory(prefix="orch-sync-") as folder:
                link_files(target.run.files, Path(folder))
                repository: Any = get_artifact_repository(uri)
                repository.log_artifacts(folder)

    def _retire(self, connection: Connection, targets: Iterable[_Target]) -> None:
        """Delete replaced runs, as MLflow does, and what runs that are completed had under the same keys."""
        import sqlalchemy as sa
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag

        now = round(1000 * time.time())
        for target in targets:
            run = target.run
            if target.replaced:
                deleted = {"lifecycle_stage": "deleted", "deleted_time": now}
                connection.execute(
                    sa.update(SqlRun).where(SqlRun.run_uuid == target.replaced).values(deleted)
                )
            if not target.is_new:
                metrics = {one.key for one in run.metrics}
                tags = {KEY, BASE, DIGEST, "mlflow.user", *run.tags}
                keys = (
                    (SqlMetric, metrics),
                    (SqlLatestMetric, metrics),
                    (SqlParam, run.params),
                    (SqlTag, tags),
                )
                for table, names in keys:
                    connection.execute(
                        sa.delete(table).where(table.run_uuid == target.id, table.key.in_(list(names)))
                    )

    def _insert_runs(self, connection: Connection, targets: Iterable[_Target]) -> None:
        import sqlalchemy as sa
        from mlflow.store.tracking.dbmodels.models import SqlRun

        new = []
        for target in targets:
            run = target.run
            if target.is_new:
                new.append(
                    {
                        "run_uuid": target.id,
                        "name": run.name,
                        "artifact_uri": self._artifacts(target.id),
                        "experiment_id": self._number,
                        "source_type": "UNKNOWN",
                        "source_name": "",
                        "entry_point_name": "",
                        "source_version": "",
                        "user_id": run_tags(run)["mlflow.user"],
                        "status": STATUS[run.state],
                        "start_time": run.start,
                        "end_time": run.end,
                        "lifecycle_stage": "active",
                    }
                )
            else:
                ended = {"status": STATUS[run.state], "end_time": run.end}
                connection.execute(sa.update(SqlRun).where(SqlRun.run_uuid == target.id).values(ended))
        _insert(connection, SqlRun, new)

    def _insert_datasets(self, connection: Connection, targets: Iterable[_Target]) -> None:
        """Data sets that the experiment does not have yet, and the runs that read them."""
        import sqlalchemy as sa
        from mlflow.store.tracking.dbmodels.models import SqlDataset, SqlInput, SqlInputTag

        query: Any = sa.select(SqlDataset.name, SqlDataset.digest, SqlDataset.dataset_uuid)
        found = connection.execute(query.where(SqlDataset.experiment_id == self._number))
        ids: dict[tuple[str, str], str] = {(name, digest): uuid for name, digest, uuid in found}
        old = [target.id for target in targets if not target.is_new]
        pairs: Any = sa.select(SqlInput.source_id, SqlInput.destination_id)
        linked = {tuple(pair) for pair in connection.execute(pairs.where(SqlInput.destination_id.in_(old)))}
        datasets, inputs, tags = [], [], []
        for target in targets:
            for one in map(dataset_input, target.run.datasets):
                key = (one.dataset.name, one.dataset.digest)
                if key not in ids:
                    ids[key] = uuid4().hex
                    datasets.append(_dataset_row(one.dataset, self._number, ids[key]))
                if (ids[key], target.id) not in linked:
                    linked.add((ids[key], target.id))
                    inputs.append(_input_row(ids[key], target.id))
                    tags += [
                        {"input_uuid": inputs[-1]["input_uuid"], "name": tag.key, "value": tag.value}
                        for tag in one.tags
                    ]
        for table, rows in ((SqlDataset, datasets), (SqlInput, inputs), (SqlInputTag, tags)):
            _insert(connection, table, rows)


def _target(run: MirroredRun, old: KnownRun | None) -> _Target:
    if old and old.base == run.base:
        return _Target(run=run, id=old.id, is_new=False)
    return _Target(run=run, id=uuid4().hex, is_new=True, replaced=old.id if old else "")


def _insert_metrics(connection: Connection, targets: Iterable[_Target]) -> None:
    """Every value once, and by key the last one by step, time and value, as MLflow does."""
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric

    rows: list[Row] = []
    latest: list[Row] = []
    for target in targets:
        last: dict[str, tuple[int, int, float]] = {}
        for key, step, moment, value in dict.fromkeys(
            (one.key, one.step, one.time, one.value) for one in target.run.metrics
        ):
            rows.append(_metric_row(target.id, key, step, moment, value))
            last[key] = max(last.get(key, (step, moment, value)), (step, moment, value))
        latest += [_metric_row(target.id, key, *found) for key, found in last.items()]
    _insert(connection, SqlMetric, rows)
    _insert(connection, SqlLatestMetric, latest)


def _insert_pairs(connection: Connection, targets: Iterable[_Target]) -> None:
    """Params and tags."""
    from mlflow.store.tracking.dbmodels.models import SqlParam, SqlTag

    params, tags = [], []
    for target in targets:
        run = target.run
        params += [{"run_uuid": target.id, "key": key, "value": value} for key, value in run.params.items()]
        pairs = {**run_tags(run), DIGEST: run.digest}
        if target.is_new:
            pairs["mlflow.runName"] = run.name
        tags += [{"run_uuid": target.id, "key": key, "value": value} for key, value in pairs.items()]
    _insert(connection, SqlParam, params)
    _insert(connection, SqlTag, tags)


def _insert(connection: Connection, table: Any, rows: list[Row]) -> None:
    if rows:
        connection.execute(table.__table__.insert(), rows)


def _metric_row(run: str, key: str, step: int, moment: int, value: float) -> Row:
    return {"run_uuid": run, "key": key, "value": value, "timestamp": moment, "step": step, "is_nan": False}


def _dataset_row(dataset: Any, experiment: int, uuid: str) -> Row:
    return {
        "dataset_uuid": uuid,
        "experiment_id": experiment,
        "name": dataset.name,
        "digest": dataset.digest,
        "dataset_source_type": dataset.source_type,
        "dataset_source": dataset.source,
        "dataset_profile": dataset.profile,
    }


def _input_row(dataset: str, run: str) -> Row:
    return {
        "input_uuid": uuid4().hex,
        "source_type": "DATASET",
        "source_id": dataset,
        "destination_type": "RUN",
        "destination_id": run,
    }
