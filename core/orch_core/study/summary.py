"""A plan in numbers: the cells and probes that are not done, and their cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from orch_core.grid.pricing import FLOPS_PAID
from orch_core.study.plan import SCHEMA_VERSION, Plan, hours_left

FILES_PER_CELL = 14  # config, record, curves, encoder, four of an attempt, three each of two checkpoints
FILES_PER_PROBE = 3  # record, the bootstrap's AUCs, predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSummary:
    """A plan in numbers. All but `cells`, `states` and `probes` are of the cells that are not done.

    plan:             hash of the plan
    cells, probes:    of the plan; states: cells by `new`, `partial` (trained, probes missing) and `done`
    probes_left:      probes without a record
    hours_*:          device-hours, low, mid and high
    flops_train:      FLOPs of training; flops_shared: those that cells save by sharing trunks
    memory_bytes:     largest expected peak of training on one device
    checkpoint_bytes: one checkpoint of every cell
    usd_per_hour:     price of a device-hour, None without one; usd: of `hours_mid`
    budget:           limits in `gpu_hours` and `usd`, None for no limit
    sbatch_calls:     one per size class; files: files that the study will contain
    absent:           sources and tasks whose files are not on this machine
    """

    study: str
    plan: str
    cells: int
    states: Mapping[str, int]
    probes: int
    probes_left: int
    device: str
    rates: str
    hours_low: float
    hours_mid: float
    hours_high: float
    flops_train: float
    flops_shared: float
    memory_bytes: float
    checkpoint_bytes: float
    usd_per_hour: float | None
    usd: float | None
    budget: Mapping[str, float | None]
    sbatch_calls: int
    files: int
    tasks: tuple[str, ...]
    absent: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The summary as `orch plan --json` prints it."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def summary(plan: Plan) -> PlanSummary:
    """Count a plan's cells and probes, and add up the cost of those that are not done."""
    frame = plan.frame
    open_, new = pl.col("state") != "done", pl.col("state") == "new"
    hours = [hours_left(len(plan.probes), name) for name in ("hours_low", "hours_mid", "hours_high")]
    states = frame.select(
        *((pl.col("state") == kind).sum().alias(kind) for kind in ("new", "partial", "done"))
    )
    totals = frame.select(
        *(column.filter(open_).sum() for column in hours),
        FLOPS_PAID.filter(new).sum().alias("flops_train"),
        (pl.col("flops_train") - FLOPS_PAID).filter(new).sum().alias("flops_shared"),
        pl.col("probes_left").filter(open_).sum(),
        pl.col("memory_bytes").filter(open_).max().fill_null(0.0),
        pl.col("checkpoint_bytes").filter(open_).sum(),
        pl.col("size_class").filter(open_).n_unique().alias("sbatch_calls"),
        (FILES_PER_CELL * new.sum() + FILES_PER_PROBE * pl.col("probes_left").sum()).alias("files"),
    ).row(0, named=True)
    price = plan.usd_per_hour
    return PlanSummary(
        study=plan.study,
        plan=plan.hash,
        cells=frame.height,
        states=states.row(0, named=True),
        probes=frame.height * len(plan.probes),
        device=plan.device,
        rates=plan.rates,
        **totals,
        usd_per_hour=price,
        usd=None if price is None else price * totals["hours_mid"],
        budget=dict(plan.budget),
        tasks=tuple(probe.task for probe in plan.probes),
        absent=plan.absent,
        notes=plan.notes,
    )
