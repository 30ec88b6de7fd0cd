"""Which rows of a table a fit can use, and why it leaves the others out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_analysis.fitting.estimates import Dropped
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.problem import to_link
from orch_analysis.laws.law import Array, Law, Link
from orch_core.errors import OrchError

COMPUTE = "6 * params * samples"  # stands for a column when a law needs compute and none is mapped
SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
SHOWN = 20  # columns that a message names
ROW = "_row"  # column with the row's number in its file, written by table.read_points


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """Rows that can enter a fit: variables and value as arrays of one length, and what was left out."""

    x: Mapping[str, Array]
    y: Array
    extra: Mapping[str, Array]
    clusters: Array | None
    dropped: tuple[Dropped, ...]


def usable(
    law: Law,
    table: pl.DataFrame,
    *,
    value: str,
    x: Mapping[str, str | float],
    link: Link,
    extra: tuple[str, ...] = (),
    cluster: str | None = None,
) -> Usable:
    """Split the table into rows that `law` can use and rows that it cannot, each with its reason.

    Raises OrchError when a column does not exist or holds no numbers; bad rows are only left out.
    """
    height = table.height
    columns = {name: as_numbers(table, column) for name, column in x.items()}
    y = as_numbers(table, value)
    extras = {name: as_numbers(table, name) for name in extra}
    reasons: list[str | None] = [None] * height
    for name in law.x:
        _mark_unusable(reasons, table, name, x[name], columns[name])
        _mark(reasons, columns[name] <= 0, f"{name} is not positive")
    _mark_unusable(reasons, table, value, value, y)
    _mark(reasons, ~np.isfinite(to_link(link, y)), f"{value} {_outside(link)}")
    for name in extra:
        _mark(
            reasons, ~(np.isfinite(extras[name]) & (extras[name] > 0)), f"{name} is missing or not positive"
        )
    if height:
        shown = table.drop(ROW) if ROW in table.columns else table
        first = shown.with_row_index("_i").unique(subset=shown.columns, keep="first")["_i"].to_numpy()
        _mark(reasons, ~np.isin(np.arange(height), first), "duplicate of an earlier row")
    keep = np.array([reason is None for reason in reasons], dtype=bool)
    numbers = table[ROW].to_list() if ROW in table.columns else range(1, height + 1)
    dropped = tuple(
        Dropped(row=int(row), reason=reason) for row, reason in zip(numbers, reasons, strict=True) if reason
    )
    return Usable(
        x={name: columns[name][keep] for name in law.x},
        y=y[keep],
        extra={name: part[keep] for name, part in extras.items()},
        clusters=_clusters(table, cluster)[keep] if cluster else None,
        dropped=dropped,
    )


def with_compute(table: pl.DataFrame, x: Mapping[str, str | float]) -> pl.DataFrame:
    """Add the training compute 6 N D in FLOPs (Kaplan et al. 2020, arXiv:2001.08361, eq. 2.2) as a column."""
    flops = 6.0 * as_numbers(table, x["params"]) * as_numbers(table, x["samples"])
    return table.with_columns(pl.Series(COMPUTE, flops))


def error_column(value: str, ceiling: float) -> str:
    """The name of the column of `with_error_column`."""
    return f"{ceiling:g} - {value}"


def with_error_column(table: pl.DataFrame, value: str, ceiling: float) -> pl.DataFrame:
    """Add what a metric lacks to its ceiling, the error that laws describe, as a column."""
    return table.with_columns(pl.Series(error_column(value, ceiling), ceiling - as_numbers(table, value)))


def _mark(reasons: list[str | None], bad: NDArray[np.bool_], reason: str) -> None:
    for row in np.flatnonzero(bad):
        reasons[row] = reasons[row] or reason


def _mark_unusable(
    reasons: list[str | None], table: pl.DataFrame, name: str, column: str | float, numbers: Array
) -> None:
    """Mark the rows in which `name` is no finite number, with what is there instead."""
    if isinstance(column, str):
        empty = table[column].is_null()
        if table[column].dtype == pl.String:
            empty = empty | (table[column].str.strip_chars() == "")
        _mark(reasons, empty.to_numpy(), f"{name} is missing")
    _mark(reasons, np.isinf(numbers), f"{name} is infinite")
    _mark(reasons, np.isnan(numbers), f"{name} is not a number")


def _outside(link: Link) -> str:
    if link == "log":
        return "is not positive, so it has no logarithm"
    return "is at or above the ceiling of 1 (a percentage?), so its error has no logarithm"


def as_numbers(table: pl.DataFrame, column: str | float) -> Array:
    """A column as numbers, NaN where there is none; a number stands for itself in every row.

    Text is read as people write sizes: `1,300,000`, `1.3M`, `70B`, with k, M, B or G, and T for powers of a thousand.
    Raises OrchError when there is no such column.
    """
    if isinstance(column, int | float):
        return np.full(table.height, float(column))
    require(table, column)
    series = table[column]
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean or series.dtype == pl.Null):
        series = _sizes(series.cast(pl.String).str.strip_chars())
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(float)


def _sizes(text: pl.Series) -> pl.Series:
    whole = text.str.contains(r"^[+-]?\d{1,3}(,\d{3})+(\.\d+)?\s*[kKMBGT]?$")
    text = text.str.replace_all(",", "", literal=True).zip_with(whole.fill_null(value=False), text)
    scale = text.str.extract(r"^[^a-zA-Z]+([kKMBGT])$", 1).replace_strict(SUFFIXES, return_dtype=pl.Float64)
    plain = text.str.replace(r"\s*[kKMBGT]$", "").zip_with(scale.is_not_null(), text)
    return plain.cast(pl.Float64, strict=False) * scale.fill_null(1.0)


def _clusters(table: pl.DataFrame, column: str) -> Array:
    require(table, column)
    return np.unique(table[column].cast(pl.String).fill_null("").to_numpy(), return_inverse=True)[1].astype(
        float
    )


def listed(names: Sequence[str]) -> str:
    """Names for a message; of many the first few."""
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def require(table: pl.DataFrame, column: str) -> None:
    """Raise OrchError when the table has no such column, with the nearest name as a hint, or one of lists."""
    if column not in table.columns:
        from difflib import get_close_matches

        names = [name for name in table.columns if name != ROW]
        close = get_close_matches(column, names, n=1, cutoff=0.5)
        msg = f"no column {column!r} in the table; it has: {listed(names)}"
        raise OrchError(
            msg, hint=f"did you mean {close[0]!r}?" if close else "map variables with --map variable=column"
        )
    if table[column].dtype.is_nested():
        msg = f"column {column!r} holds {table[column].dtype}, not one value per row"
        raise OrchError(msg, hint="write it out, or name another column")


def blocking_outcome(law: Law, rows: Usable, value: str) -> tuple[Outcome, str] | None:
    """Why these rows cannot determine the law at all, with what would help; None when a fit can be tried."""
    n, p = rows.y.size, len(law.free)
    if n == 0:
        why = f" ({rows.dropped[0].reason}, ...)" if rows.dropped else ""
        return Outcome.NO_DATA, f"no usable row{why}; check the column mapping and the rows left out"
    mixed = _mixed_units(rows, value)
    if mixed:
        return Outcome.MIXED_UNITS, mixed
    for name in law.x:
        if name != "classes" and np.unique(rows.x[name]).size == 1:
            only = rows.x[name][0]
            remedy = f"add points at other values of {name}, or use a law without it"
            return Outcome.ONE_SCALE, f"all {n} rows have {name} = {only:g}; {remedy}"
    if n <= p:
        remedy = f"it needs at least {p + 1}, add points or use a law with fewer parameters"
        return Outcome.TOO_FEW_POINTS, f"{n} points for the {p} parameters of {law.name}; {remedy}"
    if np.ptp(rows.y) <= 1e-12 * np.abs(rows.y).max():
        cause = f"{value} is {rows.y[0]:g} in all {n} rows"
        return Outcome.CONSTANT_VALUE, f"{cause}, so no exponent can be estimated; check the column"
    scales = np.unique(np.stack([rows.x[name] for name in law.x], axis=1), axis=0).shape[0]
    if scales < p:
        cause = f"{n} points at only {scales} distinct scales for the {p} parameters of {law.name}"
        remedy = "replicates do not help, add scales or use a law with fewer parameters"
        return Outcome.TOO_FEW_POINTS, f"{cause}; {remedy}"
    return None


def _mixed_units(rows: Usable, value: str) -> str | None:
    """Two far apart groups that look like one quantity in two units (fractions and percent, counts and millions)."""
    for name, numbers in {**rows.x, value: rows.y}.items():
        ordered = np.unique(numbers[numbers > 0])
        if ordered.size < 2:
            continue
        ratios = ordered[1:] / ordered[:-1]
        at = int(ratios.argmax())
        below, above, gap = float(ordered[at]), float(ordered[at + 1]), float(ratios[at])
        percent = name == value and gap > 15 and below <= 1.0 < above and ordered[-1] <= 100.0
        others = float(np.delete(ratios, at).max()) if ratios.size > 1 else float("inf")
        alone = gap > 2000 or (gap > 100 and gap > 10.0 * others)
        counts = name != value and alone and below < 1e5 and ordered[-1] / below > 1e4
        if percent or counts:
            kinds = "fractions and percentages" if percent else "two units (counts and millions?)"
            return (
                f"{name} jumps from {below:g} to {above:g}: it seems to mix {kinds}; "
                "convert the column to one unit and fit again"
            )
    return None


def data_warnings(law: Law, rows: Usable, value: str) -> tuple[str, ...]:
    """Warnings about rows that can be fitted but should be looked at."""
    out: list[str] = []
    if len(law.x) == 1:
        order = np.argsort(rows.x[law.x[0]], kind="stable")
        steps = np.diff(rows.y[order])[np.diff(rows.x[law.x[0]][order]) > 0]
        wrong = min(int((steps > 0).sum()), int((steps < 0).sum()))
        if wrong:
            out.append(
                f"{value} is not monotone in {law.x[0]}: {wrong} of {steps.size} steps go against the trend"
            )
    return tuple(out)
