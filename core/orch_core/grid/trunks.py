"""Cells that differ only in length (or cool-down) share a trunk, one run from which they branch off.

A trunk has a constant rate. Every cell of it continues from where the cell before it branched off. It pays
the rest of the trunk up to its branch, and its cool-down: together they pay the longest trunk once, and every
cool-down (Hägele et al. 2024, arXiv:2405.18392, section 4). `orch_core.recipes.trunk` defines trunks cell by
cell; this module finds them by column.
"""

from __future__ import annotations

import polars as pl

from orch_core.cell import Override
from orch_core.grid.axes import Block, refuse
from orch_core.grid.check import CheckedGrid
from orch_core.grid.columns import COLUMNS, overrides_of
from orch_core.grid.language import LENGTHS
from orch_core.recipes.base import branch_step

# columns that cells of one trunk have in common, with all overrides except the cool-down
SHARED = tuple(
    column.name for column in COLUMNS if column.field and column.name not in {"samples_seen", "overrides"}
)


def schedule_of(overrides: tuple[Override, ...]) -> tuple[float, int]:
    """Fraction of the cool-down and samples of warm-up in a cell's overrides; 0 if they are not set."""
    given = dict(overrides)
    return float(given.get("cooldown", 0.0)), int(given.get("warmup_samples", 0))


def refuse_short(checked: CheckedGrid, block: Block, frame: pl.DataFrame) -> None:
    """Raise GridError, at its place, for a run that is too short for warm-up and cool-down."""
    for overrides in frame["overrides"].unique():
        cooldown, warmup = schedule_of(overrides_of(overrides))
        runs = frame.filter((pl.col("overrides") == overrides) & (pl.col("samples_seen") > 0))["samples_seen"]
        shortest = runs.min() if runs.len() else None
        if isinstance(shortest, int) and warmup and warmup >= (1 - cooldown) * shortest:
            name = "budgets" if block.isoflop else next(name for name in LENGTHS if block.axes.get(name))
            message = (
                f"a run of {shortest:,} samples is too short for {warmup:,} of warm-up and "
                f"{100 * cooldown:g}% of cool-down: lower `warmup_samples` or `cooldown`, or train longer"
            )
            raise refuse(checked, (*block.loc, name), message)


def with_trunks(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `samples_paid`, the samples that a cell trains on, and `continues`, the id of the cell before it.

    Without a shared trunk a cell pays all samples that it sees, and `continues` is null. Within a trunk, rows
    are in the order in which they branch off.
    """
    frame = frame.with_columns(samples_paid=pl.col("samples_seen"), continues=pl.lit(None, pl.String))
    shared = [text for text in frame["overrides"].unique() if all(schedule_of(overrides_of(text)))]
    if not shared:
        return frame
    frame = frame.with_row_index("_place")
    sharing = pl.col("overrides").cast(pl.String).is_in(shared)
    cells = with_branches(frame.filter(sharing))
    others = {text: str([one for one in overrides_of(text) if one[0] != "cooldown"]) for text in shared}
    rest = pl.col("overrides").cast(pl.String).replace_strict(others)
    trunk = cells.select(*SHARED, rest).hash_rows()
    cells = cells.with_columns(trunk.alias("_trunk")).sort("_trunk", "branch", "samples_seen")
    cells = cells.with_columns(
        samples_paid=pl.col("samples_seen") - pl.col("branch").shift(1).over("_trunk").fill_null(0),
        continues=pl.col("id").shift(1).over("_trunk"),
        _place=pl.col("_place").sort().over("_trunk"),
    )
    whole = pl.concat([frame.filter(~sharing), cells.drop("_trunk", "branch")])
    return whole.sort("_place").drop("_place")


def with_branches(cells: pl.DataFrame) -> pl.DataFrame:
    """Add `branch`, the samples that a cell shares with cells of other lengths; 0 without a shared trunk."""
    runs = cells.select("overrides", "samples_seen", "batch").unique()
    branches = []
    for text, samples, batch in runs.iter_rows():
        given = overrides_of(text)
        shares = all(schedule_of(given))
        branches.append(batch * branch_step(samples // batch, dict(given)) if shares else 0)
    found = runs.with_columns(branch=pl.Series(branches, dtype=pl.Int64))
    return cells.join(found, on=["overrides", "samples_seen", "batch"], how="left", maintain_order="left")
