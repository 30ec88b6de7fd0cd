"""Figures of a table of points: the value against the law's variables, with fitted laws and bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import seaborn as sns

from orch_analysis.figures import PANELS, style
from orch_analysis.figures.task_plots import label, panels, size_ticks
from orch_analysis.fitting.estimates import Fit
from orch_analysis.forecast.groups import MISSING
from orch_analysis.tasks.slopes import group_labels
from orch_core.formatting import count
from orch_core.recipes import recipe_of_algorithm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = 5  # curves of a joint law in one panel


@style.themed
def law_figure(frame: pl.DataFrame, fits: Sequence[Fit], *, value: str, axis: str) -> Figure:
    """Laws of one variable: a panel per task (a single one without tasks), a colour per other group."""
    tasks = sorted({_task(fit) for fit in fits})
    series = list(dict.fromkeys(_series(fit) for fit in fits))
    figure, axes = panels(len(tasks))
    for ax, task in zip(axes, tasks, strict=False):
        here = [fit for fit in fits if _task(fit) == task]
        for fit in here:
            colour, rows = _colour(_series(fit), series), rows_of(frame, fit)
            ax.scatter(
                rows[axis], rows[value], s=16, color=colour, edgecolor="white", linewidth=0.4, zorder=3
            )
            _curve(ax, fit, colour)
        _window(ax, pl.concat([rows_of(frame, fit)[value] for fit in here]))
        size_ticks(ax, frame, axis)
        ax.set_title(task)
    label(axes, len(tasks), value, axis)
    style.legend(figure, [style.key(name, _colour(name, series)) for name in series if name])
    return figure


@style.themed
def joint_figure(
    frame: pl.DataFrame, fits: Sequence[Fit], *, value: str, words: Mapping[str, str] = MappingProxyType({})
) -> Figure:
    """Laws of two or more variables: a panel per group, the first variable across, the second in shades.

    Points are shaded by the second variable (the nearest of at most LEVELS values, drawn as curves); any
    further variable is at its geometric mean along the curves, which have no bands. words: labels of columns.
    """
    shown = fits[:PANELS]
    figure, axes = panels(len(shown))
    for ax, fit in zip(axes, shown, strict=False):
        _joint_panel(ax, rows_of(frame, fit), fit, value, words)
        ax.set_title(" · ".join(fit.group.values()))
    across = _columns(shown[0])[0][1]
    label(axes, len(shown), words.get(value, value), words.get(across, across))
    return figure


def _joint_panel(ax: Axes, rows: pl.DataFrame, fit: Fit, value: str, words: Mapping[str, str]) -> None:
    (_, across), *others = _columns(fit)
    if not others:
        ax.scatter(rows[across], rows[value], s=12, color=style.nth(0), linewidth=0, zorder=3)
        _joint_curve(ax, fit, {}, style.nth(0))
    else:
        variable, column = others[0]
        levels = _levels(rows[column])
        tones = sns.color_palette("viridis", len(levels)).as_hex()
        nearest = np.abs(np.log(rows[column].to_numpy())[:, None] - np.log(levels)).argmin(axis=1)
        ax.scatter(rows[across], rows[value], s=12, color=[tones[i] for i in nearest], linewidth=0, zorder=3)
        for level, tone in zip(levels, tones, strict=True):
            _joint_curve(ax, fit, {variable: level}, tone)
        handles = [style.key(count(level), tone, "") for level, tone in zip(levels, tones, strict=True)]
        ends = rows.sort(across)[value]
        ax.legend(
            handles=handles, title=words.get(column, column), title_fontsize=6.5, fontsize=6.5,
            handlelength=1, loc="upper right" if ends[0] > ends[-1] else "lower right",
        )  # fmt: skip
    size_ticks(ax, rows, across)
    style.plain_log_axis(ax)


def _columns(fit: Fit) -> list[tuple[str, str]]:
    """The law's variables that are columns of the table, not one number for all rows."""
    return [(name, column) for name, column in fit.x.items() if isinstance(column, str)]


def rows_of(frame: pl.DataFrame, fit: Fit) -> pl.DataFrame:
    """The rows of the fit's group with a positive number in every column that the fit reads."""
    keys = (
        pl.col(key).cast(pl.String).fill_null(MISSING) == word
        for key, word in fit.group.items()
        if key in frame.columns
    )
    return frame.filter(
        *keys, *(pl.col(name) > 0 for name in (fit.value, *(name for _, name in _columns(fit))))
    )


def _levels(values: pl.Series) -> list[float]:
    """The distinct values, or LEVELS of them at equal shares of the points."""
    distinct = values.unique().sort().to_list()
    if len(distinct) <= LEVELS:
        return distinct
    at = [values.quantile(share, interpolation="nearest") for share in np.linspace(0, 1, LEVELS)]
    return sorted({value for value in at if value is not None})


def _joint_curve(ax: Axes, fit: Fit, fixed: dict[str, float], colour: str) -> None:
    across = _columns(fit)[0][0]
    middle = {name: float(np.sqrt(low * high)) for name, (low, high) in fit.ranges.items()}
    x = np.geomspace(*fit.ranges[across], 40)
    at = {**{name: np.full(x.shape, number) for name, number in (middle | fixed).items()}, across: x}
    ax.plot(x, fit.law.value(at, fit.estimates), color=colour, linewidth=1.2, zorder=2)


def _curve(ax: Axes, fit: Fit, colour: str) -> None:
    """A law of one variable over the range of its points, with its band if it has one."""
    (variable,) = fit.x
    if variable not in fit.ranges:
        return
    x = np.geomspace(*fit.ranges[variable], 40)
    predicted = Fit.predict(fit, **{variable: x.tolist()})  # of an `AutoFit` the curve of its law
    ax.plot(x, predicted["value"], color=colour, linewidth=1.5, zorder=2)
    if not predicted["lo"].null_count():
        ax.fill_between(x, predicted["lo"], predicted["hi"], color=colour, alpha=0.12, linewidth=0)


def _task(fit: Fit) -> str:
    return group_labels(fit.group)["task"]


def _series(fit: Fit) -> str:
    labels = group_labels(fit.group)
    return " · ".join(word for word in (labels["algorithm"], labels["mix"]) if word)


def _colour(name: str, series: Sequence[str]) -> str:
    first = name.split(" · ", maxsplit=1)[0]
    return style.colour(first) if recipe_of_algorithm(first) else style.nth(series.index(name))


def _window(ax: Axes, values: pl.Series) -> None:
    """Limits of y from the points; a band that is much wider than their spread is cut."""
    known = values.drop_nulls()
    low, high = float(known.min()), float(known.max())  # type: ignore[arg-type]
    pad = 0.35 * (high - low) or 0.05 * abs(high) or 0.01
    ax.set_ylim(low - pad, high + pad)
