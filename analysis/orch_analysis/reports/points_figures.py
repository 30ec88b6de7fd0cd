"""The figures of the report of a table of points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orch_analysis.figures import PANELS, ROWS, SERIES
from orch_analysis.fitting.estimates import Fit
from orch_analysis.reports.blocks.page_figures import (
    BENEFITS_ALT,
    BENEFITS_CAPTION,
    SPECIFICATIONS_ALT,
    SPECIFICATIONS_CAPTION,
    PageFigure,
    benefit_forest,
    drawn_correlations,
    factor_correlations,
    factor_scatter,
    specifications,
)
from orch_analysis.reports.points_findings import PointsFindings
from orch_analysis.tasks.slopes import Slope, group_labels
from orch_core.formatting import listed, percent, plural

if TYPE_CHECKING:
    from orch_analysis.figures import Figure


def _lines(found: PointsFindings) -> list[Fit]:
    """The laws of one variable that are drawn: of the first tasks, and of the first series within them."""
    lines = _all_lines(found)
    labels = [group_labels(fit.group) for fit in lines]
    tasks = sorted({label["task"] for label in labels})[:PANELS]
    series = list(dict.fromkeys((label["algorithm"], label["mix"]) for label in labels))[:SERIES]
    return [
        fit
        for fit, label in zip(lines, labels, strict=True)
        if label["task"] in tasks and (label["algorithm"], label["mix"]) in series
    ]


def _all_lines(found: PointsFindings) -> list[Fit]:
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
    level, part = percent(lines[0].level), _part(len(lines), len(_all_lines(found)), "laws", "laws.json")
    return (
        f"Points are rows of the table and curves the fitted laws ({_formulas(lines)}); bands are {level} "
        f"intervals of the curves.{limit}{part}"
    )


def _part(shown: int, count: int, what: str, file: str) -> str:
    """What a figure leaves out, and where it is; empty if it shows everything."""
    return f" {shown} of {count:,} {what} are drawn; {file} has all of them." if shown < count else ""


def _joint_laws(found: PointsFindings) -> Figure | None:
    if not (fits := _joint(found)):
        return None
    from orch_analysis.figures import point_plots

    return point_plots.joint_figure(found.frame, fits, value=found.value)


def _joint_caption(found: PointsFindings) -> str:
    fits = _joint(found)
    return (
        f"Points are rows of the table and curves the fitted law ({_formulas(fits)}) at the values in the "
        "legend; each point has the colour of the nearest "
        f"value.{_part(min(len(fits), PANELS), len(fits), 'laws', 'laws.json')}"
    )


def _slopes(found: PointsFindings) -> dict[str, list[Slope]]:
    """The slopes of tasks along each axis, those along the first axis of largest size first."""
    known = {
        axis: [row for row in rows if row.slope is not None and row.task] for axis, rows in found.axes.items()
    }
    return {
        axis: sorted(rows, key=lambda row: -abs(row.slope or 0.0)) for axis, rows in known.items() if rows
    }


def _largest(found: PointsFindings) -> dict[str, list[Slope]]:
    """The slopes that the forest shows: of the tasks with the largest along the first axis, in few series."""
    slopes = _slopes(found)
    first = next(iter(slopes.values()), [])
    tasks = list(dict.fromkeys(row.task for row in first))[:ROWS]
    series = sorted({(row.algorithm, row.mix) for row in first})[:SERIES]
    return {
        axis: [row for row in rows if row.task in tasks and (row.algorithm, row.mix) in series]
        for axis, rows in slopes.items()
    }


def _forest(found: PointsFindings) -> Figure | None:
    panels = {f"along {axis}": rows for axis, rows in _largest(found).items()}
    if not panels:
        return None
    from orch_analysis.figures import task_plots

    return task_plots.forest_figure(panels)


def _forest_caption(found: PointsFindings) -> str:
    shown, known = (len(next(iter(slopes.values()))) for slopes in (_largest(found), _slopes(found)))
    return (
        "Bars are 95% t intervals; a marker is filled if its interval excludes zero. An interval much wider "
        "than the others is cut at the panel's "
        f"edge.{_part(shown, known, 'slopes, those of largest size,', 'tables/slopes.csv')}"
    )


def _tasks(found: PointsFindings) -> str:
    return plural(max(found.correlations["n"]), "task")


def _groups_part(found: PointsFindings) -> str:
    counts = [
        frame["group"].n_unique() for frame in (drawn_correlations(found.correlations), found.correlations)
    ]
    return _part(counts[0], counts[1], "groups of slopes", "tables/correlations.csv")


FIGURES: tuple[PageFigure[PointsFindings], ...] = (
    PageFigure(
        name="laws", section="laws", draw=_laws, caption=_laws_caption,
        title=lambda found: f"{found.value} against {_axis(_lines(found))}.",
        alt="The value against the law's variable, one panel per task, with fitted laws.",
    ),
    PageFigure(
        name="joint", section="laws", draw=_joint_laws,
        title=lambda found: f"{found.value} and the fitted joint laws.",
        caption=_joint_caption,
        alt="The value against the law's first variable, with curves of the law for values of the second.",
    ),
    PageFigure(
        name="slopes", section="laws", title=lambda found: f"Slopes of {found.value}, sorted.", draw=_forest,
        caption=_forest_caption,
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
        caption=lambda found: f"Each point is one of {_tasks(found)}. Pale bars are 95% intervals of the "
        "slopes, cut at the panel's edge if they are much wider than the spread of the slopes.",
        draw=lambda found: factor_scatter(
            found.slopes, found.factors, found.correlations, found.names, found.value
        ),
        alt="Scatter of slopes against task factors, tasks named.",
    ),
    PageFigure(
        name="correlations", section="factors",
        title=lambda found: f"Correlations of the slopes of {found.value} with task factors.",
        caption=lambda found: f"Markers are Pearson's r over {_tasks(found)}; bars are Fisher's 95% "
        "intervals, not corrected for the number of tests. A marker is filled if its interval excludes "
        f"zero.{_groups_part(found)}",
        draw=lambda found: factor_correlations(found.correlations),
        alt="Correlation of slopes with each factor, with intervals.",
    ),
)  # fmt: skip
