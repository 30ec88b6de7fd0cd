"""The study folder: the only truth. Every database is a mirror that can be rebuilt from it.

study.json                     name, schema version
grid.yaml, plan.parquet        the grid planned last, and its plan
cells/<id>/cell.json           resolved config
           record.json         the result, published once
           metrics.ndjson      curves
           checkpoint/         resumable state, the last two, until the record is there
           encoder.safetensors the weights that probes read
           attempts/<k>/       log.txt, record.json of each attempt, failed ones included
           probes/<task>-<probe>/record.json, auc_draws.npy, attempts/
logs/                          submitit's own files
mlflow.db, mlruns/             the mirror that people browse
report/                        tables, figures, laws.json, report.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orch_core.cell import Cell, Probe, cell_from_json
from orch_core.errors import OrchError
from orch_core.files import dumps, publish_once
from orch_core.study.record import Record, read_record

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Study:
    """A study on disk at `root`."""

    root: Path

    @property
    def name(self) -> str:
        """The study's name, as its grid gives it."""
        return str(json.loads((self.root / "study.json").read_text(encoding="utf-8"))["name"])

    def cell_folder(self, cell: str) -> Path:
        """Folder of a cell, by its id."""
        return self.root / "cells" / cell

    def probe_folder(self, cell: str, probe: Probe) -> Path:
        """Folder of one probe of a cell."""
        return self.cell_folder(cell) / "probes" / f"{probe.task}-{probe.id[:8]}"

    def record(self, cell: str) -> Record | None:
        """The published record of a cell, or None."""
        return read_record(self.cell_folder(cell) / "record.json")

    def probe_record(self, cell: str, probe: Probe) -> Record | None:
        """The published record of one probe of a cell, or None."""
        return read_record(self.probe_folder(cell, probe) / "record.json")

    def cell(self, cell: str) -> Cell:
        """The resolved config of a cell that has been launched."""
        return cell_from_json(json.loads((self.cell_folder(cell) / "cell.json").read_text(encoding="utf-8")))

    def records(self) -> Iterator[Record]:
        """Every published record, pretraining before probes, in the order of ids."""
        for pattern in ("cells/*/record.json", "cells/*/probes/*/record.json"):
            for path in sorted(self.root.glob(pattern)):
                record = read_record(path)
                if record:
                    yield record

    def failures(self) -> Iterator[Record]:
        """The last attempt's record of everything that has failed and is not published yet."""
        for pattern in ("cells/*/attempts", "cells/*/probes/*/attempts"):
            for attempts in sorted(self.root.glob(pattern)):
                if not (attempts.parent / "record.json").exists():
                    last = max(attempts.iterdir(), default=None, key=lambda path: int(path.name))
                    record = read_record(last / "record.json") if last else None
                    if record:
                        yield record


def publish(folder: Path, record: Record) -> bool:
    """Publish a record in a cell's or probe's folder; the first one stays. True where this one won."""
    return publish_once(folder / "record.json", dumps(record.to_json()))


def create_study(root: Path, name: str) -> Study:
    """Open the study at `root`, creating it where there is none.

    Raises OrchError where the folder holds another study, another schema, or cannot be written.
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
        message = f"{root} belongs to the study {study.name!r}, this grid is {name!r}"
        raise OrchError(message, hint="give this grid its own folder with --study, or rename it")
    return study


def open_study(root: Path) -> Study:
    """Open an existing study; raises OrchError where there is none or it is of another schema."""
    path = root / "study.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"{root} is not a study: it has no study.json"
        raise OrchError(message, hint="`orch plan GRID` makes one") from error
    except (OSError, ValueError) as error:
        message = f"cannot read {path}: {error}"
        raise OrchError(
            message, hint="restore study.json: it holds the schema version and the name"
        ) from error
    if document.get("schema_version") != SCHEMA_VERSION:
        message = (
            f"{root} has schema version {document.get('schema_version')}, this orch reads {SCHEMA_VERSION}"
        )
        raise OrchError(message, hint="use the orch version that made the study")
    return Study(root)
