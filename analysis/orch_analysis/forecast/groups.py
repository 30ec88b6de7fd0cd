"""One fit for each group of a table of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from orch_analysis import laws
from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.fit import fit
from orch_analysis.fitting.options import DEFAULTS, FitOptions
from orch_analysis.fitting.points import Points
from orch_analysis.fitting.used_rows.selection import best, selected
from orch_analysis.fitting.used_rows.variables import require
from orch_analysis.laws.law import Law
from orch_core.errors import OrchError

MISSING = "(missing)"
GROUPS = ("dataset", "task", "algorithm", "mix")  # columns that are groups by their name


def fit_groups(
    law: Law | str, points: Points, options: FitOptions = DEFAULTS, *, by: Sequence[str] = ()
) -> list[Fit]:
    """One fit for each value of the columns `by`, in order of first appearance.

    law="auto" chooses a form for each. Rows that could not be read belong to no group, so every fit lists
    them. A ceiling that "auto" assumes holds for all groups. Raises OrchError for unknown columns, and for
    options that the law does not take.
    """
    parts = groups(best(selected(points, options), options, by), by)
    if law == "auto" and options.fix:
        message = f"auto compares laws with other parameters than {', '.join(options.fix)}"
        raise OrchError(message, hint="name the law of which they are held")
    if law != "auto":
        named = laws.get(law) if isinstance(law, str) else law
        return [fit(named, part, options, group=group) for group, part in parts]
    from orch_analysis.forecast import auto

    options = auto.auto_options(points.frame, options)
    options, notes = auto.with_ceiling([part.frame for _, part in parts], options)
    return [auto.chosen(part, options, group=group, notes=notes) for group, part in parts]


def group_columns(frame: pl.DataFrame, options: FitOptions) -> tuple[str, ...]:
    """The columns named in GROUPS that take several values and are not variables of the law."""
    names = [name for name in GROUPS if name in frame.columns and name not in options.x.values()]
    return tuple(name for name in names if frame[name].n_unique() > 1)


def groups(points: Points, by: Sequence[str]) -> list[tuple[dict[str, str], Points]]:
    """The rows of each value of the columns `by`, in order of first appearance; empty fields are a value."""
    for name in by:
        require(points.frame, name)
    if not by:
        return [({}, points)]
    keys = [f"_group {number}" for number in range(len(by))]
    words = [
        pl.col(name).cast(pl.String).fill_null(MISSING).alias(key) for key, name in zip(keys, by, strict=True)
    ]
    parts = points.frame.with_columns(words).partition_by(
        keys, as_dict=True, include_key=False, maintain_order=True
    )
    named = [(dict(zip(by, map(str, key), strict=True)), frame) for key, frame in parts.items()]
    return [(group, replace(points, frame=frame)) for group, frame in named]
