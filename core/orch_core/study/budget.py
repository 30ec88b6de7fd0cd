"""The budget of a study: hours are reserved before a launch, and cells beyond the limit are refused by name.

The ledger `budget.json` in the study contains the hours reserved for each cell. Once a cell is done, its
attempts' real hours count instead. Deleting the ledger only loses the reservations of launches that are
running.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orch_core.errors import OrchError
from orch_core.files import dumps, exclusive, write_atomic
from orch_core.formatting import quantity
from orch_core.study import attempts
from orch_core.study.folder import Study
from orch_core.study.plan import Plan, hours_left

NAMED = 10  # cells that an error names; the rest is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a study in device-hours and USD, None if unlimited; `usd_per_hour` prices a device-hour."""

    gpu_hours: float | None = None
    usd: float | None = None
    usd_per_hour: float | None = None

    @property
    def hours(self) -> float | None:
        """The tighter limit in device-hours."""
        bounds = [self.gpu_hours] if self.gpu_hours is not None else []
        if self.usd is not None and self.usd_per_hour:
            bounds.append(self.usd / self.usd_per_hour)
        return min(bounds, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The cells that fit a budget. All numbers are device-hours.

    limit:    of the study, None if unlimited
    spent:    by all attempts so far, failed ones included
    reserved: for unfinished cells of other launches
    fits:     unfinished rows of the plan that fit, in its order, with their hours as `asked`; asked: their
              sum
    refused:  the other unfinished rows, with their hours
    """

    limit: float | None
    spent: float
    reserved: float
    asked: float
    fits: pl.DataFrame
    refused: pl.DataFrame


def limits_of(plan: Plan, *, gpu_hours: float | None = None, usd: float | None = None) -> Limits:
    """The limits of a plan: those of its grid, unless given; raises OrchError for money without a price."""
    given = Limits(
        gpu_hours=gpu_hours if gpu_hours is not None else plan.budget.get("gpu_hours"),
        usd=usd if usd is not None else plan.budget.get("usd"),
        usd_per_hour=plan.usd_per_hour,
    )
    if given.usd is not None and not given.usd_per_hour:
        message = f"a budget of {given.usd:g} USD needs the price of a device-hour"
        raise OrchError(message, hint="set cluster.usd_per_gpu_hour, or give a budget in GPU-hours")
    return given


def assess(plan: Plan, study: Study, limits: Limits) -> Verdict:
    """Which of the cells that are not done fit the limits, in the order of the plan.

    A cheaper later cell may still fit after one that does not. A cell that continues one that does not fit
    has to train that cell's part of their trunk.
    """
    left = plan.frame.filter(pl.col("state") != "done")
    spent, mine = spent_hours(study), set(left["id"].to_list())
    reserved = sum(value for cell, value in open_reservations(study).items() if cell not in mine)
    room = float("inf") if limits.hours is None else limits.hours - spent - reserved
    taken, hours, fits = 0.0, [], []
    starts: dict[
        str, float
    ] = {}  # sample of the trunk where the next cell starts, by the cell that does not fit
    for cell, before, start, own, each in left.select(*_trunk_columns(len(plan.probes))).iter_rows():
        first = min(starts.get(before, start), start)
        hours.append(own + (start - first) * each)
        fits.append(taken + hours[-1] <= room)
        taken += hours[-1] if fits[-1] else 0.0
        if not fits[-1] and each:
            starts[cell] = first
    left = left.with_columns(asked=pl.Series(hours, dtype=pl.Float64))
    mask = pl.Series(fits, dtype=pl.Boolean)
    return Verdict(
        limit=limits.hours,
        spent=spent,
        reserved=reserved,
        asked=taken,
        fits=left.filter(mask),
        refused=left.filter(~mask),
    )


def _trunk_columns(probes: int) -> tuple[pl.Expr, ...]:
    """Ids, the cells they continue and from which sample, hours, and hours per sample (0 if trained)."""
    training = (pl.col("hours_mid") - pl.col("hours_probes")) / pl.col("samples_paid")
    untrained = (pl.col("state") == "new") & (pl.col("samples_paid") > 0)
    return (
        pl.col("id"),
        pl.col("continues"),
        (pl.col("samples_seen") - pl.col("samples_paid")).alias("start"),
        hours_left(probes),
        pl.when(untrained).then(training).otherwise(0.0).alias("each"),
    )


def reserve(plan: Plan, study: Study, limits: Limits, *, within: bool = False) -> Verdict:
    """Write the hours of a launch into the ledger, before it runs.

    Raises OrchError naming the cells that do not fit, and reserves nothing; with `within`, skips them
    instead.
    """
    with exclusive(study.budget_file.with_name(f".{study.budget_file.name}.lock")):
        verdict = assess(plan, study, limits)
        if verdict.refused.height and not within:
            raise _beyond(verdict)
        hours = verdict.fits.select("id", "asked")
        ledger = open_reservations(study) | dict(hours.iter_rows())
        write_atomic(study.budget_file, dumps({"schema_version": 1, "hours": ledger}))
    return verdict


def _beyond(verdict: Verdict) -> OrchError:
    refused = verdict.refused
    names = [describe(row) for row in refused.head(NAMED).iter_rows(named=True)]
    more = f" and {refused.height - NAMED:,} more" if refused.height > NAMED else ""
    short = float(refused["asked"].sum())
    message = (
        f"{refused.height:,} of {refused.height + verdict.fits.height:,} cells do not fit the budget of "
        f"{verdict.limit:.4g} device-hours ({verdict.spent:.4g} spent, {verdict.reserved:.4g} reserved, "
        f"{verdict.asked:.4g} for the cells that fit, {short:.4g} more asked for): {', '.join(names)}{more}"
    )
    return OrchError(message, hint="raise the budget, shrink the grid, or launch only the cells that fit")


def describe(row: Mapping[str, Any]) -> str:
    """A cell in words: `mae@1 ViT-S all 200000 seed 0 (1 M seen)`."""
    seen = f"({quantity(row['samples_seen'])} seen)" if row["samples_seen"] else ""
    parts = [row["recipe"], row["model"], row["mix"], row["images"] or "", f"seed {row['seed']}", seen]
    return " ".join(str(part) for part in parts if part)


def open_reservations(study: Study) -> dict[str, float]:
    """Hours reserved by cell, for cells without a published record."""
    try:
        ledger = json.loads(study.budget_file.read_bytes())["hours"]
        hours = {cell: float(value) for cell, value in ledger.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {cell: value for cell, value in hours.items() if not study.is_published(cell)}


def release(study: Study, cells: Iterable[str]) -> None:
    """Release the reservations of cells that will not run."""
    with exclusive(study.budget_file.with_name(f".{study.budget_file.name}.lock")):
        gone = set(cells)
        ledger = {cell: hours for cell, hours in open_reservations(study).items() if cell not in gone}
        write_atomic(study.budget_file, dumps({"schema_version": 1, "hours": ledger}))


def spent_hours(study: Study) -> float:
    """Device-hours of all attempts at all cells, running ones up to their last heartbeat."""
    seconds = 0.0
    for cell in map(study.cell_folder, study.cells()):
        for number in attempts.numbers(cell):
            folder = attempts.folder_of(cell, number)
            end = attempts.end_of(folder)
            seconds += end.device_seconds if end else _alive_for(folder)
    return seconds / 3600


def _alive_for(folder: Path) -> float:
    owner = attempts.owner_of(folder)
    try:
        alive = attempts.log_of(folder).stat().st_mtime - owner.started if owner else 0.0
    except FileNotFoundError:
        return 0.0
    return max(0.0, alive) * owner.devices if owner else 0.0
