"""The figures of a study's report. Captions contain n and explain every bar and band."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from orch_analysis.reports.blocks.page_figures import (
    BENEFITS_ALT,
    BENEFITS_CAPTION,
    SPECIFICATIONS_ALT,
    SPECIFICATIONS_CAPTION,
    PageFigure,
    benefit_forest,
    factor_correlations,
    factor_scatter,
    specifications,
)
from orch_analysis.reports.study_findings import StudyFindings
from orch_analysis.tables import CONTROLS
from orch_analysis.tasks.slopes import AXES
from orch_core.formatting import count, plural

if TYPE_CHECKING:
    from orch_analysis.figures import Figure

MIXES = 3  # mixes that a panel of scores can show
ROWS = 6  # algorithm-mix rows of the loss figure


def _loss(found: StudyFindings) -> Figure | None:
    rows = [row for row in found.loss if row.fit.estimates and row.value == "heldout_loss"]
    main = [row for row in rows if found.mixes.get(row.algorithm) == row.mix]
    chosen = rows if len({(row.algorithm, row.mix) for row in rows}) <= ROWS else main
    if not chosen:
        return None
    from orch_analysis.figures import training_plots

    return training_plots.loss_figure(found.results.pretraining, chosen)


def _joint(found: StudyFindings) -> Figure | None:
    fits = [fit for fit in found.joint if fit.estimates]
    if not fits:
        return None
    from orch_analysis.figures import point_plots

    return point_plots.joint_figure(
        found.results.pretraining, fits, value="heldout_loss", words={**AXES, "heldout_loss": "held-out loss"}
    )


def _main_curves(found: StudyFindings) -> pl.DataFrame:
    main = pl.col("mix").eq(pl.col("algorithm").replace_strict(found.mixes, default=""))
    return found.curves.filter(main, pl.col("heldout_loss").is_not_null(), pl.col("flops_spent") > 0)


def _curves(found: StudyFindings) -> Figure | None:
    table = _main_curves(found)
    if table.is_empty():
        return None
    from orch_analysis.figures import training_plots

    return training_plots.curves_figure(table)


def _curves_caption(found: StudyFindings) -> str:
    mixes = ", ".join(f"{algorithm} on {mix}" for algorithm, mix in found.mixes.items())
    return (
        f"Each line is one of {plural(_main_curves(found)['cell'].n_unique(), 'run')} ({mixes}); darker "
        "lines are larger encoders. The dashed line is the lowest loss that any run reached with as many "
        "FLOPs or fewer."
    )


def _few_mixes(found: StudyFindings) -> pl.DataFrame:
    """All scores, or those of each algorithm's main mix if the grid has more than MIXES mixes."""
    trained = ~pl.col("algorithm").is_in(CONTROLS)
    if found.scored.filter(trained)["mix"].n_unique() <= MIXES:
        return found.scored
    return found.scored.filter(
        ~trained | pl.col("mix").eq(pl.col("algorithm").replace_strict(found.mixes, default=""))
    )


def _scores(found: StudyFindings, axis: str) -> Figure | None:
    """Scores along encoder size, or along another axis if it varies and does not repeat an earlier axis."""
    varies = found.scored.filter(pl.col(axis) > 0)[axis].n_unique() > 1 and axis not in found.tied
    if found.scored.is_empty() or not (varies or axis == "params_encoder"):
        return None
    from orch_analysis.figures import task_plots

    return task_plots.score_figure(_few_mixes(found), axis)


def _gain(found: StudyFindings) -> Figure | None:
    if found.scored.filter(pl.col("gain").is_not_null(), ~pl.col("algorithm").is_in(CONTROLS)).is_empty():
        return None
    from orch_analysis.figures import task_plots

    return task_plots.gain_figure(_few_mixes(found))


def _mixes(found: StudyFindings) -> Figure | None:
    if found.mixed.is_empty():
        return None
    from orch_analysis.figures import task_plots

    return task_plots.mix_figure(found.mixed)


def _forest(found: StudyFindings) -> Figure | None:
    wanted = {
        "error, along size": ("error", "params_encoder"),
        "relative error, along size": ("error_ratio", "params_encoder"),
        "error, along images": ("error", "images"),
        "error, along samples": ("error", "samples_seen"),
    }
    main = [
        row for row in found.probes if row.mix in {"", found.mixes.get(row.algorithm)} and row.fit.estimates
    ]
    panels = {title: [row for row in main if (row.value, row.axis) == key] for title, key in wanted.items()}
    panels = {title: rows for title, rows in panels.items() if rows}
    if not panels:
        return None
    from orch_analysis.figures import task_plots

    return task_plots.forest_figure(panels)


def _coverage(found: StudyFindings) -> Figure:
    from orch_analysis.figures import coverage

    return coverage.coverage_figure(found.cells)


def _factor_scatter(found: StudyFindings) -> Figure | None:
    correlations = found.correlations["auc"]
    return factor_scatter(found.main_slopes("auc"), found.grouped, correlations, found.factor_names, "AUC")


SCORES = (
    "Bars are 95% bootstrap intervals over test images. Thick lines are at the largest value of the other "
    "axes, thin lines at smaller {other}. The grey line is the untrained encoder of {size}, the dotted line "
    "a probe of the raw pixels. Series are shifted sideways so that bars do not overlap; the AUC axes of the "
    "panels differ."
)
TASKS = "tasks"
FIGURES: tuple[PageFigure[StudyFindings], ...] = (
    PageFigure(
        name="loss", section="pretraining", title="Held-out loss against encoder size, data and compute.",
        draw=_loss,
        caption="Each point is a run. Thick lines are the fitted power laws at the geometric mean of the "
        "other quantities; bands are their 95% intervals. Both axes are logarithmic; losses of different "
        "rows cannot be compared.",
        alt="Held-out loss along each axis, one row of panels per algorithm and mix, with fitted laws.",
    ),
    PageFigure(
        name="joint", section="pretraining", title="Joint laws of encoder size and data.", draw=_joint,
        caption="Each point is a run; curves are the fitted joint law at the values in the legend.",
        alt="Held-out loss against encoder parameters with curves of the joint law.",
    ),
    PageFigure(
        name="curves", section="pretraining", title="Training curves and their envelope.", draw=_curves,
        caption=_curves_caption, alt="Held-out loss during training against the FLOPs spent, a line per run.",
    ),
    PageFigure(
        name="scores", section=TASKS, title="Test AUC against encoder size.",
        caption=SCORES.format(other="numbers of images", size="the same size"),
        draw=lambda found: _scores(found, "params_encoder"),
        alt="AUC against encoder parameters, one panel per task.",
    ),
    PageFigure(
        name="scores-images", section=TASKS, title="Test AUC against pretraining images.",
        caption=SCORES.format(other="encoders", size="the largest size"),
        draw=lambda found: _scores(found, "images"),
        alt="AUC against pretraining images, one panel per task.",
    ),
    PageFigure(
        name="scores-samples", section=TASKS, title="Test AUC against samples seen.",
        caption=SCORES.format(other="encoders", size="the largest size"),
        draw=lambda found: _scores(found, "samples_seen"),
        alt="AUC against samples seen in pretraining, one "
        "panel per task.",
    ),
    PageFigure(
        name="gain", section=TASKS, title="Gain in test AUC over an untrained encoder of the same size.",
        draw=_gain,
        caption="Gains are at the largest number of images of each mix. Bars are 95% intervals, paired over "
        "the test images. A gain of zero means that pretraining has no effect. The axes of the panels "
        "differ.",
        alt="Gain in AUC over the untrained control against encoder parameters, one panel per task.",
    ),
    PageFigure(
        name="mixes", section=TASKS, title="Test AUC of each pretraining mix.", draw=_mixes,
        caption=lambda found: f"Scores are of {found.mixed['model'][0]} on {count(found.mixed['images'][0])} "
        "images, the largest pair that was run with every mix shown. Bars are 95% bootstrap intervals over "
        "test images; the dashed line is the untrained encoder of the same size.",
        alt="Test AUC per task and pretraining mix, with intervals.",
    ),
    PageFigure(
        name="slopes", section="slopes", title="Slopes of the tasks, sorted.", draw=_forest,
        caption="Markers are exponents of the error (1 − AUC), where negative is better; bars are 95% t "
        "intervals. A marker is filled if its interval excludes zero. The relative error is divided by the "
        "error of the untrained encoder of the same size, which removes the effect of size alone. An "
        "interval much wider than the others is cut at the panel's edge.",
        alt="Forest plot of the slopes of every task with intervals.",
    ),
    PageFigure(
        name="benefits", section="benefits", title="Scaling benefits along encoder size, by definition.",
        caption=BENEFITS_CAPTION, draw=lambda found: benefit_forest(found.benefits, "params_encoder"),
        alt=BENEFITS_ALT,
    ),
    PageFigure(
        name="specifications", section="benefits", title="Specification curve of every factor.",
        caption=SPECIFICATIONS_CAPTION, draw=lambda found: specifications(found.benefits),
        alt=SPECIFICATIONS_ALT,
    ),
    PageFigure(
        name="factors", section="factors", title="Slope of AUC in encoder size against each task factor.",
        caption=lambda found: f"Each point is one of {plural(max(found.correlations['auc']['n']), 'task')}. "
        "Pale bars are 95% intervals of the slopes, cut at the panel's edge if they are much wider than the "
        "spread of the slopes.",
        draw=_factor_scatter, alt="Scatter of slopes against task factors, tasks named.",
    ),
    PageFigure(
        name="correlations", section="factors", title="Correlations of the slopes of AUC with task factors.",
        caption=lambda found: "Markers are Pearson's r over "
        f"{plural(max(found.correlations['auc']['n']), 'task')}; bars are Fisher's 95% intervals, not "
        "corrected for the number of tests. A marker is filled if its interval excludes zero.",
        draw=lambda found: factor_correlations(found.correlations["auc"]),
        alt="Correlation of slopes with each factor, with intervals.",
    ),
    PageFigure(
        name="coverage", section="grid", title="The grid and its cost.", draw=_coverage,
        caption="Each square contains the device time of its cells, pretraining and probes, summed over "
        "seeds. A cross with a number counts cells that are not finished; an empty square is not in the "
        "grid.",
        alt="Heat map of the grid's cells with the time each took.",
    ),
)  # fmt: skip
