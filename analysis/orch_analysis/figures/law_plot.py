"""Figures of one fit: a law of one variable with its band, or predicted against measured values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from orch_analysis.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curve(measured: pl.DataFrame, predicted: pl.DataFrame, *, variable: str, value: str) -> Figure:
    """Measured points and a law's curve with its band, on logarithmic axes if the values are positive.

    measured has the columns `variable` and `value`, predicted those of `Fit.predict`.
    """
    with style.theme():
        figure, (axes,) = style.canvas(1, 1, height=3.2, width=4.6)
        axes.plot(predicted[variable], predicted["value"], color=style.nth(0), zorder=2)
        if predicted["lo"].null_count() == 0:
            axes.fill_between(
                predicted[variable], predicted["lo"], predicted["hi"], color=style.nth(0), alpha=0.15, lw=0
            )
        axes.scatter(measured[variable], measured["value"], s=18, color=style.INK, zorder=3)
        axes.set_xscale("log")
        if (predicted["value"] > 0).all() and (measured["value"] > 0).all():
            axes.set_yscale("log")
        axes.set_xlabel(variable)
        axes.set_ylabel(value)
        style.finish([axes])
    return figure


def parity(measured: pl.Series, predicted: pl.Series, *, value: str) -> Figure:
    """Predicted against measured values, with the line on which they are equal."""
    with style.theme():
        figure, (axes,) = style.canvas(1, 1, height=3.4, width=3.8)
        axes.scatter(measured, predicted, s=18, color=style.nth(0), zorder=3)
        if len(measured):
            ends = [float(measured.min()), float(measured.max())]  # type: ignore[arg-type]
            axes.plot(ends, ends, color=style.GREY, lw=0.8, zorder=1)
        axes.set_xlabel(f"{value}, measured")
        axes.set_ylabel(f"{value}, predicted")
        style.finish([axes])
    return figure
