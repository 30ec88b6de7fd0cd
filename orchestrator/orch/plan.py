"""A plan: the cells and probes of a grid, what the study already holds of them, and what the rest costs."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orch.enumerate import cell_of, enumerate_cells
from orch_core.cell import Job, Probe, probe_from_json
from orch_core.check import CheckedGrid, read_grid
from orch_core.device import DEVICES, Device, hours
from orch_core.errors import OrchError
from orch_core.identity import digest
from orch_core.load import did_you_mean
from orch_core.record import dumps, write_atomic
from orch_core.study import Study, create_study, open_study

SCHEMA_VERSION = 1
POINTER = ".orch"  # in the working directory: the study planned there last


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cells (one row each, see `orch.enumerate`), the probes that every cell gets, and their cost.

    The frame has, beside the cell's columns: `state` (new, partial, done), `probes_left`, and
    `hours_low`, `hours_mid`, `hours_high` on one device. `absent` names sources and tasks whose files
    are not on this machine: such a plan is priced but cannot be launched.
    """

    study: str
    frame: pl.DataFrame
    probes: tuple[Probe, ...]
    device: str
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """Identity of the plan: of its cells and probes, not of their state."""
        return digest(
            {"cells": sorted(self.frame["id"].to_list()), "probes": [probe.id for probe in self.probes]}
        )

    def jobs(self) -> Iterator[Job]:
        """Every row as a job, in the order of the plan, what is done included."""
        for row in self.frame.iter_rows(named=True):
            seconds = 3600 * row["hours_mid"]
            yield Job(
                cell=cell_of(row), probes=self.probes, seconds=seconds, memory_bytes=row["memory_bytes"]
            )


def make_plan(grid: Path, study: Path | None = None) -> tuple[Plan, Study]:
    """Read, check, enumerate and price a grid, and write the plan into its study.

    Raises GridError for a wrong grid; OrchError for a study that is another's or cannot be written.
    """
    checked = read_grid(grid)
    frame = enumerate_cells(checked)
    probes = _probes(checked)
    device = _device(checked)
    root = study or Path("studies") / checked.grid.study
    opened = create_study(root.resolve(), checked.grid.study)
    plan = Plan(
        study=checked.grid.study,
        frame=_with_state(_with_hours(frame, probes, checked, device), opened, probes),
        probes=probes,
        device=device.name,
        absent=tuple(sorted(checked.absent)),
        notes=_notes(checked),
    )
    _write(plan, opened, checked)
    return plan, opened


def read_plan(study: Study) -> Plan:
    """The plan written last, with the state of the study as it is now; raises OrchError where there is none."""
    try:
        document = json.loads((study.root / "plan.json").read_text(encoding="utf-8"))
        frame = pl.read_parquet(study.root / "plan.parquet")
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        message = f"{study.root} holds no readable plan: {error}"
        raise OrchError(message, hint="run `orch plan GRID` first") from error
    probes = tuple(probe_from_json(probe) for probe in document["probes"])
    return Plan(
        study=document["study"],
        frame=_with_state(frame, study, probes),
        probes=probes,
        device=document["device"],
        absent=tuple(document["absent"]),
        notes=tuple(document["notes"]),
    )


def find_study(argument: Path | None) -> Study:
    """The study that a command means: a folder, a grid that was planned, or the study planned last here."""
    if argument is None:
        pointer = Path(POINTER)
        if not pointer.is_file():
            message = "no study was planned in this directory"
            raise OrchError(message, hint="run `orch plan GRID` here, or name the study's folder")
        return open_study(Path(pointer.read_text(encoding="utf-8").strip()))
    if argument.is_file():
        return open_study(Path("studies").resolve() / read_grid(argument).grid.study)
    return open_study(argument.resolve())


def summary(plan: Plan) -> dict[str, Any]:
    """The plan in numbers, as `orch plan --json` prints it."""
    left = plan.frame.filter(pl.col("state") != "done")
    states = dict(plan.frame.group_by("state").len().sort("state").iter_rows())
    totals = {
        name: float(left[name].sum()) for name in ("hours_low", "hours_mid", "hours_high", "flops_train")
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "study": plan.study,
        "plan": plan.hash,
        "cells": plan.frame.height,
        "states": {state: states.get(state, 0) for state in ("new", "partial", "done")},
        "probes": plan.frame.height * len(plan.probes),
        "probes_left": int(left["probes_left"].sum() or 0),
        "device": plan.device,
        **totals,
        "memory_bytes": float(left["memory_bytes"].max() or 0),  # type: ignore[arg-type]
        "checkpoint_bytes": float(left["checkpoint_bytes"].sum() or 0),
        "tasks": [probe.task for probe in plan.probes],
        "absent": list(plan.absent),
        "notes": list(plan.notes),
    }


def _probes(checked: CheckedGrid) -> tuple[Probe, ...]:
    probes = []
    for name in checked.grid.probes.tasks:
        facts = checked.tasks.get(name) or checked.sources[name]
        declared = checked.grid.tasks[name].kind if name in checked.grid.tasks else None
        kind = "multi-label" if facts.labels > 1 else "binary-class" if facts.classes == 2 else "multi-class"
        probes.append(
            Probe(
                task=name,
                fingerprint=facts.fingerprint,
                kind=declared or kind,
                classes=facts.classes,
                train_limit=checked.grid.probes.train_limit,
                path=str(checked.file(name)),
            )
        )
    return tuple(probes)


def _device(checked: CheckedGrid) -> Device:
    name = checked.grid.cluster.device or "CPU"
    if name not in DEVICES:
        message = f"unknown device {name!r}{did_you_mean(name, DEVICES)}"
        raise OrchError(message, hint="set cluster.device to one of them")
    return DEVICES[name]


def _with_hours(
    frame: pl.DataFrame, probes: Iterable[Probe], checked: CheckedGrid, device: Device
) -> pl.DataFrame:
    """Device-hours of training and of one pass of the probes' images through the encoder."""
    limit = checked.grid.probes.train_limit
    images = 0
    for probe in probes:
        counts = (checked.tasks.get(probe.task) or checked.sources[probe.task]).counts
        train = min(limit or counts["train"], counts["train"])
        images += train + counts.get("val", 0) + counts.get("test", 0)
    flops = pl.col("flops_train") + images * pl.col("flops_forward")
    rates = hours(1.0, device, checked.grid.training.precision)
    names = ("hours_low", "hours_mid", "hours_high")
    return frame.with_columns(**{name: flops * rate for name, rate in zip(names, rates, strict=True)})


def _with_state(frame: pl.DataFrame, study: Study, probes: tuple[Probe, ...]) -> pl.DataFrame:
    """Add `state` and `probes_left`, from the records that the study holds."""
    known = {entry.name for entry in os.scandir(study.root / "cells")}
    states, left = [], []
    for cell in frame["id"]:
        missing = len(probes)
        trained = cell in known and (study.cell_folder(cell) / "record.json").exists()
        if trained:
            record = study.record(cell)
            done = record is not None and record.status == "diverged"  # a result: nothing to probe
            missing = (
                0
                if done
                else sum(not (study.probe_folder(cell, probe) / "record.json").exists() for probe in probes)
            )
        states.append("new" if not trained else "partial" if missing else "done")
        left.append(missing)
    columns = [pl.Series("state", states, dtype=pl.String), pl.Series("probes_left", left, dtype=pl.Int64)]
    return frame.with_columns(columns)


def _notes(checked: CheckedGrid) -> tuple[str, ...]:
    """What a careful reader of the grid would want to know before launching."""
    notes = []
    for name, facts in checked.sources.items():
        dropped = facts.counts["train"] - facts.pretraining
        if dropped:
            notes.append(
                f"{name}: {dropped} training images are also in val or test; they are left out of pretraining"
            )
    for name in checked.grid.probes.tasks:
        facts = checked.tasks.get(name) or checked.sources[name]
        pairs = ", ".join(f"{count} in {pair}" for pair, count in facts.duplicates.items())
        if pairs:
            notes.append(
                f"{name}: its splits share byte-equal images ({pairs}); its probe is a little optimistic"
            )
    recipes = set(checked.grid.axes.algorithm)
    if not any(recipe.startswith("random@") for recipe in recipes):
        notes.append(
            "no random@1 in axes.algorithm: without that control a gain of size is not a gain of pretraining"
        )
    return tuple(notes)


def _write(plan: Plan, study: Study, checked: CheckedGrid) -> None:
    document = {
        **summary(plan),
        "grid": str(checked.path),
        "probes": [asdict(probe) for probe in plan.probes],
    }
    try:
        plan.frame.drop("state", "probes_left").write_parquet(study.root / ".plan.parquet")
        os.replace(study.root / ".plan.parquet", study.root / "plan.parquet")
        write_atomic(study.root / "grid.yaml", checked.text)
        write_atomic(study.root / "plan.json", dumps(document))
    except OSError as error:
        message = f"cannot write the plan into {study.root}: {error.strerror or error}"
        raise OrchError(message, hint="free some disk, or choose a writable folder with --study") from error
    with contextlib.suppress(
        OSError
    ):  # a read-only working directory only loses the default for the next command
        write_atomic(Path(POINTER), f"{study.root}\n")
