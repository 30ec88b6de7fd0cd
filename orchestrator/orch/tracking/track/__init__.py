"""The study's mirror in MLflow; the only package that imports mlflow.

The study folder is the truth; what is written here can be deleted and rebuilt. One process writes at a
time (a file lock in the study). A run is keyed by its cell's id and carries the hash of the records it was
made from: one without that hash was cut short and is completed by the next sync.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from orch.answer import Answer
from orch.tracking import pages
from orch.tracking.mirror import RunSource, read_run, run_labels, run_sources
from orch.tracking.stores import local_uri, network_filesystem, readable_by_mlflow, single_writer
from orch.tracking.track.connection import connect, explained, open_database
from orch.tracking.track.experiment_points import read_points
from orch.tracking.track.sql_writer import SqlWriter
from orch.tracking.track.writers import ClientWriter, KnownRun, Writer, experiment_of
from orch_core.errors import OrchError
from orch_core.formatting import without_credentials
from orch_core.study.folder import Study

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["SyncSummary", "local_uri", "network_filesystem", "read_points", "sync"]

BATCH = 100  # runs written at once


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSummary(Answer):
    """The result of a sync: numbers of runs, and a line for each record that could not be read."""

    uri: str
    experiment: str
    added: int
    updated: int
    unchanged: int
    unreadable: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The summary as one JSON document."""
        return asdict(self)

    @property
    def text(self) -> str:
        """The counts for the terminal, with a line for every record that could not be read."""
        counts = f"{self.added} added, {self.updated} updated, {self.unchanged} unchanged"
        lines = [f"MLflow runs of {self.experiment!r}: {counts} ({self.uri})"]
        return "\n".join(lines + [f"left out, cannot be read: {text}" for text in self.unreadable])


def sync(study: Study, tracking_uri: str | None = None) -> SyncSummary:
    """Bring MLflow up to date with the study folder; repeating it changes nothing.

    tracking_uri: None for the study's SQLite file; otherwise any URI that MLflow takes (`http://host:5000`,
                  `sqlite:///...`).
    Raises OrchError if another sync is running, or the store is busy, cannot be reached or has another
    schema.
    """
    with single_writer(study):
        if tracking_uri is not None:
            with explained(tracking_uri):
                return _sync(study, tracking_uri, tracking_uri, local=False)
        for unfinished in study.root.glob(".mlflow.*/"):  # left by a sync that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
        with readable_by_mlflow(study) as uri, explained(local_uri(study), uri):
            return _sync(study, uri, local_uri(study), local=True)


def _sync(study: Study, uri: str, shown: str, *, local: bool) -> SyncSummary:
    open_database(uri)
    client = connect(uri)
    writer = writer_of(client, study, local=local)
    known, unreadable = writer.known_runs(), []
    counts = {"added": 0, "updated": 0, "unchanged": 0}
    changed = _changed(run_sources(study), known, counts)
    while batch := list(islice(changed, BATCH)):
        runs = []
        for source in batch:
            try:
                runs.append(read_run(study, source))
            except OrchError as error:
                unreadable.append(error.message.removeprefix(f"{study.root}/"))
        unreadable += [line for run in runs for line in run.damaged]
        writer.write(runs, known)
        for run in runs:
            counts["updated" if run.key in known else "added"] += 1
    if counts["added"] or counts["updated"]:
        _describe(writer, study)
    return SyncSummary(
        uri=without_credentials(shown), experiment=study.name, unreadable=tuple(unreadable), **counts
    )


def writer_of(client: MlflowClient, study: Study, *, local: bool) -> Writer:
    """The writer of a study's experiment, which is made or restored if necessary."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = client._tracking_client.store  # MLflow has no public name for it
    if isinstance(store, SqlAlchemyStore):
        return SqlWriter(client, study, store.engine, local=local)
    return ClientWriter(client=client, experiment=experiment_of(client, study, None))


def _changed(
    sources: Iterator[RunSource], known: dict[str, KnownRun], counts: dict[str, int]
) -> Iterator[RunSource]:
    """The sources whose run is missing or of other files; the others are counted."""
    for source in sources:
        if source.key in known and known[source.key].digest == source.digest:
            counts["unchanged"] += 1
        else:
            yield source


def _describe(writer: Writer, study: Study) -> None:
    """The experiment's page: its description, and saved views of the runs table."""
    labels = list(run_labels(study))
    tasks = {task for one in labels for task in one["tasks"].split(",") if task}
    views = pages.views(tasks, writer.experiment.creation_time or 0)
    writer.tag_experiment(
        {
            **{f"mlflow.sharedViewState.{key}": view for key, view in views.items()},
            "mlflow.note.content": pages.description(study, labels),
            "mlflow.experimentKind": "custom_model_development",
        }
    )
