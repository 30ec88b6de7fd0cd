"""The figure of a grid: its cells, their device time, and the cells that are not finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import seaborn as sns
from matplotlib.colors import LogNorm

from orch_analysis.figures import style
from orch_analysis.tables import CONTROLS
from orch_core.formatting import count, duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@style.themed
def coverage_figure(cells: pl.DataFrame) -> Figure:
    """Models across; algorithm, mix and images down; colours and numbers are the device times of the cells.

    cells: columns algorithm, model, params_encoder, mix, images, state ("done", else a cause), minutes. The
           times of
    the cells of one square (seeds) are added; a cross and a number count its cells that are not done.
    """
    key = ["algorithm", "mix", "images"]
    models = (
        cells.sort("params_encoder", "model", nulls_last=True)["model"].unique(maintain_order=True).to_list()
    )
    rows = (
        cells.select(key).unique().with_columns(rank=pl.col("algorithm").is_in(CONTROLS)).sort("rank", *key)
    )
    minutes = np.full((rows.height, len(models)), np.nan)
    labels = np.full(minutes.shape, "", dtype=object)
    for (row, column), square in _squares(cells, rows.select(key), models).items():
        spent, bad = float(square["minutes"].fill_null(0).sum()), (square["state"] != "done").sum()
        minutes[row, column] = max(spent, 1e-3)
        labels[row, column] = f"× {bad}" if bad else duration(spent / 60)
    figure, (ax,) = style.canvas(
        1, 1, height=0.6 + 0.2 * rows.height, width=min(style.WIDTH, 2.2 + 0.75 * len(models))
    )
    norm = LogNorm(np.nanmin(minutes) / 3, np.nanmax(minutes) * 1.01)
    sns.heatmap(
        minutes, ax=ax, norm=norm, cmap=sns.light_palette("#4c78a8", as_cmap=True), annot=labels, fmt="",
        cbar=False, linewidths=1, linecolor="white", xticklabels=[model or "no model" for model in models],
        yticklabels=[_row_name(*row) for row in rows.select(key).iter_rows()], annot_kws={"fontsize": 6.5},
    )  # fmt: skip
    ax.tick_params(length=0)
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=0 if len(models) <= 8 else 45)
    ax.set_facecolor("#fafafa")
    return figure


def _squares(
    cells: pl.DataFrame, rows: pl.DataFrame, models: Sequence[str]
) -> dict[tuple[int, int], pl.DataFrame]:
    places = {row: index for index, row in enumerate(rows.iter_rows())}
    parts = cells.group_by([*rows.columns, "model"], maintain_order=True)
    return {(places[key[:-1]], models.index(key[-1])): part for key, part in parts}


def _row_name(algorithm: str, mix: str | None, images: float | None) -> str:
    return " · ".join(word for word in (algorithm, mix or "", count(images) if images else "") if word)
