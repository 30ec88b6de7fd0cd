"""Pictures of scaling benefits: a forest with means and new tasks, and specification curves of factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from orch_analysis.benefits.task_benefits import BENEFITS
from orch_analysis.figures import style
from orch_analysis.tasks.factors import in_order, label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEYS = ("algorithm", "mix", "protocol")
SHADES = ("#0072b2", "#d55e00", "#009e73")  # of the definitions, apart for colour-blind readers


@style.themed
def benefit_figure(tasks: pl.DataFrame, pooled: pl.DataFrame) -> Figure:
    """Benefits of every task, a panel per definition, groups in colours; bars are 95% intervals.

    tasks, pooled: rows of `BenefitAnalysis` along one axis, all net or all raw. The intervals are those of
    the task's own points. Filled points are shrunken to the group's mean, open ones are the tasks' own.
    Below: the mean (diamond, thick bar) and the prediction interval of a new task.
    """
    groups = tasks.select(KEYS).unique().sort(KEYS).rows()
    names = _names(tasks)
    definitions = [name for name in BENEFITS if (pooled["benefit"] == name).any()]
    height = 1.1 + (0.26 + 0.04 * len(groups)) * (len(names) + 1)
    figure, axes = style.canvas(1, len(definitions), height=height, sharey=True)
    shifts = np.linspace(-0.26, 0.26, len(groups)) if len(groups) > 1 else [0.0]
    colours = _colours(groups)
    for ax, name in zip(axes, definitions, strict=True):
        ax.axvline(0, color=style.GREY, linewidth=1, zorder=1)
        ax.axhline(len(names) - 0.5, color=style.PALE, linewidth=0.8, zorder=1)
        for group, shift in zip(groups, shifts, strict=True):
            own = [
                pl.col("benefit") == name,
                *(pl.col(key) == word for key, word in zip(KEYS, group, strict=True)),
            ]
            _tasks(ax, tasks.filter(*own), names, shift, colours[group])
            _mean(ax, pooled.filter(*own), len(names) + shift, colours[group])
        _window(ax, tasks.filter(pl.col("benefit") == name), pooled.filter(pl.col("benefit") == name))
        ax.set_title(BENEFITS[name].label)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names) + 1), [*names, "mean and new task"])
    axes[0].set_ylim(len(names) + 0.5, -0.5)
    style.finish(axes)
    handles = [
        Line2D(
            [],
            [],
            color=colours[group],
            marker="o",
            markersize=4,
            label=" · ".join(filter(None, group)) or "all",
        )
        for group in groups
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    return figure


def _colours(groups: list[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """A group's colour is its algorithm's; groups of one algorithm get shades of it."""
    found: dict[tuple[str, str, str], str] = {}
    for algorithm in dict.fromkeys(group[0] for group in groups):
        own = [group for group in groups if group[0] == algorithm]
        shades = [style.colour(algorithm)] if len(own) == 1 else style.shades(algorithm, len(own))
        found |= dict(zip(own, shades, strict=True))
    return found


def _names(tasks: pl.DataFrame) -> list[str]:
    """Tasks in the order of their mean benefit in the first definition."""
    first = tasks.filter(pl.col("benefit") == next(iter(BENEFITS)))
    means = (
        first.group_by("task").agg(pl.col("effect").mean()).sort("effect", "task", descending=[True, False])
    )
    return [str(name) for name in means["task"]]


def _tasks(ax: Axes, rows: pl.DataFrame, names: list[str], shift: float, colour: str) -> None:
    for row in rows.iter_rows(named=True):
        y = names.index(row["task"]) + shift
        ax.plot(
            (row["lo"], row["hi"]), (y, y), color=colour, linewidth=0.9, alpha=0.35, solid_capstyle="butt"
        )
        ax.scatter([row["effect"]], [y], s=12, color="white", edgecolor=colour, linewidth=0.8, zorder=3)
        if row["shrunken"] is not None:
            ax.scatter([row["shrunken"]], [y], s=14, color=colour, linewidth=0, zorder=4)


def _mean(ax: Axes, rows: pl.DataFrame, y: float, colour: str) -> None:
    for row in rows.iter_rows(named=True):
        ends = (row["prediction_lo"], row["prediction_hi"])
        ax.plot(ends, (y, y), color=colour, linewidth=1.0, alpha=0.5, solid_capstyle="butt")
        ax.plot((row["lo"], row["hi"]), (y, y), color=colour, linewidth=3, solid_capstyle="butt")
        ax.scatter(
            [row["mean"]], [y], s=26, marker="D", color=colour, edgecolor="white", linewidth=0.6, zorder=4
        )


def _window(ax: Axes, tasks: pl.DataFrame, pooled: pl.DataFrame) -> None:
    """All estimates and prediction intervals are inside; an interval of a task that is much wider is cut."""
    known = [*tasks["effect"], *pooled["prediction_lo"], *pooled["prediction_hi"], 0.0]
    pad = 0.08 * (max(known) - min(known) or 1.0)
    ax.set_xlim(min(known) - pad, max(known) + pad)


@style.themed
def specification_figure(curve: pl.DataFrame) -> Figure:
    """Scores of all specifications in rising order, a panel per factor; colours: definitions.

    curve: rows of `specification_curve`. The score is that of the factor in a regression of the
    benefits, in standard errors; filled points: p < .05.
    """
    names = in_order(curve["factor"].unique(maintain_order=True).to_list())
    columns = min(4, len(names))
    figure, axes = style.canvas(-(-len(names) // columns), columns, height=1.7, sharey=True)
    shades = dict(zip(BENEFITS, SHADES, strict=True))
    for ax, name in zip(axes, names, strict=False):
        rows = curve.filter(pl.col("factor") == name).sort("score")
        ax.axhline(0, color=style.GREY, linewidth=1, zorder=1)
        for benefit, shade in shades.items():
            here = rows.with_row_index("at").filter(pl.col("benefit") == benefit)
            for clear, face in ((False, "white"), (True, shade)):
                part = here.filter((pl.col("p") < 0.05) == clear)
                ax.scatter(
                    part["at"].to_numpy() / max(1, rows.height - 1), part["score"].to_numpy(),
                    s=7, color=face, edgecolor=shade, linewidth=0.6, zorder=2 + clear,
                )  # fmt: skip
        ax.set_xticks([])
        ax.set_title(label_of(name), fontsize=8)
    for ax in axes[::columns]:
        ax.set_ylabel("score")
    style.finish(axes[: len(names)])
    style.hide(axes[len(names) :])
    handles = [
        Line2D([], [], color=shade, marker="o", linestyle="", markersize=4, label=BENEFITS[benefit].label)
        for benefit, shade in shades.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure
