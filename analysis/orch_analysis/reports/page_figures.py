"""The pictures of a report, drawn and saved, with captions that carry n and the meaning of every bar and band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import polars as pl

from orch_analysis.figures import (
    Picture,
    coverage,
    factor_plots,
    point_plots,
    style,
    task_plots,
    training_plots,
)
from orch_analysis.reports.study_findings import Findings, varying_factors
from orch_analysis.tables.study_tables import CONTROLS
from orch_analysis.tasks import slopes
from orch_core.formatting import count, plural

if TYPE_CHECKING:
    from orch_analysis.reports.points_report import PointFindings

Drawn: TypeAlias = Mapping[str, Sequence[Picture]]
DRAWN = ("n_total", "classes", "classes_binary", "gzip_rgb", "dbi_pixels", "headroom")
MIXES = 3  # mixes that a panel of scores can hold
ROWS = 6  # algorithm-mix rows of the loss figure


def of_study(found: Findings, folder: Path) -> Drawn:
    """Every picture that the study's data can fill, by section."""
    with style.theme():
        return {
            "loss": _loss(found, folder),
            "curves": _curves(found, folder),
            "scores": _scores(found, folder),
            "gain": _gain(found, folder),
            "mixes": _mixes(found, folder),
            "forest": _forest(found, folder),
            "factors": _factors(found, folder),
            "coverage": _coverage(found, folder),
        }


def _loss(found: Findings, folder: Path) -> list[Picture]:
    rows = [row for row in found.loss if row.fit.estimates]
    main = [row for row in rows if found.mixes.get(row.algorithm) == row.mix]
    groups = {(row.algorithm, row.mix) for row in rows}
    chosen = rows if len(groups) <= ROWS else main
    if not chosen:
        return []
    caption = (
        "Each point is a run. Thick lines are the fitted power laws at the geometric mean of what is held fixed, bands "
        "their 95% intervals. Logarithmic axes; losses do not compare between rows."
    )
    return [
        style.save(
            training_plots.loss_figure(found.results.pretraining, chosen), folder, "loss",
            title="Held-out loss against encoder size, data and compute.", caption=caption,
            alt=f"Held-out loss falls or not along three axes, {len(chosen)} panels with fitted laws.",
        )
    ]  # fmt: skip


def _curves(found: Findings, folder: Path) -> list[Picture]:
    main = pl.col("mix").eq(pl.col("algorithm").replace_strict(found.mixes, default=""))
    table = found.curves.filter(main, pl.col("heldout_loss").is_not_null(), pl.col("flops_spent") > 0)
    if table.is_empty():
        return []
    mixes = ", ".join(f"{algorithm} on {mix}" for algorithm, mix in found.mixes.items())
    caption = (
        f"{plural(table['cell'].n_unique(), 'run')} ({mixes}); a line each, darker for a larger encoder. Dashed: the lowest "
        "loss that any run reached with as many FLOPs or fewer."
    )
    return [
        style.save(
            training_plots.curves_figure(table), folder, "curves", title="Training curves and their envelope.",
            caption=caption, alt="Held-out loss during training against the FLOPs spent, a line per run.",
        )
    ]  # fmt: skip


def _few_mixes(found: Findings) -> pl.DataFrame:
    """All scores, or those of each algorithm's main mix where more mixes would cover each other."""
    trained = ~pl.col("algorithm").is_in(CONTROLS)
    if found.scored.filter(trained)["mix"].n_unique() <= MIXES:
        return found.scored
    return found.scored.filter(
        ~trained | pl.col("mix").eq(pl.col("algorithm").replace_strict(found.mixes, default=""))
    )


def _mixes(found: Findings, folder: Path) -> list[Picture]:
    rows = found.mixed
    if rows.is_empty():
        return []
    images, model = count(rows["images"][0]), rows["model"][0]
    caption = (
        f"{model} on {images} images of each mix, the largest pair that every mix shown was run with. Bars: 95% bootstrap "
        "intervals over test images; grey: the untrained encoder of the same size."
    )
    return [
        style.save(
            task_plots.mix_figure(rows), folder, "mixes", title="What the pretraining mix does.", caption=caption,
            alt="Test AUC per task and pretraining mix, with intervals.",
        )
    ]  # fmt: skip


def _scores(found: Findings, folder: Path) -> list[Picture]:
    if found.scored.is_empty():
        return []
    caption = (
        "Bars: 95% bootstrap intervals over test images. Thick lines: most images of each mix; thin lines: fewer images. "
        "Grey: the untrained encoder of the same size; dotted: a probe of the raw pixels. Series are shifted sideways a "
        "little; panels have their own AUC axis."
    )
    return [
        style.save(
            task_plots.score_figure(_few_mixes(found)), folder, "scores", title="Test AUC against encoder size, with its floors.",
            caption=caption, alt="Small multiples of AUC against encoder parameters, one per task.",
        )
    ]  # fmt: skip


def _gain(found: Findings, folder: Path) -> list[Picture]:
    if (
        not found.scored["gain"].count()
        or found.scored.filter(pl.col("gain").is_not_null(), pl.col("mix") != "").is_empty()
    ):
        return []
    caption = "At the largest number of images of each mix. Bars: 95%, paired over the test images. Zero: pretraining gave nothing. Panels have their own axis."
    return [
        style.save(
            task_plots.gain_figure(_few_mixes(found)), folder, "gain",
            title="What pretraining adds to an untrained encoder of the same size.", caption=caption,
            alt="Gain in AUC over the random control against encoder parameters, one panel per task.",
        )
    ]  # fmt: skip


def _forest(found: Findings, folder: Path) -> list[Picture]:
    wanted = {
        "error in parameters": ("error", "params_encoder"),
        "… net of the control": ("error_ratio", "params_encoder"),
        "error in images": ("error", "images"),
    }
    main = [
        row for row in found.probes if row.mix in {"", found.mixes.get(row.algorithm)} and row.fit.estimates
    ]
    panels = {title: [row for row in main if (row.value, row.axis) == key] for title, key in wanted.items()}
    panels = {title: rows for title, rows in panels.items() if rows}
    if not panels:
        return []
    caption = (
        "Exponents of 1 − AUC with 95% t intervals; filled where zero is outside, negative is better. Net of the control: of "
        "the error divided by that of the untrained encoder of the same size, so what size alone gives is taken off. An "
        "interval much wider than the others runs out of its panel."
    )
    return [
        style.save(
            task_plots.forest_figure(panels), folder, "slopes", title="Slopes of the tasks, sorted.", caption=caption,
            alt="Forest plot of the slopes of every task with intervals.",
        )
    ]  # fmt: skip


def _factors(found: Findings, folder: Path) -> list[Picture]:
    table = slopes.slope_table(found.probes).filter(
        pl.col("value") == "auc", pl.col("axis") == "params_encoder"
    )
    pairs = pl.DataFrame(
        list(found.mixes.items()), schema={"algorithm": pl.String, "mix": pl.String}, orient="row"
    )
    main = table.join(pairs, on=["algorithm", "mix"], how="semi").with_columns(group=pl.col("algorithm"))
    return of_factors(
        main, found.grouped, found.correlations["auc"], varying_factors(found.grouped, DRAWN), folder
    )


def of_points(found: PointFindings, folder: Path) -> Drawn:
    """The pictures of a table of points."""
    with style.theme():
        return {
            "laws": _laws(found, folder),
            "forest": _axes(found, folder),
            "factors": _point_factors(found, folder),
        }


def _laws(found: PointFindings, folder: Path) -> list[Picture]:
    lines = [fit for fit in found.fits if len(fit.x) == 1 and fit.estimates]
    if not lines:
        return []
    axis = str(next(iter(lines[0].x.values())))
    return [
        style.save(
            point_plots.law_figure(found.frame, lines, value=found.value, axis=axis), folder, "laws",
            title=f"{found.value} against {axis}.",
            caption=f"Points as given; lines are the fitted laws ({lines[0].law.formula}), bands {lines[0].level:.0%} intervals of the curve. A power law knows no ceiling.",
            alt=f"{found.value} against {axis}, one panel per task, with fitted laws.",
        )
    ]  # fmt: skip


def _axes(found: PointFindings, folder: Path) -> list[Picture]:
    panels = {
        f"in {axis}": [row for row in rows if row.slope is not None] for axis, rows in found.axes.items()
    }
    panels = {title: rows for title, rows in panels.items() if rows and any(row.task for row in rows)}
    if not panels:
        return []
    return [
        style.save(
            task_plots.forest_figure(panels), folder, "slopes", title=f"Slopes of {found.value}, sorted.",
            caption="95% t intervals; filled where zero is outside. An interval much wider than the others runs out of its panel.",
            alt="Forest plot of slopes with intervals.",
        )
    ]  # fmt: skip


def _point_factors(found: PointFindings, folder: Path) -> list[Picture]:
    from orch_analysis.reports.points_report import correlated

    if not found.axes or not found.names:
        return []
    table = correlated(slopes.slope_table(next(iter(found.axes.values()))))
    names = [name for name in found.names if name in DRAWN]
    return of_factors(table, found.factors, found.correlations, names, folder, value=found.value)


def of_factors(
    table: pl.DataFrame,
    factors: pl.DataFrame,
    correlations: pl.DataFrame,
    names: Sequence[str],
    folder: Path,
    *,
    value: str = "AUC",
) -> list[Picture]:
    """Slope against every factor, and the correlations with their intervals."""
    if table.is_empty() or not names or not correlations["pearson"].count():
        return []
    most = max(correlations["n"])
    return [
        style.save(
            factor_plots.scatter_figure(table, factors, names, value=value), folder, "factors",
            title=f"Slope of {value} in model size against what the tasks are like.",
            caption=f"{most} tasks; pale bars: 95% intervals of the slopes. An interval much wider than the slopes' spread runs out of its panel.",
            alt="Scatter of slopes against task factors, tasks named.",
        ),
        style.save(
            factor_plots.correlation_figure(correlations), folder, "correlations", title="Correlations, with their intervals.",
            caption=f"Pearson's r over {most} tasks with Fisher's 95% interval, uncorrected; filled where zero is outside.",
            alt="Correlation of slopes with each factor, with intervals.",
        ),
    ]  # fmt: skip


def _coverage(found: Findings, folder: Path) -> list[Picture]:
    caption = "Time that each cell took, training and probes, seeds added up. A cross counts cells that are not done; an empty square was not asked for."
    return [
        style.save(
            coverage.coverage_figure(found.cells), folder, "coverage", title="The grid and its cost.", caption=caption,
            alt="Heat map of the grid's cells with the time each took.",
        )
    ]  # fmt: skip
