"""Figures of pretraining: held-out loss against size, data and compute, and training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from orch_analysis.figures import style
from orch_analysis.tasks.slopes import AXES, LEVELS, Slope, same_axis
from orch_core.formatting import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHADE = {"params_encoder": "images"}  # every other axis: the encoder's size
LINES = {
    "params_encoder": "a line per number of images",
    "images": "a line per encoder size",
    "samples_seen": "a line per encoder size",
    "flops_train": "a line per encoder size",
}
HEIGHT = 2.15


@style.themed
def loss_figure(runs: pl.DataFrame, slopes: Sequence[Slope]) -> Figure:
    """A row per algorithm and mix, a column per axis: every run, the law and its 95% band.

    runs: rows of `Results.pretraining`; slopes: those of `pretraining_slopes`. Bands are of the curve, at the
    geometric mean of the fixed quantities.
    """
    groups = sorted({(row.algorithm, row.mix) for row in slopes})
    axes_names = [axis for axis in AXES if any(row.axis == axis for row in slopes)]
    width = min(style.WIDTH, 0.7 + 2.3 * len(axes_names))
    figure, axes = style.canvas(len(groups), len(axes_names), height=HEIGHT, width=width)
    for i, (algorithm, mix) in enumerate(groups):
        part = runs.filter(pl.col("algorithm") == algorithm, pl.col("mix") == mix)
        for j, axis in enumerate(axes_names):
            ax = axes[i * len(axes_names) + j]
            found = [row for row in slopes if (row.algorithm, row.mix, row.axis) == (algorithm, mix, axis)]
            if not found:
                same = same_axis(part, axis)
                why = f"changes only together with\n{AXES[same]}" if same else f"fewer than {LEVELS} values"
                style.nothing(ax, f"no law along {AXES[axis]}:\n{why}")
                continue
            ends = _points(ax, part, algorithm, axis)
            for row in found:
                _law(ax, row, style.colour(algorithm))
                ax.set_title(slope_text(row), fontweight="normal", loc="right", fontsize=7)
            sizes = part[axis].drop_nulls()
            style.size_axis(ax, sizes, powers=axis == "flops_train")
            style.limits(ax, sizes.to_list(), right=0.12 if axis != "flops_train" else 0.0)
            style.plain_log_axis(ax)
            if axis != "flops_train":
                style.end_labels(ax, ends, inches=0.6 * HEIGHT)
            ax.set_xlabel(f"{AXES[axis]}\n({LINES[axis]})")
            if j == 0:
                ax.set_ylabel(f"{algorithm} · {mix}\nheld-out loss")
    style.finish([ax for ax in axes if ax.axison])
    return figure


def _points(ax: Axes, part: pl.DataFrame, algorithm: str, axis: str) -> list[tuple[float, float, str]]:
    """Runs as points, darker for a larger value of the other quantity, joined where only `axis` differs.

    Returns the lines' right ends with their names.
    """
    shade = SHADE.get(axis, "params_encoder")
    levels = part[shade].drop_nulls().unique().sort().to_list()
    ends = []
    for level, tone in zip(levels, style.shades(algorithm, len(levels)), strict=True):
        rows = part.filter(pl.col(shade) == level, pl.col("heldout_loss").is_not_null()).sort(axis)
        means = rows.group_by(axis, maintain_order=True).agg(pl.col("heldout_loss").mean())
        ax.plot(means[axis], means["heldout_loss"], color=tone, linewidth=0.7, alpha=0.7)
        ax.scatter(
            rows[axis], rows["heldout_loss"], s=16, color=tone, edgecolor="white", linewidth=0.4, zorder=3
        )
        if means.height and len(levels) <= 6:
            ends.append((means[axis][-1], means["heldout_loss"][-1], count(level)))
    return ends


def _law(ax: Axes, row: Slope, colour: str) -> None:
    """The fitted law with its band over the range of its points."""
    fit = row.fit
    if not fit.estimates or row.axis not in fit.ranges:
        return
    x = np.geomspace(*fit.ranges[row.axis], 40)
    predicted = fit.predict(**{row.axis: x.tolist()})
    ax.plot(x, predicted["value"], color=colour, linewidth=1.6, zorder=2)
    if not predicted["lo"].null_count():
        ax.fill_between(x, predicted["lo"], predicted["hi"], color=colour, alpha=0.13, linewidth=0)


def slope_text(row: Slope) -> str:
    """The slope with its interval and n, for a panel's corner."""
    if row.slope is None or row.interval is None:
        return f"{row.fit.outcome}, n={row.fit.n}".replace("_", " ")
    return f"slope {row.slope:+.3f} [{row.interval[0]:+.3f}, {row.interval[1]:+.3f}], n={row.fit.n}".replace(
        "-", "−"
    )


@style.themed
def curves_figure(curves: pl.DataFrame) -> Figure:
    """Held-out loss during training against the FLOPs spent, a panel per algorithm, with its envelope."""
    table = curves.filter(pl.col("heldout_loss").is_not_null(), pl.col("flops_spent") > 0)
    algorithms = table["algorithm"].unique().sort().to_list()
    figure, axes = style.canvas(
        1, len(algorithms), height=2.9, width=min(style.WIDTH, 0.4 + 3.5 * len(algorithms))
    )
    for ax, algorithm in zip(axes, algorithms, strict=True):
        part = table.filter(pl.col("algorithm") == algorithm)
        sizes = part["params_encoder"].unique().sort().to_list()
        for size, tone in zip(sizes, style.shades(algorithm, len(sizes)), strict=True):
            runs = part.filter(pl.col("params_encoder") == size)
            for number, (_, run) in enumerate(runs.group_by("cell", maintain_order=True)):
                label = count(size) if number == 0 else None
                ax.plot(
                    run["flops_spent"], run["heldout_loss"], color=tone, linewidth=0.9, alpha=0.9, label=label
                )
        x, y = envelope(part["flops_spent"].to_numpy(), part["heldout_loss"].to_numpy())
        ax.plot(x, y, color=style.INK, linewidth=1.2, linestyle=(0, (4, 2)), label="envelope")
        ax.legend(title="parameters", ncols=2 if len(sizes) > 4 else 1, title_fontsize=7, fontsize=7)
        style.size_axis(ax, part["flops_spent"], powers=True)
        style.plain_log_axis(ax, ticks=5)
        ax.set_title(algorithm)
        ax.set_xlabel("training FLOPs spent")
    axes[0].set_ylabel("held-out loss")
    style.finish(axes)
    return figure


def envelope(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower envelope: the points with a lower y than every point of equal or smaller x, in order of x."""
    order = np.lexsort((y, x))
    best = np.minimum.accumulate(y[order])
    first = np.flatnonzero(np.r_[True, best[1:] < best[:-1]])
    return x[order][first], best[first]
