"""`orch calibrate`: measure how fast this machine trains and probes, for plans.

It trains a few short runs per recipe, at the smallest and largest shape and two lengths, and probes two
encoders, with the code that runs cells. On a CPU, seconds are those of one core, because a cell uses one;
on a GPU they are wall seconds.
"""

from __future__ import annotations

import itertools
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orch.answer import Answer
from orch.console import say
from orch_core.cell import Cell, Model, Probe, SourceSubset
from orch_core.cost import Cost, price
from orch_core.device import DEVICES
from orch_core.formatting import quantity
from orch_core.grid import calibration
from orch_core.grid.calibration import Calibration, ProbeRate, Rate
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid
from orch_core.grid.columns import cell_of
from orch_core.images.npz import fingerprint
from orch_core.monitoring import GALLERY, HEALTH_IMAGES
from orch_core.recipes import RECIPES, recipe_of

STEPS = (4, 12)  # lengths of the two runs of each shape
VALIDATION = 128  # images of the random data
READ_OUT = GALLERY + VALIDATION  # images through the encoder at each evaluation: gallery and queries
MOST_FLOPS = {"CPU": 2e12}  # of the runs of one shape: half a minute of a core
MOST_FLOPS_GPU = 1e16
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One short run: its cell and cost, the seconds it took, and the number of held-out losses (`looks`)."""

    cell: Cell
    cost: Cost
    looks: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated(Answer):
    """A calibration and its file."""

    calibration: Calibration
    path: Path

    def to_json(self) -> dict[str, Any]:
        """The calibration as one JSON document."""
        return {**asdict(self.calibration), "path": str(self.path)}

    @property
    def text(self) -> str:
        """The measured rates, for the terminal."""
        found = self.calibration
        lines = [f"measured on {found.machine} ({found.device}, {found.precision}), saved in {self.path}"]
        for recipe, rate in found.training.items():
            speed = quantity(1 / rate.flop, "FLOP/s") if rate.flop else "unlimited"
            moved = quantity(1 / rate.byte, "B/s") if rate.byte else "unlimited"
            lines.append(
                f"{recipe}: {speed} and {moved} of activations, "
                f"{1e3 * rate.step:.2f} ms a step, {rate.fixed:.2f} s a run"
            )
        error = f"{100 * found.error:.0f}% (median)"
        return "\n".join([*lines, f"these rates reproduce the measured runs within {error}"])


def calibrate(grid: Path | None) -> Calibrated:
    """Measure the recipes and shapes of a grid, or a small ladder without one; progress goes to stderr."""
    cells, precision = cells_of(grid) if grid else ([], "fp32")
    found, path = measure(cells, precision=precision, say=say)
    return Calibrated(calibration=found, path=path)


def cells_of(grid: Path) -> tuple[list[Cell], str]:
    """The cells of a grid that `calibrate` measures (see `spread`), and its precision."""
    checked = read_grid(grid)
    frame = enumerate_cells(checked).unique(["recipe", "flops_train_image"], maintain_order=True)
    return spread(cell_of(row) for row in frame.iter_rows(named=True)), checked.grid.training.precision


def measure(
    cells: Sequence[Cell] = (), *, precision: str = "fp32", say: Callable[[str], None] = lambda _text: None
) -> tuple[Calibration, Path]:
    """Measure recipes and shapes of `cells`, or a small ladder of every trained recipe, and save the result.

    Raises OrchError if the result cannot be written.
    """
    from orch_core import learn

    device, clock = _this_device()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = _stand_in(folder / "images.npz", classes=4, train=512)
        runs: dict[str, list[Measured]] = {}
        for cell in cells or _ladder(precision):
            most = MOST_FLOPS.get(device, MOST_FLOPS_GPU) / (sum(STEPS) * price(cell).flops_train_image)
            batch = max(2, min(cell.batch, int(most)))
            short = replace(cell, data=(images,), subset_seed=0, images=images.images, batch=batch)
            runs.setdefault(cell.recipe, []).extend(_runs(short, folder, clock))
            say(
                f"{cell.recipe} {cell.model.name if cell.model else ''}: "
                f"{runs[cell.recipe][-1].seconds:.2f} s"
            )
        training = {recipe: fit_rate(measured) for recipe, measured in runs.items()}
        errors = [
            abs(np.log(_predicted(training[m.cell.recipe], m) / m.seconds))
            for ms in runs.values()
            for m in ms
        ]
        found = Calibration(
            device=device,
            precision=precision,
            machine=platform.node(),
            measured=datetime.now(UTC).date().isoformat(),
            training=training,
            probe=_probe_rate(learn, folder, clock, say),
            error=float(np.median(errors)),
        )
    return found, calibration.save(found)


def _this_device() -> tuple[str, Callable[[], float]]:
    """The device of plans that corresponds to this machine, and the clock to measure it with."""
    from orch_core.learn.ledger import use_accelerator

    name = use_accelerator()
    if not name:
        return "CPU", time.process_time
    known = next((device for device in DEVICES if device != "CPU" and device in name), None)
    return known or "H100", time.perf_counter


def _ladder(precision: str) -> list[Cell]:
    shapes = [(32, 4, 7), (64, 4, 7), (128, 4, 7), (128, 4, 4)]
    return [
        Cell(
            model=Model(name=f"w{width}-p{patch}", width=width, depth=depth, heads=max(1, width // 64)),
            recipe=recipe.id,
            resolution=28,
            patch=patch,
            channels=3,
            samples_seen=64,
            batch=64,
            precision=precision,
        )
        for recipe in RECIPES.values()
        if recipe.uses_data and recipe.uses_model
        for width, depth, patch in shapes
    ]


def spread(cells: Iterable[Cell]) -> list[Cell]:
    """The cells with the least, middle and most work per image of each recipe that trains."""
    groups: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        if recipe_of(cell).uses_data:
            groups.setdefault(cell.recipe, {})[price(cell).flops_train_image] = cell
    chosen = []
    for by_work in groups.values():
        works = sorted(by_work)
        chosen += [by_work[works[at]] for at in sorted({0, len(works) // 2, len(works) - 1})]
    return chosen


def _stand_in(path: Path, *, classes: int, train: int) -> SourceSubset:
    """Noisy images of class-wise patterns in MedMNIST's format, which a model can learn."""
    generator = np.random.default_rng(0)
    patterns = generator.normal(128, 20, (classes, 28, 28, 3))
    arrays: dict[str, Any] = {}
    for split, count in (("train", train), ("val", VALIDATION), ("test", train)):
        labels = np.arange(count) % classes
        noisy = patterns[labels] + generator.normal(0, 40, (count, 28, 28, 3))
        arrays[f"{split}_images"] = noisy.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.int64)
    np.savez(path, **arrays)
    return SourceSubset(
        source="stand-in", modality="noise", images=train, fingerprint=fingerprint(path), path=str(path)
    )


def _runs(cell: Cell, folder: Path, clock: Callable[[], float]) -> list[Measured]:
    from orch_core import learn
    from orch_core.learn.pretraining import evaluation_steps

    found = []
    for steps in (1, *STEPS):  # the first one warms up
        run = replace(cell, samples_seen=steps * cell.batch)
        cost = price(run)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            began = clock()
            learn.pretrain(run, Path(place))
            seconds = clock() - began
        looks = len(evaluation_steps(steps))
        found.append(Measured(cell=run, cost=cost, looks=looks, seconds=seconds))
    return found[1:]


def _loads(one: Measured) -> Array:
    """The terms of a run's seconds, in the order of `Rate`'s fields."""
    work = calibration.work(
        samples=one.cell.samples_seen + one.cell.batch,
        held_out=one.looks * VALIDATION,
        watched=(one.cell.steps - one.looks) * HEALTH_IMAGES + one.looks * READ_OUT,
        flops_train_image=one.cost.flops_train_image,
        flops_forward=one.cost.flops_forward,
        activation_bytes=one.cost.activation_bytes,
    )
    return np.array([1.0, one.cell.steps, *work])


def _predicted(rate: Rate, one: Measured) -> float:
    return float(np.array(astuple(rate)) @ _loads(one))


def fit_rate(measured: Sequence[Measured]) -> Rate:
    """Non-negative coefficients with the least relative error."""
    seconds = np.array([one.seconds for one in measured])
    return Rate(
        *non_negative(np.stack([_loads(one) for one in measured]) / seconds[:, None], np.ones(seconds.size))
    )


def non_negative(matrix: Array, target: Array) -> list[float]:
    """Least squares with coefficients of at least 0, which tries every subset of the few columns."""
    best, found = float("inf"), np.zeros(matrix.shape[1])
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    for size in range(1, matrix.shape[1] + 1):
        for chosen in itertools.combinations(range(matrix.shape[1]), size):
            columns = list(chosen)
            solution = np.linalg.lstsq(matrix[:, columns] / scale[columns], target, rcond=None)[0]
            error = float(((matrix[:, columns] / scale[columns] @ solution - target) ** 2).sum())
            if (solution >= 0).all() and error < best * (1 - 1e-9):
                best, found = error, np.zeros(matrix.shape[1])
                found[columns] = solution / scale[columns]
    return [float(value) for value in found]


def _probe_rate(
    learn: Any, folder: Path, clock: Callable[[], float], say: Callable[[str], None]
) -> ProbeRate:
    """Time the probes of two untrained encoders on three tasks."""
    rows, seconds = [], []
    for width, patch in ((64, 7), (128, 4)):
        cell = Cell(
            model=Model(name=f"w{width}", width=width, depth=4, heads=width // 64),
            recipe="random@1", resolution=28, patch=patch, channels=3, samples_seen=0, batch=0,
        )  # fmt: skip
        place = folder / cell.id
        learn.pretrain(cell, place)
        for classes, train in ((2, 300), (8, 400), (8, 1200)):
            task = _stand_in(folder / f"task-{classes}-{train}.npz", classes=classes, train=train)
            kind = "binary-class" if classes == 2 else "multi-class"
            probe = Probe(
                task=f"{classes}", fingerprint=task.fingerprint, kind=kind, classes=classes, path=task.path
            )
            began = clock()
            list(learn.probe(cell, place, [probe]))
            seconds.append(clock() - began)
            images = 2 * train + VALIDATION
            flops = images * price(cell).flops_forward
            rows.append([1.0, images, flops, train * classes * width, train * classes])
            say(f"probe of {train} images, {classes} classes, width {width}: {seconds[-1]:.2f} s")
    taken = np.array(seconds)
    return ProbeRate(*non_negative(np.array(rows) / taken[:, None], np.ones(taken.size)))
