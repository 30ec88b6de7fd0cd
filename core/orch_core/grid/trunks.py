"""Cells that differ in length (or cool-down) alone share a trunk: one run at a constant rate, from which each branches off.

Every cell of a trunk goes on from where the one before it branched off, so that it pays the rest of the trunk up to
its own branch, and its own cool-down: together the longest trunk once, and every cool-down (Hägele et al. 2024,
arXiv:2405.18392, section 4). What a trunk is, `orch_core.recipes.trunk` says cell by cell; here it is said by the column.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from orch_core.grid.axes import Block, refuse
from orch_core.grid.check import CheckedGrid
from orch_core.grid.language import LENGTHS
from orch_core.identity import LANE, lanes
from orch_core.recipes.base import branch_step


def schedule_of(overrides: str) -> tuple[float, int]:
    """Share of the cool-down and samples of warm-up in a cell's `overrides` (JSON); 0 where they are not set."""
    given: dict[str, Any] = dict(json.loads(overrides))
    return float(given.get("cooldown", 0.0)), int(given.get("warmup_samples", 0))


def refuse_short(checked: CheckedGrid, block: Block, frame: pl.DataFrame) -> None:
    """Raise GridError, at its place, for a run that ends before warm-up and cool-down have room in it."""
    for overrides in frame["overrides"].unique():
        cooldown, warmup = schedule_of(overrides)
        runs = frame.filter((pl.col("overrides") == overrides) & (pl.col("samples_seen") > 0))["samples_seen"]
        shortest = runs.min() if runs.len() else None
        if isinstance(shortest, int) and warmup and warmup >= (1 - cooldown) * shortest:
            name = "budgets" if block.isoflop else next(name for name in LENGTHS if block.axes.get(name))
            message = (
                f"a run of {shortest:,} samples ends before {warmup:,} of warm-up and {100 * cooldown:g}% of cool-down: "
                "lower `warmup_samples` or `cooldown`, or train longer"
            )
            raise refuse(checked, (*block.loc, name), message)


def with_trunks(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `samples_paid`, the samples a cell has to train on, and `continues`, the id of the cell it goes on from.

    Without a shared trunk a cell pays all it sees, and `continues` is null. Within a trunk rows come in the order in
    which they branch off. The frame has `id`, and the first half of it as `_high`.
    """
    frame = frame.with_columns(samples_paid=pl.col("samples_seen"), continues=pl.lit(None, pl.String))
    shared = [overrides for overrides in frame["overrides"].unique() if all(schedule_of(overrides))]
    if not shared:
        return frame
    frame = frame.with_row_index("_place")
    sharing = pl.col("overrides").cast(pl.String).is_in(shared)
    cells = with_branches(frame.filter(sharing))
    trunk = cells["_high"].to_numpy() - cells["_own"].to_numpy()
    cells = cells.with_columns(_trunk=pl.Series(trunk, dtype=pl.UInt64))
    cells = cells.sort("_trunk", "_branch", "samples_seen").with_columns(
        samples_paid=pl.col("samples_seen") - pl.col("_branch").shift(1).over("_trunk").fill_null(0),
        continues=pl.col("id").shift(1).over("_trunk"),
        _place=pl.col("_place").sort().over("_trunk"),
    )
    whole = pl.concat([frame.filter(~sharing), cells.drop("_trunk", "_branch", "_own")])
    return whole.sort("_place").drop("_place")


def with_branches(cells: pl.DataFrame) -> pl.DataFrame:
    """Add `_branch`, the samples that cells of other lengths share, and `_own`, half of the hash of what they do not.

    Ids are sums of hashes of their fields (`orch_core.identity`): an id less `_own` is the trunk's. Both are 0 for cells
    that share nothing.
    """
    kinds = cells.select("overrides", "samples_seen", "batch").unique()
    branches, own = [], []
    for overrides, samples, batch in kinds.iter_rows():
        if not all(schedule_of(overrides)):
            branches.append(0)
            own.append(0)
            continue
        given = dict(json.loads(overrides))
        branches.append(batch * branch_step(samples // batch, given))
        rest = {name: value for name, value in given.items() if name != "cooldown"}
        half = lanes("samples_seen", samples)[0] + lanes("overrides", given)[0] - lanes("overrides", rest)[0]
        own.append(half % LANE)
    found = kinds.with_columns(
        _branch=pl.Series(branches, dtype=pl.Int64), _own=pl.Series(own, dtype=pl.UInt64)
    )
    return cells.join(found, on=["overrides", "samples_seen", "batch"], how="left", maintain_order="left")
