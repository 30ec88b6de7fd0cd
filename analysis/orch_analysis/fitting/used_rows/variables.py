"""Which columns of a table a law reads: as mapped, otherwise by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

import numpy as np
import polars as pl

from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.points import ROW
from orch_analysis.fitting.used_rows.numerals import LARGEST, as_floats
from orch_analysis.laws.law import Array, Law
from orch_core.errors import OrchError

VALUES = (
    "auc",
    "loss",
    "heldout_loss",
    "accuracy",
    "error",
)  # columns that are the value by their name, in order
COMPUTE = "6 * params * samples"  # stands for a column when a law needs compute and none is mapped
SIZES = ("params", "samples")
SHOWN = 20  # columns that a message names


def resolved(law: Law, table: pl.DataFrame, options: FitOptions) -> tuple[Law, FitOptions]:
    """The law along the variables that are mapped, and options that name every column that it reads.

    A law of one variable is read along the one variable that is mapped, whatever its name. Raises
    OrchError for columns that do not exist, a variable of the law without a column, and a mapped variable
    that the law does not use.
    """
    x = mapped(table, options.x)
    if len(law.x) == 1 == len(x):
        law = law.along(next(iter(x)))
    x |= {name: name for name in law.x if name not in x and name in table.columns}
    if "compute" in law.x and "compute" not in x:
        x |= {name: name for name in SIZES if name not in x and name in table.columns}
        x |= {"compute": COMPUTE} if set(SIZES) <= set(x) else {}
    missing = [name for name in law.x if name not in x]
    if missing:
        message = f"law {law.name} needs {', '.join(law.x)}; no column is given for {', '.join(missing)}"
        raise OrchError(message, hint=f"map it: --map {missing[0]}=COLUMN")
    unused = [name for name in x if name not in {*law.x, *(SIZES if x.get("compute") == COMPUTE else ())}]
    if unused:
        message = f"law {law.name} does not use {', '.join(unused)}: it reads {', '.join(law.x)}"
        close = get_close_matches(unused[0], law.x, n=1)
        hint = f"leave {unused[0]} out of --map, or choose a law that uses it"
        raise OrchError(message, hint=f"did you mean {close[0]!r}?" if close else hint)
    return law, with_value(table, replace(options, x=x))


def with_value(table: pl.DataFrame, options: FitOptions) -> FitOptions:
    """Options that name the value's column: that asked for, else the first of `VALUES` that is no variable.

    Raises OrchError where there is none, and for a column that is the value and a variable at once.
    """
    taken = set(options.x.values())
    value = options.value or next(
        (name for name in VALUES if name in table.columns and name not in taken), ""
    )
    if not value:
        message = f"which column is the value? None of them is called {' or '.join(VALUES)}"
        names = [name for name in table.columns if name != ROW]
        raise OrchError(message, hint=f"name it with --map value=COLUMN; columns: {listed(names)}")
    if value in taken:
        message = f"column {value!r} cannot be both the value and a variable that explains it"
        raise OrchError(message, hint="map them to different columns: --map value=COLUMN")
    require(table, value)
    return replace(options, value=value)


def mapped(table: pl.DataFrame, x: Mapping[str, str | float]) -> dict[str, str | float]:
    """Each variable's column, or its number for all rows; raises OrchError for an unknown column."""
    return {name: _column(table, word) for name, word in x.items()}


def _column(table: pl.DataFrame, word: str | float) -> str | float:
    if not isinstance(word, str) or word == COMPUTE:
        return word
    if word not in table.columns and word[:1].isdigit():
        try:
            return float(word)
        except ValueError:
            pass
    require(table, word)
    return word


def with_derived(table: pl.DataFrame, options: FitOptions) -> pl.DataFrame:
    """Add the columns that the options ask for and the table does not have.

    They are the training compute 6 N D in FLOPs (Kaplan et al. 2020, arXiv:2001.08361, eq. 2.2), and what a
    metric lacks to its ceiling, the error that laws describe.
    """
    if options.x.get("compute") == COMPUTE:
        flops = 6.0 * as_numbers(table, options.x["params"]) * as_numbers(table, options.x["samples"])
        table = table.with_columns(pl.Series(COMPUTE, flops))
    if options.ceiling is not None:
        errors = options.ceiling - as_numbers(table, options.value)
        table = table.with_columns(pl.Series(options.quantity, errors))
    return table


def as_numbers(table: pl.DataFrame, column: str | float) -> Array:
    """A column as numbers, NaN where there is none; a number stands for itself in every row.

    Text is read as people write sizes, see `numerals`; the largest float stands for infinity, as databases
    store it. Raises OrchError when there is no such column.
    """
    if isinstance(column, int | float):
        return np.full(table.height, float(column))
    require(table, column)
    series = table[column]
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean or series.dtype == pl.Null):
        series = as_floats(series.cast(pl.String))
    numbers = series.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(float)
    return np.where(np.abs(numbers) >= LARGEST, np.copysign(np.inf, numbers), numbers)


def listed(names: Sequence[str]) -> str:
    """Names for a message; of many the first few."""
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def require(table: pl.DataFrame, column: str) -> None:
    """Raise OrchError when the table has no such column, with the nearest name as a hint, or one of lists."""
    if column not in table.columns:
        names = [name for name in table.columns if name != ROW]
        close = get_close_matches(column, names, n=1, cutoff=0.5)
        msg = f"no column {column!r} in the table; it has: {listed(names)}"
        raise OrchError(
            msg, hint=f"did you mean {close[0]!r}?" if close else "map variables with --map variable=column"
        )
    if table[column].dtype.is_nested():
        msg = f"column {column!r} holds {table[column].dtype}, not one value per row"
        raise OrchError(msg, hint="write it out, or name another column")
