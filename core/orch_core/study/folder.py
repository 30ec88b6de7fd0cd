"""The study folder: the only source of truth. Every database is a mirror that can be rebuilt from it.

study.json                     name, schema version
grid.yaml, plan.parquet        the last grid and its plan (plan.json: in numbers; plans/: all plans)
cells/<id>/cell.json           resolved config
           record.json         the result, published once
           metrics.ndjson      curves
           checkpoint/         resumable state, the last two, until the record is written
           encoder.safetensors the weights that probes read
           attempts/<k>/       log.txt, record.json of each attempt, failed ones included
           probes/<task>-<probe>/record.json, auc_draws.npy, predictions.npz, attempts/
trunks/                        states shared by runs of several lengths
launches/<token>/              what was launched, see `orch.launching.journal`
code/                          the code that was launched
logs/                          submitit's own files
mlflow.db, mlruns/             the MLflow mirror
report/, laws/                 tables, figures, laws.json, report.html
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orch_core.cell import Cell, Probe, cell_from_json
from orch_core.errors import OrchError
from orch_core.files import dumps, publish_once
from orch_core.study import stored
from orch_core.study.record import Record
from orch_core.study.stored import RECORD, StoredRecord

SCHEMA_VERSION = 1
CURVES, ENCODER, CHECKPOINT = "metrics.ndjson", "encoder.safetensors", "checkpoint"
DRAWS = "auc_draws.npy"


@dataclass(frozen=True, slots=True)
class Study:
    """A study on disk at `root`."""

    root: Path

    @property
    def name(self) -> str:
        """The study's name, as its grid gives it; raises OrchError if study.json is damaged."""
        return str(_document(self.root)["name"])

    @property
    def grid_file(self) -> Path:
        """The grid planned last."""
        return self.root / "grid.yaml"

    @property
    def plan_table(self) -> Path:
        """The plan of that grid, a row per cell."""
        return self.root / "plan.parquet"

    @property
    def plan_file(self) -> Path:
        """That plan in numbers, with its probes."""
        return self.root / "plan.json"

    @property
    def plans(self) -> Path:
        """All plans, by the beginning of their hash."""
        return self.root / "plans"

    @property
    def budget_file(self) -> Path:
        """Device-hours reserved by launches."""
        return self.root / "budget.json"

    @property
    def trunks(self) -> Path:
        """States shared by runs of several lengths."""
        return self.root / "trunks"

    @property
    def launches(self) -> Path:
        """A folder per launch."""
        return self.root / "launches"

    @property
    def journal_file(self) -> Path:
        """Jobs submitted to Slurm, one event per line."""
        return self.root / "journal.ndjson"

    @property
    def cancelled_cells(self) -> Path:
        """A file per cancelled cell."""
        return self.root / "cancelled-cells"

    @property
    def code(self) -> Path:
        """Source code of each launch."""
        return self.root / "code"

    @property
    def logs(self) -> Path:
        """Logs of workers and of the MLflow server."""
        return self.root / "logs"

    @property
    def report(self) -> Path:
        """Where `orch fit-laws` writes its report."""
        return self.root / "report"

    @property
    def laws(self) -> Path:
        """Where `orch fit-laws --law` writes laws of the study's runs."""
        return self.root / "laws"

    @property
    def database(self) -> Path:
        """The MLflow mirror's database."""
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """The MLflow mirror's files."""
        return self.root / "mlruns"

    def plan(self) -> dict[str, Any]:
        """The contents of plan.json, about the last plan; empty if missing or damaged."""
        return _mapping(self.plan_file)

    def cells(self) -> list[str]:
        """Ids of the cells that have a folder, in order."""
        return [Path(folder).name for folder in stored.subfolders(f"{self.root}/cells")]

    def cell_folder(self, cell: str) -> Path:
        """Folder of a cell, by its id."""
        return self.root / "cells" / cell

    def probe_folder(self, cell: str, probe: Probe) -> Path:
        """Folder of one probe of a cell."""
        return self.cell_folder(cell) / stored.PROBES / probe.folder

    def result_folder(self, cell: str, probe: Probe | None = None) -> Path:
        """Folder of a cell, or of one of its probes."""
        return self.probe_folder(cell, probe) if probe else self.cell_folder(cell)

    def record_file(self, cell: str, probe: Probe | None = None) -> Path:
        """Path of the published record of a cell, or of one of its probes."""
        return self.result_folder(cell, probe) / RECORD

    def is_published(self, cell: str, probe: Probe | None = None) -> bool:
        """Whether a cell, or one of its probes, has its record; a damaged one does not count."""
        return stored.is_whole(str(self.record_file(cell, probe)))

    def record(self, cell: str, probe: Probe | None = None) -> Record | None:
        """The published record of a cell, or of one of its probes; None if missing or damaged."""
        try:
            return stored.read_record(self.record_file(cell, probe))
        except OrchError:
            return None

    def latest(self, cell: str, probe: Probe | None = None) -> StoredRecord | None:
        """The published record of a cell or probe, else that of the last attempt that left one."""
        return stored.latest(cell, str(self.result_folder(cell, probe)), is_probe=probe is not None)

    def stored(self) -> Iterator[StoredRecord]:
        """Every record, published or of the last attempt: cells by id, each before its probes."""
        return stored.stored(self.root)

    def stored_of(self, cell: str) -> Iterator[StoredRecord]:
        """The record of one cell, then those of its probes."""
        return stored.stored_of(str(self.cell_folder(cell)))

    def records(self) -> Iterator[Record]:
        """Every intact published record: cells in the order of their ids, each before its probes."""
        for found in self.stored():
            with contextlib.suppress(OrchError):
                if found.published:
                    yield found.read()

    def failures(self) -> Iterator[Record]:
        """The last attempt's record of each failed cell or probe without a published record."""
        for found in self.stored():
            with contextlib.suppress(OrchError):
                if not found.published and (record := found.read()).status == "failed":
                    yield record

    def config_file(self, cell: str) -> Path:
        """The resolved config of a cell that has been launched."""
        return self.cell_folder(cell) / "cell.json"

    def config(self, cell: str) -> dict[str, Any]:
        """A cell's config as written; empty if missing or damaged."""
        return _mapping(self.config_file(cell))

    def cell(self, cell: str) -> Cell:
        """A cell that has been launched; raises OrchError that names the file if it is missing or damaged."""
        try:
            return cell_from_json(self.config(cell))
        except (KeyError, TypeError, ValueError) as error:
            message = f"{self.config_file(cell)} is missing or damaged"
            raise OrchError(message, hint="delete it: `orch launch` writes it again") from error

    def curves_file(self, cell: str) -> Path:
        """Curves of a cell, a row per logged step."""
        return self.cell_folder(cell) / CURVES

    def relative(self, path: Path) -> str:
        """A path inside the study, relative to its root."""
        return path.relative_to(self.root).as_posix()


def _mapping(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def create_study(root: Path, name: str) -> Study:
    """Open the study at `root`, or create it.

    Raises OrchError if the folder contains another study or schema, or cannot be written.
    """
    path = root / "study.json"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            publish_once(path, dumps({"schema_version": SCHEMA_VERSION, "name": name}))
        for folder in ("cells", "logs"):
            (root / folder).mkdir(exist_ok=True)
    except OSError as error:
        message = f"cannot write the study at {root}: {error.strerror}"
        raise OrchError(message, hint="choose a writable folder with --study, or free some disk") from error
    study = open_study(root)
    if study.name != name:
        message = f"{root} belongs to the study {study.name!r}, but this grid names {name!r}"
        raise OrchError(message, hint="give this grid its own folder with --study, or rename it")
    return study


def open_study(root: Path) -> Study:
    """Open an existing study; raises OrchError if there is none, or if its schema is another."""
    version = _document(root).get("schema_version")
    if version != SCHEMA_VERSION:
        message = f"{root} has schema version {version}, this orch reads {SCHEMA_VERSION}"
        raise OrchError(message, hint="use the orch version that made the study")
    return Study(root)


def _document(root: Path) -> dict[str, Any]:
    """The contents of study.json."""
    path = root / "study.json"
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{root} is not a study: it has no study.json"
        raise OrchError(message, hint="`orch plan GRID` creates one") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise _damaged(path, "it has no name")
    return document


def _damaged(path: Path, why: str) -> OrchError:
    message = f"cannot read {path}: {why}"
    content = f'{{"schema_version": {SCHEMA_VERSION}, "name": "NAME"}}'
    return OrchError(message, hint=f"write {content} into it, with the name that the grid gives the study")
