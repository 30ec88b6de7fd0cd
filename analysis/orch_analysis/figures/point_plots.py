"""A picture of a table of points: the value against its axis, with the fitted laws and their bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from matplotlib.lines import Line2D

from orch_analysis.figures import style
from orch_analysis.figures.task_plots import label, panels, size_ticks
from orch_analysis.fitting.fit import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 24  # tasks on one picture


def law_figure(frame: pl.DataFrame, fits: Sequence[Fit], *, value: str, axis: str) -> Figure:
    """A panel per task (one for all where the table has no tasks), a colour per algorithm or group."""
    tasks = sorted({fit.group.get("task", "") for fit in fits})[:PANELS]
    series = list(dict.fromkeys(_series(fit) for fit in fits))
    figure, axes = panels(len(tasks))
    for ax, task in zip(axes, tasks, strict=False):
        here = [fit for fit in fits if fit.group.get("task", "") == task]
        for fit in here:
            colour = _colour(_series(fit), series)
            rows = frame.filter(
                *(
                    pl.col(key).cast(pl.String) == word
                    for key, word in fit.group.items()
                    if key in frame.columns
                )
            )
            ax.scatter(
                rows[axis], rows[value], s=16, color=colour, edgecolor="white", linewidth=0.4, zorder=3
            )
            curve(ax, fit, colour)
        _window(ax, frame.filter(pl.col("task") == task) if task else frame, value)
        size_ticks(ax, frame, axis)
        ax.set_title(task)
    label(axes, len(tasks), value, axis)
    handles = [
        Line2D([], [], color=_colour(name, series), marker="o", markersize=4, label=name)
        for name in series
        if name
    ]
    if handles:
        figure.legend(handles=handles[:12], loc="outside upper center", ncols=min(4, len(handles)))
    return figure


def curve(ax: Axes, fit: Fit, colour: str) -> None:
    """A law of one variable over the range of its points, with its band where it has one."""
    (variable,) = fit.x
    if variable not in fit.ranges:
        return
    x = np.geomspace(*fit.ranges[variable], 40)
    found = [fit.predict(band="mean", **{variable: float(at)}) for at in x]
    ax.plot(x, [one.value for one in found], color=colour, linewidth=1.5, zorder=2)
    ends = [(one.lo, one.hi) for one in found if one.lo is not None and one.hi is not None]
    if len(ends) == len(x):
        low, high = np.array(ends).T
        ax.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)


def _series(fit: Fit) -> str:
    return " · ".join(word for key, word in fit.group.items() if key != "task")


def _colour(name: str, series: Sequence[str]) -> str:
    first = name.split(" · ", maxsplit=1)[0]
    return style.colour(first) if first in style.ALGORITHMS else style.nth(series.index(name))


def _window(ax: Axes, rows: pl.DataFrame, value: str) -> None:
    """The points fill the panel; a band much wider than their spread runs out of it."""
    values = rows[value].drop_nulls()
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    pad = 0.35 * (high - low) or 0.05 * abs(high) or 0.01
    ax.set_ylim(low - pad, high + pad)
