"""A plan: the cells and probes of a grid, what the study already holds of them, and what the rest costs.

`plan.parquet` is the whole document: cells in rows, everything else in its metadata, sealed by the plan's hash.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from orch.planning import calibration
from orch.planning.calibration import ProbeLoad
from orch.planning.pricing import (
    FLOPS_PAID,
    device_named,
    hours_left,
    logistics,
    money,
    with_classes,
    with_hours,
    with_micro_batches,
)
from orch.studies import POINTER
from orch_core.cell import Job, Probe, probe_from_json
from orch_core.device import Device
from orch_core.errors import OrchError
from orch_core.files import dumps, write_atomic
from orch_core.grid.cells import cell_of, enumerate_cells, halves_of
from orch_core.grid.check import CheckedGrid, read_grid
from orch_core.grid.resources import DEFAULT, Cluster, ResourceClass
from orch_core.identity import digest
from orch_core.images.npz import NpzFacts
from orch_core.study.folder import Study, create_study, open_study
from orch_core.study.holdings import with_state

SCHEMA_VERSION = 1
METADATA = "orch"  # key of the document in the Parquet's metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cells (one row each, see `orch_core.grid.cells`), the probes that every cell gets, and their cost.

    The frame has, beside the cell's columns: `state` (new, partial, done), `probes_left`, `hours_low`, `hours_mid`,
    `hours_high` and `hours_probes` of devices, `size_class`, `devices`, how many train it together, and `micro_batch` and
    `checkpointing` that fit the memory of each.
    device, rates: what hours are computed for, and whether from measured or assumed speeds
    cluster: the grid's section of that name: what jobs ask for, by size class
    usd_per_hour: price of a device-hour, None without one; budget: `gpu_hours` and `usd`, None without a limit
    test_images: size of each task's test split
    absent:  sources and tasks whose files are not on this machine: such a plan cannot be launched
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
            sums += np.array([half.sum() for half in halves_of(part["id"])], dtype=np.uint64)
        cells = [self.frame.height, *map(int, sums)]
        return digest({"cells": cells, "probes": [probe.id for probe in self.probes]})

    def jobs(self) -> Iterator[Job]:
        """Every row as a job, in the order of the plan, what is done included."""
        for row in self.frame.iter_rows(named=True):
            seconds = 3600 * row["hours_mid"] / row["devices"]
            yield Job(
                cell=cell_of(row),
                probes=self.probes,
                seconds=seconds,
                memory_bytes=row["memory_bytes"],
                size_class=row["size_class"],
                micro_batch=row["micro_batch"],
                checkpointing=row["checkpointing"],
            )


def draft(
    grid: Path, study: Path | None = None, *, gpu_hours: float | None = None, usd: float | None = None
) -> tuple[Plan, Study, CheckedGrid]:
    """Read, check, enumerate and price a grid, without writing a plan; opens or creates the study.

    gpu_hours, usd: limits that take the place of the grid's budget.
    Raises GridError for a wrong grid; OrchError for a study that is another's or cannot be written.
    """
    checked = read_grid(grid)
    frame, probes, cluster = enumerate_cells(checked), _probes(checked), checked.grid.cluster
    precision = checked.grid.training.precision
    device = device_named(cluster.device, precision)
    measured = calibration.load(device.name, precision)
    frame = with_hours(
        with_classes(frame, cluster),
        load=_load(checked, probes),
        device=device,
        precision=precision,
        measured=measured,
    )
    frame = with_micro_batches(frame, device)
    given = {"gpu_hours": gpu_hours, "usd": usd}
    root = study or Path("studies") / checked.grid.study
    opened = create_study(root.resolve(), checked.grid.study)
    plan = Plan(
        study=checked.grid.study,
        frame=with_state(frame, opened, probes),
        probes=probes,
        device=device.name,
        rates=f"measured on {measured.machine}, {measured.measured}" if measured else _assumed(device),
        cluster=cluster,
        usd_per_hour=cluster.usd_per_gpu_hour,
        budget=checked.grid.budget.model_dump() | {k: v for k, v in given.items() if v is not None},
        test_images={probe.task: _facts(checked, probe.task).counts.get("test", 0) for probe in probes},
        absent=tuple(sorted(checked.absent)),
        notes=(
            *_notes(checked),
            *_fit_notes(frame, device),
        ),
    )
    return plan, opened, checked


def make_plan(grid: Path, study: Path | None = None) -> tuple[Plan, Study]:
    """Draft a plan (see `draft`) and write it into its study."""
    plan, opened, checked = draft(grid, study)
    write(plan, opened, checked, summary(plan))
    return plan, opened


def read_plan(study: Study) -> Plan:
    """The plan written last, with the state of the study as it is now; raises OrchError where there is none."""
    plan, _ = _read(study.root / "plan.parquet")
    return replace(plan, frame=with_state(plan.frame, study, plan.probes))


def open_plan(path: Path) -> tuple[Plan, Study]:
    """A plan's own file, exactly as it was written, and the study it belongs to, whose state it is shown with.

    Raises OrchError where it is no plan, was changed after it was written, or its study is gone.
    """
    plan, root = _read(path)
    beside = next((parent for parent in path.resolve().parents if (parent / "study.json").exists()), root)
    study = open_study(beside)
    return replace(plan, frame=with_state(plan.frame, study, plan.probes)), study


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
    classes = {name: dict(given) for name, given in document["classes"].items()}
    shared = classes.pop(DEFAULT)
    fields = ResourceClass.model_fields
    own = [
        {"name": name, "when": "", **{key: value for key, value in given.items() if key in fields}}
        for name, given in classes.items()
    ]
    return Cluster.model_validate({**shared, "classes": own})


def summary(plan: Plan) -> dict[str, Any]:
    """The plan in numbers, as `orch plan --json` prints it."""
    kinds = ("new", "partial", "done")
    states = plan.frame.select((pl.col("state") == kind).sum().alias(kind) for kind in kinds).row(
        0, named=True
    )
    open_, new = pl.col("state") != "done", pl.col("state") == "new"
    hours = [hours_left(len(plan.probes), name) for name in ("hours_low", "hours_mid", "hours_high")]
    totals = plan.frame.select(
        *(column.filter(open_).sum() for column in hours),
        FLOPS_PAID.filter(new).sum().alias("flops_train"),
        (pl.col("flops_train") - FLOPS_PAID).filter(new).sum().alias("flops_shared"),
        pl.col("probes_left").filter(open_).sum(),
        pl.col("memory_bytes").filter(open_).max().fill_null(0.0),
        pl.col("checkpoint_bytes").filter(open_).sum(),
    ).row(0, named=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "study": plan.study,
        "plan": plan.hash,
        "cells": plan.frame.height,
        "states": states,
        "probes": plan.frame.height * len(plan.probes),
        "device": plan.device,
        "rates": plan.rates,
        **totals,
        "usd_per_hour": plan.usd_per_hour,
        "usd": money(totals["hours_mid"], plan.usd_per_hour),
        "budget": dict(plan.budget),
        **logistics(plan.frame),
        "tasks": [probe.task for probe in plan.probes],
        "absent": list(plan.absent),
        "notes": list(plan.notes),
    }


def _probes(checked: CheckedGrid) -> tuple[Probe, ...]:
    probes = []
    for name in checked.probed:
        facts = _facts(checked, name)
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


def _load(checked: CheckedGrid, probes: tuple[Probe, ...]) -> ProbeLoad:
    """What the probes of one cell have to do."""
    limit, images, fit, test = checked.grid.probes.train_limit, 0, 0, 0
    for probe in probes:
        counts = _facts(checked, probe.task).counts
        train = min(limit or counts["train"], counts["train"])
        images += train + counts.get("val", 0) + counts.get("test", 0)
        fit += train * probe.classes
        test += counts.get("test", 0) * probe.classes
    return ProbeLoad(tasks=len(probes), images=images, fit=fit, test=test)


def _facts(checked: CheckedGrid, task: str) -> NpzFacts:
    return checked.tasks.get(task) or checked.sources[task]


def _assumed(device: Device) -> str:
    low, mid, high = (round(100 * share) for share in device.utilisation)
    return f"assumed: {mid}% of {device.name}'s peak ({low} to {high}%); `orch calibrate` measures it"


def _fit_notes(frame: pl.DataFrame, device: Device) -> list[str]:
    """Which batches do not fit the device's memory, and what would."""
    trained = frame.filter(pl.col("activation_bytes") > 0).with_columns(
        share=(pl.col("batch") / pl.col("devices").clip(lower_bound=1)).ceil()
    )
    groups = trained.filter((pl.col("micro_batch") < pl.col("share")) | pl.col("checkpointing")).group_by(
        "recipe", "model", maintain_order=True
    )
    notes = []
    columns = pl.col("micro_batch", "checkpointing", "memory_bytes", "share").first()
    for row in groups.agg(columns).iter_rows(named=True):
        name, micro, share = f"{row['recipe']} {row['model']}", row["micro_batch"], row["share"]
        if micro:
            again = ", its blocks computed again in the backward pass" if row["checkpointing"] else ""
            words = f"a batch of {share:g} does not fit one {device.name}; {micro} at a time do{again}"
        else:
            gib = row["memory_bytes"] / 2**30
            words = (
                f"even one image at a time takes {gib:.1f} GiB, more than one {device.name} has: "
                "share the batch among more GPUs (gpus_per_node), or lower it"
            )
        notes.append(f"{name}: {words}")
    return notes


def _notes(checked: CheckedGrid) -> tuple[str, ...]:
    """What a careful reader of the grid would want to know before launching."""
    notes = []
    for name, facts in checked.sources.items():
        dropped = facts.counts["train"] - facts.pretraining
        if dropped:
            notes.append(
                f"{name}: {dropped} training images are also in val or test; they are left out of pretraining"
            )
    for name in checked.probed:
        facts = _facts(checked, name)
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


def write(plan: Plan, study: Study, checked: CheckedGrid, numbers: Mapping[str, Any]) -> None:
    """Write a plan with its summary into its study, as the plan planned last; raises OrchError where it cannot."""
    document = {
        **numbers,
        "root": str(study.root),
        "grid": str(checked.path),
        "cluster": plan.cluster.model_dump(exclude_none=True),
        "test_images": plan.test_images,
        "probes": [asdict(probe) for probe in plan.probes],
    }
    kept = study.root / "plans" / f"{numbers['plan'][:12]}.parquet"
    frame = plan.frame.drop("state", "probes_left")
    try:
        kept.parent.mkdir(exist_ok=True)
        partial = kept.with_name(f".{kept.name}.{os.getpid()}")
        metadata = {METADATA: json.dumps(document)}
        frame.write_parquet(partial, compression="lz4", statistics=False, metadata=metadata)
        os.replace(partial, kept)
        shutil.copyfile(kept, partial)
        os.replace(partial, study.root / "plan.parquet")
        write_atomic(study.root / "grid.yaml", checked.text)
        write_atomic(study.root / "plan.json", dumps(document))
    except OSError as error:
        message = f"cannot write the plan into {study.root}: {error.strerror or error}"
        raise OrchError(message, hint="free some disk, or choose a writable folder with --study") from error
    # a read-only working directory only loses the default for the next command
    with contextlib.suppress(OSError):
        write_atomic(Path(POINTER), f"{study.root}\n")
