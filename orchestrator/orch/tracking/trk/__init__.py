"""The study's mirror in MLflow; the only module that imports mlflow.

The study folder is the truth; what is written here can be deleted and rebuilt. One process writes at a
time (a file lock in the study). A run is keyed by its cell's id and carries, as its last tag, the hash of the
records it was made from: a run without it was cut short and is completed by the next sync.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from orch.answer import Answer
from orch.tracking import mirror, pages
from orch_core.errors import OrchError
from orch_core.study.folder import Study

if TYPE_CHECKING:
    import polars as pl
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

KEY, BASE, DIGEST = "orch.cell", "orch.base", "orch.digest"
LOCK_SECONDS = 10.0
PAGE = 1000
NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse.",
    "9p",
    "afs",
    "panfs",
    "orangefs",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSummary(Answer):
    """The result of a sync: numbers of runs, and the paths of records that could not be read."""

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


def local_uri(study: Study) -> str:
    """The tracking URI of the MLflow database in the study."""
    return f"sqlite:///{study.root.resolve() / 'mlflow.db'}"


def sync(study: Study, tracking_uri: str | None = None) -> SyncSummary:
    """Bring MLflow up to date with the study folder; running it again changes nothing.

    tracking_uri: None for the study's SQLite file; otherwise any URI that MLflow takes (`http://host:5000`,
                  `sqlite:///...`).
    Raises OrchError if another sync is running, or the store is busy, cannot be reached or has another
    schema.
    """
    uri = tracking_uri or local_uri(study)
    with _single_writer(study), _explained(uri):
        for unfinished in study.root.glob(".mlflow.*/"):  # left by a sync that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
        _make_ready(uri)
        client = _client(uri)
        experiment = _experiment(client, study, local=tracking_uri is None)
        known = _known_runs(client, experiment)
        counts = {"added": 0, "updated": 0, "unchanged": 0}
        unreadable: list[str] = []
        for entry in mirror.entries(study):
            run = known.get(entry.key)
            if run and run.data.tags.get(DIGEST) == entry.digest:
                counts["unchanged"] += 1
                continue
            try:
                document = mirror.document(study, entry)
            except (ValueError, KeyError, TypeError) as error:
                unreadable.append(f"{entry.run.relative_to(study.root)}: {type(error).__name__}: {error}")
                continue
            _write(client, experiment, entry, document, run)
            counts["updated" if run else "added"] += 1
        if counts["added"] or counts["updated"]:
            _describe(client, study, experiment)
    return SyncSummary(uri=uri, experiment=study.name, unreadable=tuple(unreadable), **counts)


def read_points(uri: str, experiment: str) -> pl.DataFrame:
    """An MLflow experiment as a table: one row per (run, task), numbers as floats.

    Columns are `cell`, `name`, `task`, the params, the metrics, and for metrics named `<score>/<task>` the
    score. A run without such metrics gives one row with `task` empty. Runs that are not finished are left
    out. Raises OrchError if the store or the experiment does not exist.
    """
    import polars as pl

    with _explained(uri):
        client = _client(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = ", ".join(sorted(entry.name for entry in client.search_experiments())) or "none"
            message = f"{uri} has no experiment {experiment!r}"
            raise OrchError(message, hint=f"experiments there: {names}")
        runs = [run for run in _runs(client, found.experiment_id) if run.info.status == "FINISHED"]
    rows = [row for run in runs if run.data.tags.get("orch.kind") != "analysis" for row in _rows(run)]
    keys = dict.fromkeys(key for row in rows for key in row)
    return pl.DataFrame({key: _column([row.get(key) for row in rows]) for key in keys})


def network_filesystem(path: Path) -> str | None:
    """The type of the network file system of `path`; None on a local disk, or if /proc does not show it."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    mounts = {fields[1]: fields[2] for fields in (line.split() for line in lines) if len(fields) > 2}
    place = path.resolve()
    kind = next((mounts[str(parent)] for parent in (place, *place.parents) if str(parent) in mounts), "")
    return kind if kind.startswith(NETWORK) else None


@contextlib.contextmanager
def _single_writer(study: Study) -> Iterator[None]:
    lock = filelock.FileLock(study.root / ".mlflow.lock", timeout=LOCK_SECONDS)
    try:
        with lock:
            yield
    except filelock.Timeout as error:
        message = f"another `orch sync` is writing the mirror of {study.root}"
        raise OrchError(message, hint="wait for it to end, then run `orch sync` again") from error
    except OSError as error:
        message = f"cannot write the mirror of {study.root}: {error.strerror or error}"
        hint = "make the study writable or free some disk, then run `orch sync` again; no record was touched"
        raise OrchError(message, hint=hint) from error


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Give MLflow's and SQLite's complaints their remedy."""
    _quiet()
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        _check_reachable(uri)
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"MLflow at {uri}: {text}"
        raise OrchError(message, hint=_remedy(uri, str(error))) from error


def _remedy(uri: str, text: str) -> str:
    if any(word in text for word in ("schema", "locate revision", "no such column", "not a database")):
        own = "delete mlflow.db and run `orch sync`, which rebuilds it from the study"
        return (
            f"it is damaged or of another MLflow version: {own}; or run `mlflow db upgrade {uri}` on a copy"
        )
    if "locked" in text or "busy" in text:
        return "another program is writing there: close it and run `orch sync` again"
    if "disk" in text or "full" in text:
        return "free some disk and run `orch sync` again; no record was touched"
    if uri.startswith("http"):
        return "check the address and the server; `orch sync` without --tracking-uri writes into the study"
    return "check the URI; `orch sync` without --tracking-uri writes into the study"


def _quiet() -> None:
    """Turn off telemetry, minutes of retries and logs of migrations, unless the user has set them."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")


def _check_reachable(uri: str) -> None:
    """Fail within seconds, not after MLflow's retries, if nothing answers."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10).close()  # noqa: S310 - the user's URI
    except urllib.error.HTTPError:
        return  # the server answers; the status of /health does not matter
    except (OSError, ValueError) as error:
        message = f"no MLflow server answers at {uri}: {getattr(error, 'reason', error)}"
        raise OrchError(message, hint=_remedy(uri, "")) from error


def _make_ready(uri: str) -> None:
    """A SQLite file with MLflow's schema that nobody else is writing, if the URI names one."""
    path = _sqlite_path(uri)
    if path and not path.exists():
        _build_database(path)
    elif path:
        with contextlib.closing(
            sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
        ) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
            except sqlite3.Error as error:
                message = f"cannot write {path}: {error}"
                raise OrchError(message, hint=_remedy(uri, str(error))) from error


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    path = _sqlite_path(uri)
    if path and not path.exists():  # MLflow would make an empty one
        message = f"there is no MLflow database at {path}"
        raise OrchError(message, hint="`orch sync` makes the study's")
    return MlflowClient(tracking_uri=uri)


def _build_database(path: Path) -> None:
    """Make the schema in a temporary file and rename it, since a killed migration leaves a broken file."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow.") as folder:
        unfinished = Path(folder) / "mlflow.db"
        client = MlflowClient(tracking_uri=f"sqlite:///{unfinished}")
        client.delete_experiment("0")  # the empty experiment `Default` of MLflow
        with contextlib.closing(sqlite3.connect(unfinished)) as database:
            if not network_filesystem(path.parent):
                database.execute("PRAGMA journal_mode=WAL")  # 2-3 times the speed; not for NFS
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with contextlib.suppress(FileExistsError):  # another study's sync was first: its database stays
            os.link(unfinished, path)


def _experiment(client: MlflowClient, study: Study, *, local: bool) -> str:
    """The id of the study's experiment, made or restored where needed."""
    found = client.get_experiment_by_name(study.name)
    if found is None:
        place = (study.root.resolve() / "mlruns").as_uri() if local else None
        return str(client.create_experiment(study.name, artifact_location=place))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment], max_results=PAGE, order_by=["start_time ASC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _known_runs(client: MlflowClient, experiment: str) -> dict[str, Run]:
    """The runs by key; of two with one key the complete one stays, the other is deleted."""
    known: dict[str, Run] = {}
    for run in _runs(client, experiment):
        key = run.data.tags.get(KEY)
        if key and key not in known:
            known[key] = run
        elif key:
            complete = DIGEST in known[key].data.tags
            client.delete_run((run if complete else known[key]).info.run_id)
            known[key] = known[key] if complete else run
    return known


def _write(
    client: MlflowClient, experiment: str, entry: mirror.Entry, document: mirror.Document, run: Run | None
) -> None:
    """Write a run, the hash last. A run of the same base is completed in place; another is replaced."""
    from mlflow.entities import Metric, Param, RunTag

    if run and run.data.tags.get(BASE) != entry.base:
        client.delete_run(run.info.run_id)
        run = None
    if run is None:
        tags = {KEY: entry.key, BASE: entry.base, "mlflow.user": getpass.getuser()}
        run = client.create_run(experiment, document.start, tags=tags, run_name=document.name)
    run_id = run.info.run_id
    client.log_batch(
        run_id,
        metrics=[Metric(point.key, point.value, point.time, point.step) for point in document.points],
        params=[Param(key, value) for key, value in document.params.items()],
        tags=[RunTag(key, value) for key, value in document.tags.items() if value],
    )
    for key in (key for key, value in document.tags.items() if not value and key in run.data.tags):
        client.delete_tag(run_id, key)  # a probe that failed has been repaired
    if document.inputs:
        client.log_inputs(run_id, datasets=[_dataset(entry) for entry in document.inputs])
    _log_files(client, run_id, document)
    client.set_terminated(run_id, "FAILED" if document.failed else "FINISHED", document.end)
    client.set_tag(run_id, DIGEST, entry.digest)


def _dataset(entry: mirror.Input) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = Dataset(
        name=entry.name,
        digest=entry.digest,
        source_type="local",
        source=json.dumps({"uri": entry.path}),
        profile=json.dumps(dict(entry.facts)),
    )
    return DatasetInput(dataset=data, tags=[InputTag("mlflow.data.context", entry.context)])


def _log_files(client: MlflowClient, run_id: str, document: mirror.Document) -> None:
    """One upload of a folder of links: a call per file asks the store for the run each time."""
    with tempfile.TemporaryDirectory(prefix="orch-sync-") as folder:
        for path, place in document.files:
            target = Path(folder) / place / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.resolve())
        if document.files:
            client.log_artifacts(run_id, folder)


def _describe(client: MlflowClient, study: Study, experiment: str) -> None:
    """The experiment's page: its description, and saved views of the runs table."""
    runs = [run for run in _runs(client, experiment) if run.data.tags.get("orch.kind") == "cell"]
    labels = [
        {key: run.data.params.get(key, "") for key in ("algorithm", "model", "mix", "images")}
        | {"status": run.data.tags.get("orch.status", "")}
        for run in runs
    ]
    tasks = {key.removeprefix("auc/") for run in runs for key in run.data.metrics if key.startswith("auc/")}
    made = client.get_experiment(experiment).creation_time or 0
    tags = {f"mlflow.sharedViewState.{key}": view for key, view in pages.views(tasks, made).items()}
    tags |= {
        "mlflow.note.content": pages.description(study, labels),
        "mlflow.experimentKind": "custom_model_development",
    }
    for key, value in tags.items():
        client.set_experiment_tag(experiment, key, value)


def _rows(run: Run) -> Iterator[dict[str, object]]:
    shared: dict[str, object] = {
        "cell": run.data.tags.get(KEY, run.info.run_id),
        "name": run.info.run_name,
        "task": "",
        **{key: _number(value) for key, value in run.data.params.items()},
    }
    scores: dict[str, dict[str, float]] = {}
    for key, value in run.data.metrics.items():
        score, slash, task = key.partition("/")
        if not slash:
            shared[key] = value
        elif score not in {"cost", "curve"}:
            scores.setdefault(task, {})[score] = value
    yield from ({**shared, "task": task, **values} for task, values in scores.items())
    if not scores:
        yield shared


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _column(values: list[object]) -> pl.Series:
    """Floats where every value is a number, else text; an empty place stays empty."""
    import polars as pl

    if all(value is None or isinstance(value, float) for value in values):
        return pl.Series(values, dtype=pl.Float64)
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)
