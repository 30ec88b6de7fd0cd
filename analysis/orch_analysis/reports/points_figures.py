"""The figures of the report of a table of points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orch_analysis.fitting.estimates import Fit
from orch_analysis.reports.page_figures import (
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
from orch_analysis.reports.points_findings import PointsFindings
from orch_core.formatting import listed, percent, plural

if TYPE_CHECKING:
    from orch_analysis.figures import Figure


def _lines(found: PointsFindings) -> list[Fit]:
    return [fit for fit in found.fits if len(fit.x) == 1 and fit.estimates]


def _joint(found: PointsFindings) -> list[Fit]:
    return [fit for fit in found.fits if len(fit.x) > 1 and fit.estimates]


def _laws(found: PointsFindings) -> Figure | None:
    if not (lines := _lines(found)):
        return None
    from orch_analysis.figures import point_plots

    return point_plots.law_figure(found.frame, lines, value=found.value, axis=_axis(lines))


def _axis(fits: list[Fit]) -> str:
    return str(next(iter(fits[0].x.values())))


def _formulas(fits: list[Fit]) -> str:
    return listed(list(dict.fromkeys(fit.law.formula for fit in fits)))


def _laws_caption(found: PointsFindings) -> str:
    lines = _lines(found)
    limit = " A power law has no upper limit." if any(fit.law.name == "power" for fit in lines) else ""
    level = percent(lines[0].level)
    return f"Points of the table with the fitted laws ({_formulas(lines)}); bands are {level} intervals of the curve.{limit}"


def _joint_laws(found: PointsFindings) -> Figure | None:
    if not (fits := _joint(found)):
        return None
    from orch_analysis.figures import point_plots

    return point_plots.joint_figure(found.frame, fits, value=found.value)


def _forest(found: PointsFindings) -> Figure | None:
    panels = {
        f"along {axis}": [row for row in rows if row.slope is not None] for axis, rows in found.axes.items()
    }
    panels = {title: rows for title, rows in panels.items() if any(row.task for row in rows)}
    if not panels:
        return None
    from orch_analysis.figures import task_plots

    return task_plots.forest_figure(panels)


def _tasks(found: PointsFindings) -> str:
    return plural(max(found.correlations["n"]), "task")


FIGURES: tuple[PageFigure[PointsFindings], ...] = (
    PageFigure(
        name="laws", section="laws", draw=_laws, caption=_laws_caption,
        title=lambda found: f"{found.value} against {_axis(_lines(found))}.",
        alt="The value against the law's variable, one panel per task, with fitted laws.",
    ),
    PageFigure(
        name="joint", section="laws", draw=_joint_laws,
        title=lambda found: f"{found.value} and the fitted joint laws.",
        caption=lambda found: f"Points of the table; curves are the fitted law ({_formulas(_joint(found))}) at the values in "
        "the legend, each point in the colour of the nearest of them.",
        alt="The value against the law's first variable, with curves of the law for values of the second.",
    ),
    PageFigure(
        name="slopes", section="laws", title=lambda found: f"Slopes of {found.value}, sorted.", draw=_forest,
        caption="95% t intervals, filled if the interval excludes zero. An interval much wider than the others is cut at the "
        "panel's edge.",
        alt="Forest plot of slopes with intervals.",
    ),
    PageFigure(
        name="benefits", section="benefits",
        title=lambda found: f"Scaling benefits along {found.benefit_axis}, by definition.",
        caption=BENEFITS_CAPTION,
        draw=lambda found: benefit_forest(found.benefits, found.benefit_axis),
        alt=BENEFITS_ALT,
    ),
    PageFigure(
        name="specifications", section="benefits", title="Specification curve of every factor.",
        caption=SPECIFICATIONS_CAPTION,
        draw=lambda found: specifications(found.benefits),
        alt=SPECIFICATIONS_ALT,
    ),
    PageFigure(
        name="factors", section="factors",
        title=lambda found: f"Slope of {found.value} in model size against each task factor.",
        caption=lambda found: f"{_tasks(found)}; pale bars: 95% intervals of the slopes, cut at the panel's edge if they are "
        "much wider than the spread of the slopes.",
        draw=lambda found: factor_scatter(found.slopes, found.factors, found.correlations, found.names, found.value),
        alt="Scatter of slopes against task factors, tasks named.",
    ),
    PageFigure(
        name="correlations", section="factors",
        title=lambda found: f"Correlations of the slopes of {found.value} with task factors.",
        caption=lambda found: f"Pearson's r over {_tasks(found)} with Fisher's 95% interval, not corrected for the number of "
        "tests; filled if the interval excludes zero.",
        draw=lambda found: factor_correlations(found.correlations),
        alt="Correlation of slopes with each factor, with intervals.",
    ),
)  # fmt: skip
