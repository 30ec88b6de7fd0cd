"""Figures of the tasks: scores against size with their controls, gains, and a forest plot of slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from matplotlib.ticker import MaxNLocator

from orch_analysis.figures import style
from orch_analysis.tasks.slopes import AXES, Slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "D", "^", "v", "P")  # a marker per mix
COLUMNS = 4
OTHERS = {
    "params_encoder": ("images", "samples_seen"),
    "images": ("params_encoder", "samples_seen"),
    "samples_seen": ("params_encoder", "images"),
}  # axes that a panel along each axis fixes or shades


@style.themed
def score_figure(table: pl.DataFrame, axis: str = "params_encoder") -> Figure:
    """AUC against `axis` with 95% intervals, a panel per task, at the largest value of the other axes.

    table: rows of `with_controls`; axis: params_encoder, images or samples_seen. Thin lines without intervals
           are at
    smaller values of the next axis. The grey line is the untrained control, of each size along params_encoder
    and of the largest encoder along the other axes; the dotted line is the raw-pixel probe.
    """
    tasks = table["task"].unique().sort().to_list()
    figure, axes = panels(len(tasks))
    trained = table.filter(~pl.col("algorithm").is_in(["random", "pixels"]))
    series = _series(trained)
    for ax, task in zip(axes, tasks, strict=False):
        rows = table.filter(pl.col("task") == task)
        _floors(ax, rows, axis)
        for (algorithm, mix), (marker, shift) in series.items():
            part = rows.filter(pl.col("algorithm") == algorithm, pl.col("mix") == mix)
            _smaller(ax, part, axis, algorithm)
            _series_of(ax, _largest(part, axis), axis, "auc", style.colour(algorithm), marker, shift)
        size_ticks(ax, trained, axis)
        ax.set_title(task)
    floors = [label for label in ("random", "pixels") if (table["algorithm"] == label).any()]
    label(axes, len(tasks), "test AUC", AXES[axis])
    _legend(figure, series, floors)
    return figure


@style.themed
def gain_figure(table: pl.DataFrame) -> Figure:
    """Gain of AUC over the untrained control of the same size, a panel per task, with 95% intervals."""
    axis = "params_encoder"
    rows = table.filter(pl.col("gain").is_not_null(), ~pl.col("algorithm").is_in(["random", "pixels"]))
    tasks = rows["task"].unique().sort().to_list()
    figure, axes = panels(len(tasks))
    series = _series(rows)
    for ax, task in zip(axes, tasks, strict=False):
        ax.axhline(0, color=style.GREY, linewidth=1, zorder=1)
        for (algorithm, mix), (marker, shift) in series.items():
            part = rows.filter(pl.col("task") == task, pl.col("algorithm") == algorithm, pl.col("mix") == mix)
            _series_of(ax, _largest(part, axis), axis, "gain", style.colour(algorithm), marker, shift)
        size_ticks(ax, rows)
        ax.set_title(task)
    label(axes, len(tasks), "gain in AUC over control")
    _legend(figure, series, [])
    return figure


@style.themed
def mix_figure(rows: pl.DataFrame) -> Figure:
    """AUC with 95% intervals per mix, a panel per task, algorithms side by side; grey: the untrained encoder.

    rows: one per algorithm, task and mix, with auc, auc_lo, auc_hi and control.
    """
    tasks = rows["task"].unique().sort().to_list()
    mixes = rows["mix"].unique().sort().to_list()
    algorithms = rows["algorithm"].unique().sort().to_list()
    shifts = dict(zip(algorithms, _spread(len(algorithms), 0.12), strict=True))
    figure, axes = panels(len(tasks))
    for ax, task in zip(axes, tasks, strict=False):
        here = rows.filter(pl.col("task") == task)
        for row in here.iter_rows(named=True):
            x, shade = mixes.index(row["mix"]) + shifts[row["algorithm"]], style.colour(row["algorithm"])
            ax.plot((x, x), (row["auc_lo"], row["auc_hi"]), color=shade, linewidth=1.1)
            ax.scatter([x], [row["auc"]], s=20, color=shade, edgecolor="white", linewidth=0.5, zorder=3)
        if here["control"].count():
            ax.axhline(
                here["control"].drop_nulls()[0], color=style.GREY, linewidth=1, linestyle="--", zorder=1
            )
        long = sum(map(len, mixes)) + 2 * len(mixes) > 20
        ax.set_xticks(range(len(mixes)), mixes, rotation=60 if long else 0, ha="right" if long else "center")
        if long:
            ax.tick_params(axis="x", pad=1)
        ax.set_xlim(-0.5, len(mixes) - 0.5)
        ax.set_title(task)
    label(axes, len(tasks), "test AUC", "")
    keys = [style.key(name, style.colour(name)) for name in algorithms]
    style.legend(figure, [*keys, style.key("random control", style.GREY, "", "--")])
    return figure


@style.themed
def forest_figure(panels: Mapping[str, Sequence[Slope]]) -> Figure:
    """Slopes with 95% intervals, a panel per title; a marker is filled if its interval excludes zero.

    Tasks are sorted by the absolute value of their mean slope in the first panel.
    """
    first = next(iter(panels.values()))
    tasks = _sorted_tasks(first)
    series = sorted({(row.algorithm, row.mix) for rows in panels.values() for row in rows})
    shifts = dict(zip(series, _spread(len(series), 0.28), strict=True))
    marks = _marks(series)
    height, width = 0.9 + 0.32 * len(tasks) * max(1, len(series) / 2.5), 1.4 + 2.4 * len(panels)
    figure, axes = style.canvas(1, len(panels), height=height, sharey=True, width=min(style.WIDTH, width))
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        ax.axvline(0, color=style.GREY, linewidth=1, zorder=1)
        for row in rows:
            if row.slope is None or row.interval is None or row.task not in tasks:
                continue
            y, colour = tasks.index(row.task) + shifts[row.algorithm, row.mix], style.colour(row.algorithm)
            ax.plot(row.interval, (y, y), color=colour, linewidth=1.3, solid_capstyle="butt")
            face = colour if row.differs else "white"
            ax.scatter(
                [row.slope], [y], s=22, marker=marks[row.mix], color=face, edgecolor=colour, linewidth=1.1,
                zorder=3,
            )  # fmt: skip
        _clip(ax, rows)
        ax.set_title(title)
        ax.set_xlabel("slope")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(tasks)), tasks)
    axes[0].set_ylim(len(tasks) - 0.5, -0.5)
    style.finish(axes)
    style.legend(figure, [style.key(_name(*one), style.colour(one[0]), marks[one[1]]) for one in series])
    return figure


def _clip(ax: Axes, rows: Sequence[Slope]) -> None:
    """Limits of x; intervals are cut at twice the half-width that four in five do not exceed."""
    found = [(row.slope, row.interval) for row in rows if row.slope is not None and row.interval is not None]
    if not found:
        return
    half = float(np.quantile([hi - lo for _, (lo, hi) in found], 0.8)) / 2
    slopes = [slope for slope, _ in found]
    low = max(min(lo for _, (lo, _) in found), min(slopes) - 2 * half)
    high = min(max(hi for _, (_, hi) in found), max(slopes) + 2 * half)
    pad = 0.04 * (high - low)
    ax.set_xlim(min(low, 0) - pad, max(high, 0) + pad)


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """Axes for `count` panels in at most four columns."""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure, axes = style.canvas(rows, columns, height=2.0)
    style.finish(axes[:count])
    style.hide(axes[count:])
    return figure, axes


def _series(table: pl.DataFrame) -> dict[tuple[str, str], tuple[str, float]]:
    """Marker (by mix) and horizontal shift of every algorithm and mix."""
    keys = table.select("algorithm", "mix").unique().sort("algorithm", "mix").rows()
    marks = _marks(keys)
    shifts = _spread(len(keys), 0.035)
    return {key: (marks[key[1]], shift) for key, shift in zip(keys, shifts, strict=True)}


def _marks(series: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A marker per mix, the same in every figure; controls, which have no mix, get the first marker."""
    mixes = sorted({mix for _, mix in series if mix})
    return {"": MARKERS[0], **dict(zip(mixes, MARKERS * 4, strict=False))}


def _spread(count: int, half: float) -> list[float]:
    return np.linspace(-half, half, count).tolist() if count > 1 else [0.0] * count


def _largest(part: pl.DataFrame, axis: str) -> pl.DataFrame:
    """Rows at the largest value of every axis except `axis`, one axis after the other."""
    for other in OTHERS[axis]:
        part = part.filter(pl.col(other) == pl.col(other).max())
    return part


def _series_of(
    ax: Axes,
    part: pl.DataFrame,
    axis: str,
    value: str,
    colour: str,
    marker: str,
    shift: float,
    *,
    dashed: bool = False,
) -> None:
    """Mean over seeds against `axis` with the mean of the test set's intervals."""
    rows = part.filter(pl.col(axis) > 0, pl.col(value).is_not_null())
    if rows.is_empty():
        return
    ends = [pl.col(f"{value}_lo").mean().alias("lo"), pl.col(f"{value}_hi").mean().alias("hi")]
    means = rows.group_by(axis).agg(pl.col(value).mean(), *ends).sort(axis)
    x = means[axis].to_numpy() * np.exp(shift * 2)
    y, low, high = (means[name].to_numpy() for name in (value, "lo", "hi"))
    ax.errorbar(
        x, y, yerr=(y - low, high - y), color=colour, marker=marker, markersize=3.8, markeredgecolor="white",
        markeredgewidth=0.5, linewidth=1.3, elinewidth=1.0, linestyle="--" if dashed else "-", zorder=3,
    )  # fmt: skip


def _smaller(ax: Axes, part: pl.DataFrame, axis: str, algorithm: str) -> None:
    """A thin line for every smaller value of the next axis, at the largest value of the rest."""
    other, *rest = OTHERS[axis]
    for name in rest:
        part = part.filter(pl.col(name) == pl.col(name).max().over(other))
    sizes = part[other].unique().sort().to_list()[:-1]
    for size, tone in zip(sizes, style.shades(algorithm, len(sizes) + 1), strict=False):
        means = part.filter(pl.col(other) == size).group_by(axis).agg(pl.col("auc").mean()).sort(axis)
        ax.plot(means[axis], means["auc"], color=tone, linewidth=0.7, zorder=2)


def _floors(ax: Axes, rows: pl.DataFrame, axis: str) -> None:
    """The controls of the scores: untrained encoders, and a probe of the raw pixels."""
    random, pixels = (rows.filter(pl.col("algorithm") == name) for name in ("random", "pixels"))
    if axis == "params_encoder":
        _series_of(ax, random, axis, "auc", style.GREY, "o", 0.0, dashed=True)
    elif random.height:
        largest = random.filter(pl.col("params_encoder") == pl.col("params_encoder").max())
        ax.axhline(_mean(largest["auc"]), color=style.GREY, linewidth=1, linestyle="--", zorder=1)
    if pixels.height:
        ax.axhline(_mean(pixels["auc"]), color=style.INK, linewidth=1, linestyle=":", zorder=1)


def _mean(values: pl.Series) -> float:
    return float(np.mean(values.drop_nulls().to_numpy()))


def size_ticks(ax: Axes, rows: pl.DataFrame, axis: str = "params_encoder") -> None:
    """A logarithmic x axis over the rows' sizes, with ticks that fit a narrow panel."""
    sizes = rows.filter(pl.col(axis) > 0)[axis]
    style.size_axis(ax, sizes, gap=0.27)
    if len(sizes):
        style.limits(ax, sizes.to_list())


def label(axes: Sequence[Axes], count: int, y: str, x: str = "encoder parameters") -> None:
    """Axis labels on the outer panels only."""
    columns = min(COLUMNS, count)
    for index, ax in enumerate(axes[:count]):
        if index % columns == 0:
            ax.set_ylabel(y)
        if index + columns >= count:
            ax.set_xlabel(x)


def _legend(
    figure: Figure, series: Mapping[tuple[str, str], tuple[str, float]], floors: Sequence[str]
) -> None:
    keys = [style.key(_name(*one), style.colour(one[0]), marker) for one, (marker, _) in series.items()]
    if "random" in floors:
        keys.append(style.key("random control", style.GREY, linestyle="--"))
    if "pixels" in floors:
        keys.append(style.key("raw pixels", style.INK, "", ":"))
    style.legend(figure, keys)


def _name(algorithm: str, mix: str) -> str:
    name = "random control" if algorithm == "random" else algorithm
    return " · ".join(part for part in (name, mix) if part)


def _sorted_tasks(rows: Sequence[Slope]) -> list[str]:
    slopes: dict[str, list[float]] = {}
    for row in rows:
        slopes.setdefault(row.task, []).extend([row.slope] if row.slope is not None else [])
    return sorted(
        slopes, key=lambda task: (-abs(float(np.mean(slopes[task]))) if slopes[task] else 0.0, task)
    )
