"""A study as workers leave it, made with the functions that workers use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from orch.tracking.track.connection import build_database, explained
from orch_core.cell import Cell, Model, Probe, SourceSubset
from orch_core.files import dumps, publish_once
from orch_core.study.folder import Study, create_study
from orch_core.study.record import Reason, Record
from orch_core.study.stored import publish

BEGAN = 1_760_000_000.0  # Unix seconds
TASKS = {"breast": 2, "pneumonia": 2, "blood": 8, "tissue": 8}


def a_cell(number: int) -> Cell:
    width = (32, 64, 128)[number % 3]
    return Cell(
        model=Model(name=f"w{width}", width=width, depth=4, heads=2),
        recipe=("mae@1", "moco-v3@1", "random@1")[number // 3 % 3],
        data=(
            SourceSubset(
                source="tissue", modality="microscopy", images=1000, fingerprint="ab" * 16, path="/t.npz"
            ),
        ),
        resolution=28,
        patch=4,
        channels=1,
        samples_seen=64 * 500,
        batch=64,
        overrides=(("lr", 1e-3),),
        seed=number // 9,
        mix="all",
        images=1000,
    )


def a_probe(task: str) -> Probe:
    return Probe(
        task=task,
        fingerprint=f"{TASKS.get(task, 2)}{task:x<31}",
        kind="multi-class",
        classes=TASKS.get(task, 2),
    )


def record_cell(study: Study, number: int) -> str:
    cell = a_cell(number)
    folder = study.cell_folder(cell.id)
    (folder / "attempts" / "0").mkdir(parents=True)
    (folder / "attempts" / "0" / "log.txt").write_text("step 1\nstep 500\n")
    publish_once(folder / "cell.json", dumps(cell.to_json()))
    began = BEGAN + 60 * number
    rows = [
        {"step": step, "samples_seen": 64 * step, "loss": 1 + 1 / step, "time": began + step / 20}
        | ({"heldout_loss": 1.1 + 1 / step} if step % 50 == 0 else {})
        for step in range(1, 501)
    ]
    (folder / "metrics.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    width = 32 * 2 ** (number % 3)
    values = {
        "heldout_loss": 1.1 + 1 / 500,
        "params_encoder": 48 * width**2,
        "params_total": 60 * width**2,
        "samples_seen": cell.samples_seen,
        "flops_train": 6.0 * 48 * width**2 * cell.samples_seen * 49,
    }
    cost = {"seconds": 25.0, "started": began, "ended": began + 25, "images_per_second": 1280.0}
    code = {"commit": "c0ffee" * 6, "dirty": ""}
    run = Record(
        cell=cell.id,
        name=cell.name,
        status="done",
        values=values,
        cost=cost,
        provenance={"config": cell.to_json(), "code": code, "host": "node1"},
    )
    publish(folder, run)
    for task in TASKS:
        record_probe(study, cell, task, 0.75 + number / 100)
    return cell.id


def record_probe(study: Study, cell: Cell, task: str, auc: float) -> None:
    probe = a_probe(task)
    folder = study.probe_folder(cell.id, probe)
    folder.mkdir(parents=True)
    values = {"auc": auc, "auc_lo": auc - 0.02, "auc_hi": auc + 0.02, "accuracy": auc - 0.1, "n_test": 500}
    record = Record(
        cell=cell.id,
        name=cell.name,
        task=task,
        probe=probe.id,
        status="done",
        values=values,
        cost={"seconds": 1.5},
        provenance={"probe": asdict(probe)},
    )
    publish(folder, record)


def fail_probe(study: Study, cell: Cell, task: str) -> Path:
    probe = a_probe(task)
    place = study.probe_folder(cell.id, probe) / "attempts" / "0"
    place.mkdir(parents=True)
    reason = Reason(cause="bad_data", message="a class is missing")
    record = Record(cell=cell.id, name=cell.name, task=task, probe=probe.id, status="failed", reason=reason)
    publish_once(place / "record.json", dumps(record.to_json()))
    return place


def record_failure(study: Study, number: int, cause: str = "out_of_memory", attempt: int = 0) -> str:
    cell = a_cell(number)
    folder = study.cell_folder(cell.id)
    place = folder / "attempts" / str(attempt)
    place.mkdir(parents=True)
    publish_once(folder / "cell.json", dumps(cell.to_json()))
    (place / "log.txt").write_text(
        "Traceback (most recent call last):\nRuntimeError: allocation of 3 GB failed\n"
    )
    log = f"cells/{cell.id}/attempts/{attempt}/log.txt"
    record = Record(
        cell=cell.id,
        name=cell.name,
        status="failed",
        reason=Reason(cause=cause, message="needs 3.1 GB, 2.0 GB are free", log=log),
    )
    publish_once(place / "record.json", dumps(record.to_json()))
    return cell.id


@pytest.fixture
def write() -> SimpleNamespace:
    """The functions that add to a recorded study."""
    return SimpleNamespace(
        a_cell=a_cell, cell=record_cell, probe=record_probe, failure=record_failure, fail_probe=fail_probe
    )


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Study]:
    """`recorded(cells, failures)`: a study with that many finished and failed cells."""

    def make(cells: int, failures: int = 0) -> Study:
        study = create_study(tmp_path / "study", "demo")
        for number in range(cells):
            record_cell(study, number)
        for number in range(cells, cells + failures):
            record_failure(study, number)
        return study

    return make


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's schema, migrated once for all tests."""
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    with explained(f"sqlite:///{path}"):
        build_database(path)
    return path


@pytest.fixture
def study(recorded: Callable[..., Study], empty_database: Path) -> Study:
    """Two finished cells and a failed one, and an empty MLflow database."""
    made = recorded(2, 1)
    shutil.copy(empty_database, made.root / "mlflow.db")
    return made
