"""A study on disk whose laws are known, written with orch_core's own writers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from orch_core.cell import Cell, Model, Probe, SourceSubset
from orch_core.files import dumps
from orch_core.grid.columns import row_of
from orch_core.images.npz import fingerprint
from orch_core.study.folder import Study, create_study
from orch_core.study.plan import Plan, write_plan
from orch_core.study.record import Reason, Record
from orch_core.study.stored import publish

LOSS = {
    "mae": (-0.12, -0.05),
    "moco-v3": (-0.06, -0.09),
}  # exponents of the held-out loss in (params, images)
LONGER = -0.2  # exponent of the held-out loss in passes over the images, relative to 10
NET = {"mae": (-0.04, -0.02), "moco-v3": (-0.10, -0.06)}  # of (1 - AUC) over the random control's
TASKS = {
    "blood": (0.30, -0.15),
    "breast": (0.9, -0.10),
    "pneumonia": (0.5, -0.12),
    "tissue": (0.6, -0.05),
}  # control
WIDTHS = {"w32": 32, "w64": 64, "w128": 128, "w192": 192}
IMAGES = (500, 1000, 2000, 4000)


def params_of(model: Model) -> float:
    return 12.0 * model.depth * model.width**2


def control_error(task: str, params: float) -> float:
    start, exponent = TASKS[task]
    return start * params**exponent


class Maker:
    """Writes records of a study with `noise` (relative, Gaussian) around the laws above."""

    def __init__(self, root: Path, noise: float = 0.0, seed: int = 0) -> None:
        self.study = create_study(root, "made")
        self.noise, self.rng = noise, np.random.default_rng(seed)
        self.npz = root.parent / "npz"
        self.npz.mkdir(exist_ok=True)
        for index, task in enumerate(TASKS):
            write_npz(self.npz / f"{task}.npz", classes=2 + 2 * index, colour=task == "blood", seed=index)

    def jitter(self) -> float:
        return float(np.exp(self.noise * self.rng.standard_normal()))

    def whole(self) -> Study:
        for name, width in WIDTHS.items():
            model = Model(name=name, width=width, depth=4, heads=4)
            self.cell("random", model, "", 0)
            for algorithm in LOSS:
                for images in IMAGES:
                    self.cell(algorithm, model, "all", images)
                self.cell(algorithm, model, "microscopy", IMAGES[-1])
        self.cell("pixels", None, "", 0)
        self.plan()
        return self.study

    def plan(self, cells: Sequence[Cell] | None = None, probes: Sequence[Probe] | None = None) -> None:
        """What the planner writes, of every cell so far and all tasks, or of those given."""
        cells = [self.study.cell(cell) for cell in self.study.cells()] if cells is None else cells
        columns = {"state": "new", "probes_left": 0, "samples_paid": 0, "devices": 1.0}
        rows = [
            {
                **row_of(cell),
                "id": cell.id,
                "algorithm": cell.algorithm,
                **columns,
                "params_encoder": params_of(cell.model) if cell.model else 0.0,
            }
            for cell in cells
        ]
        wanted = tuple(self.probes() if probes is None else probes)
        plan = Plan(study="made", frame=pl.DataFrame(rows), probes=wanted, device="H100")
        document = {
            name: getattr(plan, name) for name in ("study", "device", "rates", "usd_per_hour", "budget")
        }
        numbers = {**document, "plan": plan.hash, "absent": [], "notes": []}
        write_plan(plan, self.study, grid=Path("made.yaml"), text="study: made\n", numbers=numbers)

    def probes(self) -> list[Probe]:
        return [self.probe_of(task) for task in TASKS]

    def probe_of(self, task: str) -> Probe:
        path = self.npz / f"{task}.npz"
        given = fingerprint(path) if path.exists() else task
        return Probe(task=task, fingerprint=given, kind="multi-class", classes=2, path=str(path))

    def cell(
        self,
        algorithm: str,
        model: Model | None,
        mix: str,
        images: int,
        *,
        probes: bool = True,
        passes: int = 10,
    ) -> Cell:
        """One finished cell that sees every image `passes` times; the held-out loss falls with passes^LONGER."""
        trained = algorithm in LOSS
        portion = SourceSubset(
            source="blood", modality="microscopy", images=images, fingerprint=(mix or "f")[0] * 32
        )
        cell = Cell(
            model=model,
            recipe=f"{algorithm}@1",
            data=(portion,) if trained else (),
            resolution=28,
            patch=4,
            channels=3,
            samples_seen=images * passes if trained else 0,
            batch=100,
            mix=mix,
            images=images,
        )
        folder = self.study.cell_folder(cell.id)
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text(dumps(cell.to_json()))
        params = params_of(model) if model else 0.0
        values: dict[str, float | int | str | None] = {
            "params_encoder": params,
            "params_head": params / 4,
            "params_total": params * 1.25,
            "samples_seen": cell.samples_seen,
            "flops_train": 300.0 * params * cell.samples_seen,
        }
        if trained:
            a, b = LOSS[algorithm]
            values["heldout_loss"] = 3 * params**a * images**b * (passes / 10) ** LONGER * self.jitter()
            self.curve(folder, cell, float(values["heldout_loss"] or 0))
        provenance = {
            "config": cell.to_json(),
            "versions": {"torch": "2.14.0", "timm": "1.0.30"},
            "code": {"commit": "0123abcd" * 5, "dirty": False},
        }
        cost = {"seconds": 10.0 + cell.samples_seen / 1e3}
        publish(
            folder,
            Record(
                cell=cell.id, name=cell.name, status="done", values=values, cost=cost, provenance=provenance
            ),
        )
        if probes:
            for task in TASKS:
                self.probe(cell, params, task)
        return cell

    def curve(self, folder: Path, cell: Cell, final: float) -> None:
        seen = np.geomspace(cell.batch, cell.samples_seen, 10)
        rows = [
            {
                "step": int(s / cell.batch),
                "samples_seen": s,
                "loss": final * 1.1,
                "heldout_loss": final * (s / seen[-1]) ** -0.1,
            }
            for s in seen
        ]
        (folder / "metrics.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def probe(self, cell: Cell, params: float, task: str) -> None:
        if cell.algorithm == "pixels":
            error = 0.12
        elif cell.algorithm == "random":
            error = control_error(task, params)
        else:
            s, u = NET[cell.algorithm]
            error = control_error(task, params) * params**s * cell.images**u * 1.9 * self.jitter()
        auc = 1 - error
        probe = self.probe_of(task)
        values = {
            "auc": auc,
            "auc_lo": auc - 0.01,
            "auc_hi": auc + 0.01,
            "auc_se": 0.005,
            "accuracy": auc - 0.1,
            "n_test": 1000,
        }
        record = Record(
            cell=cell.id,
            name=cell.name,
            status="done",
            task=task,
            probe=probe.id,
            values=values,
            cost={"seconds": 1.0},
            provenance={"versions": {"torch": "2.14.0"}, "parent": f"cells/{cell.id}/record.json"},
        )
        folder = self.study.probe_folder(cell.id, probe)
        folder.mkdir(parents=True)
        publish(folder, record)

    def fail(self, model: Model, cause: str = "out_of_memory") -> Cell:
        cell = Cell(
            model=model,
            recipe="mae@1",
            resolution=28,
            patch=4,
            channels=3,
            samples_seen=7,
            batch=1,
            mix="all",
            images=7,
        )
        folder = self.study.cell_folder(cell.id) / "attempts" / "1"
        folder.mkdir(parents=True)
        (folder.parent.parent / "cell.json").write_text(dumps(cell.to_json()))
        reason = Reason(cause=cause, message="needed 99 GiB", log="cells/x/attempts/1/log.txt")
        record = Record(
            cell=cell.id,
            name=cell.name,
            status="failed",
            reason=reason,
            provenance={"config": cell.to_json()},
        )
        (folder / "record.json").write_text(dumps(record.to_json()))
        return cell


def write_npz(path: Path, *, classes: int = 2, colour: bool = False, seed: int = 0, labels: int = 1) -> None:
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, n in (("train", 60), ("val", 20), ("test", 40)):
        shape = (n, 8, 8, 3) if colour else (n, 8, 8)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        kinds = classes if labels == 1 else 2
        arrays[f"{split}_labels"] = np.arange(n * labels).reshape(n, labels) % kinds
    np.savez(path, **arrays)


@pytest.fixture(scope="session")
def make_study(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Maker]:
    """Starts a made study in a folder of its own."""

    def make(noise: float = 0.0, seed: int = 0) -> Maker:
        return Maker(tmp_path_factory.mktemp("made") / "study", noise, seed)

    return make
