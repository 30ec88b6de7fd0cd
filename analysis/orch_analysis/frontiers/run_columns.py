"""The columns of a table of runs that a frontier reads: sizes, data, compute and loss, of the usable rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from orch_analysis.fitting.used_rows.variables import as_numbers, require


def complete_rows(
    table: pl.DataFrame, names: Mapping[str, str | None], run: str | None = None
) -> pl.DataFrame:
    """The columns `names` (new name: column or None), and `run`, of the rows where all are positive numbers.

    Raises OrchError for columns that do not exist.
    """
    used = {key: name for key, name in names.items() if name}
    rows = pl.DataFrame({key: as_numbers(table, name) for key, name in used.items()})
    if run:
        require(table, run)
        rows = rows.with_columns(table[run].cast(pl.String).alias("run"))
    return rows.filter(pl.all_horizontal(pl.col(*used).is_finite() & (pl.col(*used) > 0)))


def prepared(
    table: pl.DataFrame, names: Mapping[str, str | None], run: str | None
) -> tuple[pl.DataFrame, float]:
    """Columns N, D, C, L (and run) of the usable rows, and k in C = k N D."""
    rows = complete_rows(table, names, run)
    factor = 6.0
    if names["D"] and names["C"] and rows.height:
        factor = float(np.median((rows["C"] / (rows["N"] * rows["D"])).to_numpy()))
    rows = rows.with_columns(
        *([] if names["C"] else [(factor * pl.col("N") * pl.col("D")).alias("C")]),
        *([] if names["D"] else [(pl.col("C") / (factor * pl.col("N"))).alias("D")]),
    )
    return rows, factor
