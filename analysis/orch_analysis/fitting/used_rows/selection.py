"""Which rows of a table are fitted, and columns that are computed from others.

The options are those of `FitOptions`: `where`, `best_per` and so on. Rows that are not chosen are left out
with their reason, as all others are. Everything here may be applied twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

import polars as pl

from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.points import ROW, Dropped, Points
from orch_analysis.fitting.used_rows.numerals import as_floats
from orch_analysis.fitting.used_rows.variables import COMPUTE, as_numbers, require, with_value
from orch_core.errors import OrchError

if TYPE_CHECKING:
    from orch_core.grid.expression import Kind

HIGHER = ("auc", "accuracy", "acc", "acc1", "f1", "r2", "dice")  # values of which the highest is the best


def selected(points: Points, options: FitOptions) -> Points:
    """The rows that `where` chooses, with a column for every expression that `value` or `x` is.

    Raises OrchError for an expression that cannot be computed, and for one that chooses no row.
    """
    frame = points.frame
    for text in (options.value, *options.x.values()):
        if isinstance(text, str) and _is_computed(frame, text):
            plain = _as_numbers(frame)
            numbers = plain.select(_expression(plain, text, "number").cast(pl.Float64)).to_series()
            frame = frame.with_columns(numbers.alias(text))
    points = replace(points, frame=frame)
    if not options.where:
        return points
    kept = frame.select(_expression(frame, options.where, "truth").fill_null(value=False)).to_series()
    if frame.height and not kept.any():
        message = f"no row of {points.source} has {options.where}"
        raise OrchError(message, hint="check the values of the columns that it names")
    return _kept(points, kept, f"not chosen: {options.where}")


def best(points: Points, options: FitOptions, by: Sequence[str] = ()) -> Points:
    """The best row for each value of `best_per`'s columns and of `by`, and the rows on `envelope`'s envelope.

    The best value is the lowest; of an AUC or accuracy, and with a ceiling, the highest.
    """
    if not (options.best_per or options.envelope):
        return points
    value = with_value(points.frame, options).value
    numbers = pl.Series("_value", as_numbers(points.frame, value)).fill_nan(None)
    highest = options.ceiling is not None or value.lower().rsplit("/", 1)[-1].rsplit("_", 1)[-1] in HIGHER
    word = "highest" if highest else "lowest"
    score = -numbers if highest else numbers
    if options.best_per:
        names = list(dict.fromkeys([*by, *options.best_per]))
        least = _over(points.frame, score, names, pl.col("_value").min())
        points = _kept(points, score == least, f"not the {word} {value} of its {', '.join(options.best_per)}")
        score = score.filter(score == least)
    if options.envelope:
        require(points.frame, options.envelope)
        order = pl.Series("_order", as_numbers(points.frame, options.envelope))
        frame = points.frame.with_columns(score.alias("_value"), order.alias("_order")).with_row_index(
            "_place"
        )
        running = pl.col("_value").cum_min()
        running = running.over(by) if by else running
        frame = frame.sort("_order", "_value").with_columns(running.alias("_least"))
        kept = frame.sort("_place").select(pl.col("_value") <= pl.col("_least")).to_series()
        points = _kept(points, kept, f"a row with no more {options.envelope} has a better {value}")
    return points


def _over(frame: pl.DataFrame, score: pl.Series, names: Sequence[str], what: pl.Expr) -> pl.Series:
    for name in names:
        require(frame, name)
    return frame.select(*names).with_columns(score.alias("_value")).select(what.over(names)).to_series()


def _is_computed(frame: pl.DataFrame, text: str) -> bool:
    """Whether a word that names no column is an expression: it has an operator and is no misspelt name."""
    if not text or text in frame.columns or text == COMPUTE or get_close_matches(text, frame.columns, 1, 0.8):
        return False
    try:
        float(text)
    except ValueError:
        return any(sign in text for sign in "+-*/()`")
    return False


def _as_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with columns of text that hold a number in every filled cell as numbers."""
    found = [
        as_floats(column).alias(column.name) for column in frame.get_columns() if column.dtype == pl.String
    ]
    return frame.with_columns(one for one in found if one.null_count() == frame[one.name].null_count())


def _expression(frame: pl.DataFrame, text: str, kind: Kind) -> pl.Expr:
    """The expression over the columns that hold numbers, text or truth values."""
    from orch_core.grid.expression import ExpressionError, over_columns  # most tables need none

    kinds: dict[str, Kind] = {}
    for column in frame.get_columns():
        if column.dtype == pl.Boolean:
            kinds[column.name] = "truth"
        elif column.dtype.is_numeric():
            kinds[column.name] = "number"
        elif column.dtype in {pl.String, pl.Categorical, pl.Enum}:
            kinds[column.name] = "text"
    try:
        return over_columns(text, kinds, kind)
    except ExpressionError as error:
        hint = (
            "write columns, numbers, quoted texts and + - * / == < and or not; "
            "`a/b` quotes the name of a column"
        )
        raise OrchError(error.message, hint=hint) from error


def _kept(points: Points, kept: pl.Series, reason: str) -> Points:
    """The rows that are kept; the others are dropped for the reason."""
    frame = points.frame
    mask = kept.fill_null(value=False)
    if mask.all():
        return points
    rows = frame[ROW] if ROW in frame.columns else pl.Series(range(1, frame.height + 1))
    dropped = tuple(Dropped(row=row, reason=reason) for row in rows.filter(~mask).to_list())
    return replace(points, frame=frame.filter(mask), dropped=(*points.dropped, *dropped))
