"""Figures of a plan: its cells that are done, planned or failed, and its device-hours by axis."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from matplotlib.patches import Patch, Rectangle

from orch_analysis.figures import Picture, style
from orch_core.formatting import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATES = {"done": "#4c78a8", "partial": "#a8c3e0", "planned": "#ececec", "failed": "#c8553d"}
WORDS = {"done": "done", "partial": "to be probed", "planned": "planned", "failed": "failed"}
COLUMNS = 2  # maps side by side


@style.themed
def map_figure(cells: pl.DataFrame) -> Figure:
    """A map per recipe and mix: models up, images across; a square is filled by the state of its cells.

    cells: columns recipe, mix, model, params, images, and the numbers of cells done, partial, planned and
           failed.
    """
    groups = cells.partition_by("recipe", "mix", maintain_order=True)
    rows, most = -(-len(groups) // COLUMNS), max(group["model"].n_unique() for group in groups)
    figure, axes = style.canvas(rows, min(COLUMNS, len(groups)), height=0.9 + 0.26 * most)
    across = max(group["images"].n_unique() for group in groups)
    for ax, group in zip(axes, groups, strict=False):
        _map(ax, group, across)
    style.hide(axes[len(groups) :])
    handles = [Patch(facecolor=colour, label=WORDS[state]) for state, colour in STATES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _map(ax: Axes, group: pl.DataFrame, across: int) -> None:
    models = group.sort("params")["model"].unique(maintain_order=True).to_list()
    sizes = group["images"].unique().sort().to_list()
    for cell in group.iter_rows(named=True):
        x, y = sizes.index(cell["images"]), models.index(cell["model"])
        whole, left = sum(cell[state] for state in STATES), 0.0
        for state, colour in STATES.items():
            share = cell[state] / whole
            ax.add_patch(Rectangle((x + 0.94 * left, y), 0.94 * share, 0.9, facecolor=colour, linewidth=0))
            left += share
        ink = "white" if 2 * cell["done"] > whole else style.INK
        ax.text(
            x + 0.47, y + 0.45, f"{cell['done']}/{whole}", ha="center", va="center", color=ink, fontsize=6.5
        )
    ax.set(xlim=(0, across), ylim=(0, len(models)), title=" · ".join(group.row(0)[:2]).rstrip(" ·"))
    ax.set_xticks(
        [at + 0.47 for at in range(len(sizes))], [count(size) if size else "none" for size in sizes]
    )
    ax.set_yticks([at + 0.45 for at in range(len(models))], [model or "no model" for model in models])
    ax.tick_params(length=0)
    ax.set_xlabel("pretraining images", loc="left")
    for side in ax.spines.values():
        side.set_visible(False)


@style.themed
def hours_figure(axes_hours: Mapping[str, Sequence[tuple[str, float, float]]]) -> Figure:
    """Bars of device-hours, a panel per axis; `axes_hours`: (value, planned hours, all hours) of each bar."""
    shown = {axis: rows for axis, rows in axes_hours.items() if len(rows) > 1}
    most = max((len(rows) for rows in shown.values()), default=1)
    figure, axes = style.canvas(-(-len(shown) // COLUMNS) or 1, COLUMNS, height=0.8 + 0.2 * most)
    for ax, (axis, rows) in zip(axes, shown.items(), strict=False):
        names, left, whole = zip(*reversed(rows), strict=True)
        done = [a - b for a, b in zip(whole, left, strict=True)]
        ax.barh(names, done, color=STATES["done"], height=0.7)
        ax.barh(names, left, left=done, color="#d4d4d4", height=0.7)
        ax.set(title=axis, xlabel="device-hours")
        ax.tick_params(axis="y", length=0)
    style.hide(axes[len(shown) :])
    style.finish(axes[: len(shown)])
    handles = [Patch(facecolor=STATES["done"], label="done"), Patch(facecolor="#d4d4d4", label="planned")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def pictures(
    cells: Sequence[Mapping[str, Any]], hours: Mapping[str, Sequence[tuple[str, float, float]]]
) -> list[Picture]:
    """Both figures for a page, without the bars if every axis has a single value."""
    with style.theme():
        found = [
            _picture(
                map_figure(pl.DataFrame(list(cells))),
                "map",
                "Cells that are done, planned and failed.",
                "Each square is an encoder and a data size, divided by the state of its cells; its numbers "
                "are the cells done and all cells.",
            )
        ]
        if any(len(rows) > 1 for rows in hours.values()):
            caption = "Each panel divides the device-hours of the whole plan by the values of one axis."
            found.append(_picture(hours_figure(hours), "hours", "Device-hours by axis.", caption))
    return found


def _picture(figure: Figure, name: str, title: str, caption: str) -> Picture:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = style.inline(buffer.getvalue(), name, caption)
    return Picture(name=name, title=title, caption=caption, alt=caption, svg=svg, files=())
