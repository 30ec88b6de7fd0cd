"""The part of a plan that a study has already: trained cells, and their finished probes."""

from __future__ import annotations

import polars as pl

from orch_core.cell import Probe
from orch_core.study.folder import Study


def with_state(frame: pl.DataFrame, study: Study, probes: tuple[Probe, ...]) -> pl.DataFrame:
    """Add `state` (new, partial, done) and `probes_left`, from the records in the study.

    Only folders that exist are looked at, so that a new plan costs the same however many cells it has.
    """
    folders = study.cells()
    there = frame.filter(pl.col("id").is_in(folders))["id"].to_list() if folders else []
    trained = [cell for cell in there if study.is_published(cell)]
    held = pl.DataFrame(
        {"id": trained, "_left": [_left(study, cell, probes) for cell in trained]},
        schema={"id": pl.String, "_left": pl.Int32},
    )
    if held.is_empty():
        return frame.with_columns(
            state=pl.lit("new", pl.Categorical), probes_left=pl.lit(len(probes), pl.Int32)
        )
    frame = frame.join(held, on="id", how="left", maintain_order="left")
    left = pl.col("_left")
    state = (
        pl.when(left.is_null())
        .then(pl.lit("new"))
        .when(left > 0)
        .then(pl.lit("partial"))
        .otherwise(pl.lit("done"))
    )
    return frame.with_columns(state=state.cast(pl.Categorical), probes_left=left.fill_null(len(probes))).drop(
        "_left"
    )


def _left(study: Study, cell: str, probes: tuple[Probe, ...]) -> int:
    """Probes of a trained cell without a record; none for a run that diverged, which is a result."""
    missing = sum(not study.is_published(cell, probe) for probe in probes)
    if missing:
        record = study.record(cell)
        return 0 if record is not None and record.status == "diverged" else missing
    return 0
