"""Figures of slopes against task factors, and of their correlations with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from matplotlib.ticker import FuncFormatter, MaxNLocator

from orch_analysis.figures import ROWS, style
from orch_analysis.tasks.factors import in_order, label_of
from orch_core.formatting import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 1000  # points of a panel above which they are drawn as an image
HIGH = 0.065  # height of a name, in panels
SPOTS = tuple((lift, side) for lift in (0.05, -0.05, 0.0, 0.1, -0.1) for side in (1, -1, 0) if lift or side)


@style.themed
def scatter_figure(
    slopes: pl.DataFrame, factors: pl.DataFrame, names: Sequence[str], *, value: str
) -> Figure:
    """Slope against each factor, a panel per factor; tasks are named, groups coloured by algorithm.

    The axes of factors are linear, because Pearson's r is computed from the values and not from their logs.
    slopes: columns group, algorithm, task, slope, lo, hi; factors: columns task, group (for headroom) and
            `names`.
    """
    columns = 2 if len(names) in {2, 4} else min(3, len(names))
    figure, axes = style.canvas(-(-len(names) // columns), columns, height=2.3, sharey=True)
    keys = [key for key in ("group", "task") if key in factors.columns]
    joined = slopes.join(factors, on=keys, how="left")
    _window(axes[0], joined["slope"])
    for ax, name in zip(axes, names, strict=False):
        rows = joined.filter(pl.col(name).is_not_null(), pl.col("slope").is_not_null())
        ax.axhline(0, color=style.GREY, linewidth=0.8, zorder=1)
        for (algorithm,), part in rows.group_by("algorithm", maintain_order=True):
            x, y = part[name].to_numpy(), part["slope"].to_numpy()
            errors = np.abs(np.stack([y - part["lo"].to_numpy(), part["hi"].to_numpy() - y]))
            shade = style.colour(str(algorithm))
            dense = len(x) > MANY
            ax.errorbar(
                x, y, yerr=errors, fmt="none", ecolor=shade, elinewidth=0.8, alpha=0.25, rasterized=dense
            )
            ax.scatter(x, y, s=14, color=shade, edgecolor="white", linewidth=0.4, zorder=3, rasterized=dense)
        ax.margins(x=0.15)
        ax.autoscale_view(scaley=False)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        _names(ax, rows, name)
        ax.set_title(label_of(name), fontsize=8)
    for ax in axes[::columns]:
        ax.set_ylabel(f"slope of {value}")
    style.finish(axes[: len(names)])
    style.hide(axes[len(names) :])
    algorithms = joined["algorithm"].unique().sort().to_list()
    style.legend(figure, [style.key(name, style.colour(name), linestyle="") for name in algorithms])
    return figure


def _window(ax: Axes, slopes: pl.Series) -> None:
    """Limits of y from the slopes; an interval that is much wider than their spread is cut."""
    known = slopes.drop_nulls().to_list()
    if known:
        pad = 0.5 * (max(known) - min(known)) or abs(known[0]) or 0.01
        ax.set_ylim(min(*known, 0) - pad / 2, max(*known, 0) + pad / 2)


def _names(ax: Axes, rows: pl.DataFrame, name: str) -> None:
    """Each task's name once, next to its highest point, if it fits without covering points or other names.

    Many tasks have no names.
    """
    if rows["task"].n_unique() > ROWS:
        return
    to_axes = ax.transData + ax.transAxes.inverted()
    points = [tuple(to_axes.transform(point)) for point in rows.select(name, "slope").iter_rows()]
    taken: list[tuple[float, float, float, float]] = [(x, y, 0.03, 0.04) for x, y in points]
    tops = rows.group_by("task").agg(pl.col("slope").max(), pl.col(name).mean()).sort(name, "slope", "task")
    for task, slope, at in tops.select("task", "slope", name).iter_rows():
        x, y = to_axes.transform((at, slope))
        width = 0.027 * len(task)
        spots = [(x + shift * (0.02 + width / 2), y + lift) for lift, shift in SPOTS]
        free = [
            spot
            for spot in spots
            if width / 2 <= spot[0] <= 1.02 - width / 2 and not any(_touch(spot, width, box) for box in taken)
        ]
        if free:  # a name that does not fit is only in the table
            taken.append((*free[0], width, HIGH))
            ax.text(
                *free[0], task, transform=ax.transAxes, fontsize=6, color=style.INK, ha="center", va="center"
            )


def _touch(spot: tuple[float, float], width: float, box: tuple[float, float, float, float]) -> bool:
    return abs(spot[0] - box[0]) < (width + box[2]) / 2 and abs(spot[1] - box[1]) < (HIGH + box[3]) / 2


@style.themed
def correlation_figure(correlations: pl.DataFrame) -> Figure:
    """Pearson correlations with Fisher's 95% intervals; a marker is filled if its interval excludes zero."""
    rows = correlations.filter(pl.col("pearson").is_not_null())
    names = in_order(rows["factor"].unique(maintain_order=True).to_list())
    groups = rows["group"].unique(maintain_order=True).to_list()
    most = dict(rows.group_by("group").agg(pl.col("n").max()).iter_rows())
    shifts = dict(
        zip(groups, np.linspace(-0.25, 0.25, len(groups)) if len(groups) > 1 else [0.0], strict=True)
    )
    figure, (ax,) = style.canvas(1, 1, height=0.8 + 0.17 * len(names) * max(2, len(groups)), width=5.6)
    ax.axvline(0, color=style.GREY, linewidth=1, zorder=1)
    for row in rows.iter_rows(named=True):
        y = names.index(row["factor"]) + shifts[row["group"]]
        shade = style.colour(row["group"].split(" · ")[0])
        lo, hi = row["pearson_lo"], row["pearson_hi"]
        if lo is not None:
            ax.plot((lo, hi), (y, y), color=shade, linewidth=1.3, solid_capstyle="butt")
        face = shade if lo is not None and (lo > 0 or hi < 0) else "white"
        ax.scatter([row["pearson"]], [y], s=22, color=face, edgecolor=shade, linewidth=1.1, zorder=3)
    ax.set_xlim(-1.04, 1.04)
    ax.set_yticks(range(len(names)), [label_of(name) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("Pearson correlation with the slope, 95% interval")
    style.finish([ax])
    colours = {group: style.colour(group.split(" · ")[0]) for group in groups}
    style.legend(figure, [style.key(f"{group} (n = {most[group]})", colours[group]) for group in groups])
    return figure
