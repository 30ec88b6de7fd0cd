"""A plan: the cells and probes of a grid, which of them the study already has, and the cost of the rest.

`plan.parquet` is the whole document: cells in rows, everything else in its metadata, sealed by the plan's
hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from orch_core.cell import Job, Probe, probe_from_json
from orch_core.errors import OrchError
from orch_core.files import dumps, write_atomic, write_parquet
from orch_core.grid.columns import cell_of
from orch_core.grid.names import cell_names
from orch_core.grid.resources import DEFAULT, SET_BY_ORCH, Cluster, ResourceClass
from orch_core.grid.section import name_fault
from orch_core.identity import digest, split_ids
from orch_core.study.folder import Study, open_study
from orch_core.study.holdings import with_state

SCHEMA_VERSION = 1
METADATA = "orch"  # key of the document in the Parquet's metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cells (one row each, see `orch_core.grid.cells`), the probes that every cell gets, and their cost.

    Besides a cell's columns, the frame has `state` (new, partial, done), `probes_left`, `hours_low`,
    `hours_mid`, `hours_high` and `hours_probes` in device-hours, `size_class`, `devices` (how many train the
    cell together), and `micro_batch` and `checkpointing`, chosen to fit the memory of each.

    device, rates: the device that hours are computed for, and whether speeds are measured or assumed
    cluster: the grid's section of that name: resources of jobs, by size class
    usd_per_hour: price of a device-hour, or None; budget: `gpu_hours` and `usd`, None if unlimited
    test_images: size of each task's test split
    absent: sources and tasks whose files are not on this machine: such a plan cannot be launched
    """

    study: str
    frame: pl.DataFrame
    probes: tuple[Probe, ...]
    device: str
    rates: str = ""
    cluster: Cluster = field(default_factory=Cluster)
    usd_per_hour: float | None = None
    budget: Mapping[str, float | None] = field(default_factory=dict)
    test_images: Mapping[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """Identity of the plan: of its set of cells and its probes, not of their order or state."""
        sums = np.zeros(2, dtype=np.uint64)
        for part in self.frame.select("id").iter_slices(500_000):
            sums += split_ids(part["id"]).sum(axis=0, dtype=np.uint64)
        cells = [self.frame.height, *map(int, sums)]
        return digest({"cells": cells, "probes": [probe.id for probe in self.probes]})

    def names(self) -> pl.Series:
        """The names of its cells, in its order."""
        return cell_names(self.frame)

    def jobs(self) -> Iterator[Job]:
        """Every row as a job, in the order of the plan, finished ones included."""
        for row, name in zip(self.frame.iter_rows(named=True), self.names(), strict=True):
            seconds = 3600 * row["hours_mid"] / row["devices"]
            yield Job(
                cell=cell_of(row, name),
                probes=self.probes,
                seconds=seconds,
                memory_bytes=row["memory_bytes"],
                size_class=row["size_class"],
                micro_batch=row["micro_batch"],
                checkpointing=row["checkpointing"],
                devices=row["devices"],
            )


def read_plan(study: Study) -> Plan:
    """The last plan, with the present state of the study; raises OrchError if there is none."""
    plan = stored_plan(study)
    return replace(plan, frame=with_state(plan.frame, study, plan.probes))


def stored_plan(study: Study) -> Plan:
    """The last plan as written, without the state of its cells; raises OrchError if it cannot be read."""
    plan = _read(study.plan_table)[0]
    _belongs(plan, study)
    return plan


def open_plan(path: Path) -> tuple[Plan, Study]:
    """A plan file exactly as written, and its study, whose present state the plan has.

    Raises OrchError if it is not a plan, was changed after it was written, or its study is missing.
    """
    plan, root = _read(path)
    beside = next((parent for parent in path.resolve().parents if (parent / "study.json").exists()), root)
    study = open_study(beside)
    _belongs(plan, study)
    return replace(plan, frame=with_state(plan.frame, study, plan.probes)), study


def _belongs(plan: Plan, study: Study) -> None:
    if plan.study != study.name:
        message = f"the plan in {study.root} is of another study: {plan.study!r}, not {study.name!r}"
        raise OrchError(message, hint="plan again with `orch plan GRID`, or move it back to its study")


def _document(path: Path) -> dict[str, Any]:
    metadata = pl.read_parquet_metadata(path)
    if METADATA not in metadata or not {"samples_paid", "devices"} <= set(pl.read_parquet_schema(path)):
        message = "a table without a plan's metadata, or written by an older orch"
        raise ValueError(message)
    document: dict[str, Any] = json.loads(metadata[METADATA])
    return document


def _read(path: Path) -> tuple[Plan, Path]:
    try:
        document = _document(path)
        frame = pl.read_parquet(path)
        probes = tuple(probe_from_json(probe) for probe in document["probes"])
        faults = [name_fault(probe.task) for probe in probes]
        if any(faults):
            raise ValueError(next(fault for fault in faults if fault))  # noqa: TRY301 - one message for all
        plan = Plan(
            **{
                name: document[name]
                for name in ("study", "device", "rates", "usd_per_hour", "budget", "test_images")
            },
            frame=frame,
            probes=probes,
            cluster=_cluster(document),
            absent=tuple(document["absent"]),
            notes=tuple(document["notes"]),
        )
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        message = f"{path} is not a readable plan: {error}"
        raise OrchError(message, hint="run `orch plan GRID` first") from error
    if plan.hash != document["plan"]:
        message = f"{path} was changed after it was written: its cells hash to {plan.hash[:12]}"
        raise OrchError(
            message, hint=f"it was plan {document['plan'][:12]}; plan again with `orch plan GRID`"
        )
    return plan, Path(document["root"])


def _cluster(document: Mapping[str, Any]) -> Cluster:
    """The cluster of a plan; plans of orch before 0.2 list every class with all that it asks for."""
    if "cluster" in document:
        return Cluster.model_validate(document["cluster"])
    classes = {name: _allowed(given) for name, given in document["classes"].items()}
    shared = classes.pop(DEFAULT)
    fields = ResourceClass.model_fields
    own = [
        {"name": name, "when": "", **{key: value for key, value in given.items() if key in fields}}
        for name, given in classes.items()
    ]
    return Cluster.model_validate({**shared, "classes": own})


def _allowed(given: Mapping[str, Any]) -> dict[str, Any]:
    """An old plan's Slurm options without those that orch sets itself, which grids may no longer give."""
    options = {
        name: value for name, value in given["sbatch"].items() if name.replace("_", "-") not in SET_BY_ORCH
    }
    return {**given, "sbatch": options}


def write_plan(plan: Plan, study: Study, *, grid: Path, text: str, numbers: Mapping[str, Any]) -> None:
    """Write a plan and its summary into its study, as the last plan; raises OrchError if it cannot."""
    document = {
        **numbers,
        "root": str(study.root),
        "grid": str(grid),
        "cluster": plan.cluster.model_dump(exclude_none=True),
        "test_images": plan.test_images,
        "probes": [asdict(probe) for probe in plan.probes],
    }
    kept = study.plans / f"{numbers['plan'][:12]}.parquet"
    frame = plan.frame.drop("state", "probes_left")
    try:
        kept.parent.mkdir(exist_ok=True)
        write_parquet(frame, kept, compression="lz4", metadata={METADATA: json.dumps(document)})
        write_atomic(study.plan_table, kept.read_bytes())
        write_atomic(study.grid_file, text)
        write_atomic(study.plan_file, dumps(document))
    except OSError as error:
        message = f"cannot write the plan into {study.root}: {error.strerror or error}"
        raise OrchError(message, hint="free some disk, or choose a writable folder with --study") from error


def hours_left(probes: int, column: str = "hours_mid") -> pl.Expr:
    """Remaining device-hours of a row: all for a new cell, those of its missing probes for a trained one."""
    ratio = pl.when(pl.col("hours_mid") > 0).then(pl.col(column) / pl.col("hours_mid")).otherwise(0.0)
    probing = ratio * pl.col("hours_probes") * pl.col("probes_left") / max(probes, 1)
    return pl.when(pl.col("state") == "new").then(pl.col(column)).otherwise(probing).alias(column)
