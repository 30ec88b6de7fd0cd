"""Tables of fits for the page: the laws of a table of points, their choice, and slopes along two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING

import polars as pl

from orch_analysis.fitting.estimates import Fit
from orch_analysis.tables.export import Table
from orch_analysis.tasks.slopes import Slope
from orch_core.errors import OrchError
from orch_core.formatting import interval, number, p_value, significant

if TYPE_CHECKING:
    from orch_analysis.forecast.auto import AutoFit

AHEAD = 4.0  # times the largest scale of the points, at which a forecast is shown
SHOWN = 60  # rows of a table on the page; the files have all
EDGE = 1e-6  # distance, relative above 1, from a bound at which an estimate is on it
MISFIT = (
    "Misfit p: chance of such a departure from the law if it is true; below .05 the outcome is misfit and "
    "bands beyond the data are withheld; a dash: too few points for a test."
)


def rest(rows: int) -> str:
    """The note on the rows that a table leaves out; empty if there are none."""
    return f" The first {SHOWN} of {rows} rows; the files have all." if rows > SHOWN else ""


def fits(rows: Sequence[Fit], files: tuple[str, ...]) -> Table:
    """Laws of a table of points: parameters with intervals, n, rows left out, outcome."""
    shown = rows[:SHOWN]
    groups = list(dict.fromkeys(key for row in rows for key in row.group))
    params = list(dict.fromkeys(name for row in rows for name in row.law.params))
    laws = dict.fromkeys((row.law.name, row.law.formula) for row in rows)
    named = ["law"] if len(laws) > 1 else []
    body = [
        (
            *(row.group.get(key, "") for key in groups),
            *(row.law.name for _ in named),
            *(estimate(row, name) for name in params),
            str(row.n),
            str(len(row.dropped)),
            "–" if row.lack_of_fit is None else p_value(row.lack_of_fit.p),
            row.outcome.replace("_", " "),
        )
        for row in shown
    ]
    formulas = "; ".join(f"{name}: {formula}" if named else formula for name, formula in laws)
    ends = [row.intervals.get("slope") for row in shown]
    return Table(
        name="table-fits", title="Fitted laws.", files=files,
        rows=tuple(body), words=len(groups) + len(named),
        note=f"{formulas}. {rows[0].level:.0%} intervals ({rows[0].interval}). {MISFIT}{rest(len(rows))}",
        head=(*groups, *named, *params, "n", "rows left out", "misfit p", "outcome"),
        strong=frozenset(i for i, end in enumerate(ends) if end and not end[0] <= 0 <= end[1]),
    )  # fmt: skip


def choices(rows: Sequence[AutoFit]) -> Table:
    """What `--law auto` compared per group: errors on scales held back, the form chosen, a forecast."""
    groups = list(dict.fromkeys(key for row in rows for key in row.group))
    forms = list(dict.fromkeys(score.form for row in rows for score in row.choice.scores))
    body = [
        (
            *(row.group.get(key, "") for key in groups),
            *(number(_errors(row).get(form)) for form in forms),
            row.law.name,
            "–" if isnan(row.choice.coverage) else f"{row.choice.coverage:.0%}",
            _forecast(row),
        )
        for row in rows[:SHOWN]
    ]
    scales = " and ".join(rows[0].law.x)
    return Table(
        name="table-choices", title="Choice of law and forecast.", files=(),
        rows=tuple(body), words=len(groups),
        note="Columns of laws: root mean square of ln(predicted / measured) on larger scales, held back in "
        f"{max(row.choice.origins for row in rows)} turns or fewer. The law named is the simplest within "
        "10% of the lowest error, or a constant if the points show no trend. Coverage: share of the "
        f"held-back points in the 90% band of the forecast. The forecast is that of {rows[0].options.value} "
        f"for one new run at {AHEAD:g} times the largest {scales}, by an average that does not depend on "
        f"the law named, with its {rows[0].level:.0%} band.{rest(len(rows))}",
        head=(*groups, *forms, "law named", "coverage", f"forecast at {AHEAD:g}x"),
    )  # fmt: skip


def _errors(row: AutoFit) -> dict[str, float]:
    return {score.form: score.error for score in row.choice.scores}


def _forecast(row: AutoFit) -> str:
    """The forecast with its band, or a dash if the points allow none."""
    try:
        at = pl.DataFrame({name: [AHEAD * high] for name, (_, high) in row.ranges.items()})
        found = row.predict(at).row(0, named=True)
    except OrchError:
        return "–"
    return "refused" if found["value"] is None else interval(found["value"], found["lo"], found["hi"])


def estimate(row: Fit, name: str) -> str:
    """A parameter with its interval; one that ended at a bound of the law says so."""
    value = row.estimates.get(name)
    if value is None:
        return "–"
    low, high = row.intervals.get(name, (None, None))
    bound = row.bound_of(name)
    if bound is None and (name == "slope" or 0.001 <= abs(value) < 1):
        return interval(value, low, high, 4 if name == "slope" else 3, signed=name == "slope")
    words = significant(value) if bound is None else f"{significant(bound)} (at the bound)"
    if low is None or high is None:
        return words
    ends = (bound if bound is not None and _near(end, bound) else end for end in (low, high))
    return f"{words} [{', '.join(map(significant, ends))}]"


def _near(value: float, bound: float) -> bool:
    return abs(value - bound) <= EDGE * max(1.0, abs(value))


def two_axes(axes: Mapping[str, Sequence[Slope]], files: tuple[str, ...]) -> Table:
    """The slopes of the same groups along two axes, side by side; bold: zero outside on the second only."""
    (first, rows), (second, others) = axes.items()
    pairs = list(zip(rows, others, strict=True))[:SHOWN]
    body = [
        (row.task, row.algorithm, digits(row), _share(row), digits(other), _share(other), str(row.fit.n))
        for row, other in pairs
    ]
    changed = [i for i, (row, other) in enumerate(pairs) if other.differs and not row.differs]
    return Table(
        name="table-axes", title="Slopes along two x axes.", files=files, rows=tuple(body), words=2,
        note=f"95% t intervals. They exclude zero in {sum(row.differs for row in rows)} of {len(rows)} "
        f"groups along {first} and in {sum(row.differs for row in others)} along {second}; bold: along "
        f"{second} only.{rest(len(rows))}",
        head=("task", "algorithm", f"slope in {first}", "R²", f"slope in {second}", "R²", "n"),
        strong=frozenset(changed),
    )  # fmt: skip


def digits(row: Slope) -> str:
    """The slope with its interval to four decimals, as the published slopes are given."""
    low, high = row.interval or (None, None)
    return interval(row.slope, low, high, 4, signed=True)


def _share(row: Slope) -> str:
    """R squared of the line in logs: 1 - residual / total sum of squares, by slope, spread and residuals."""
    line = row.fit.line
    if line is None or row.slope is None:
        return "–"
    explained = row.slope**2 * line.spread
    residual = sum(value**2 for value in row.fit.residuals)
    return number(explained / (explained + residual), 2)


def fit_table(fits: Sequence[Fit]) -> pl.DataFrame:
    """One row per fit and parameter: group, law, estimate, interval, n, rows left out, outcome."""
    rows = [
        {
            **{f"group_{key}": value for key, value in fit.group.items()},
            "law": fit.law.name,
            "parameter": name,
            "estimate": fit.estimates.get(name),
            "lo": fit.intervals.get(name, (None, None))[0],
            "hi": fit.intervals.get(name, (None, None))[1],
            "n": fit.n,
            "left_out": len(fit.dropped),
            "misfit_p": None if fit.lack_of_fit is None else fit.lack_of_fit.p,
            "outcome": str(fit.outcome),
        }
        for fit in fits
        for name in fit.law.params
    ]
    types = {"estimate": pl.Float64, "lo": pl.Float64, "hi": pl.Float64, "misfit_p": pl.Float64}
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides=types)
