"""Which rows of a table a fit can use, and why it leaves the others out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.points import ROW, Dropped
from orch_analysis.fitting.problem import to_link
from orch_analysis.fitting.used_rows.numerals import is_ambiguous
from orch_analysis.fitting.used_rows.variables import as_numbers, require
from orch_analysis.laws.law import Array, Law, Link


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
    if height and ROW not in table.columns:  # a table that was read has no duplicates any more
        first = table.with_row_index("_i").unique(subset=table.columns, keep="first")["_i"].to_numpy()
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
    _mark(reasons, np.isnan(numbers), f"{name} is not a number{_shown(table, column, np.isnan(numbers))}")


def _shown(table: pl.DataFrame, column: str | float, bad: NDArray[np.bool_]) -> str:
    """The first cell of text that is not a number, for a message."""
    if not isinstance(column, str) or table[column].dtype != pl.String:
        return ""
    cell = next((cell for cell in table[column].filter(pl.Series(bad)) if cell and cell.strip()), "")
    if not cell:
        return ""
    return f": {cell[:40]!r}" + (" can be read in two ways" if is_ambiguous(cell) else "")


def _outside(link: Link) -> str:
    if link == "log":
        return "is not positive, so it has no logarithm"
    return "is at or above the ceiling of 1 (a percentage?), so its error has no logarithm"


def _clusters(table: pl.DataFrame, column: str) -> Array:
    require(table, column)
    return np.unique(table[column].cast(pl.String).fill_null("").to_numpy(), return_inverse=True)[1].astype(
        float
    )


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
    """Two groups far apart that look like one quantity in two units (such as fractions and percent)."""
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
