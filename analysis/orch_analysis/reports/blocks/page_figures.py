"""The figures of a report: the section, text and drawing function of each.

To add a figure to a report, write the drawing function in `orch_analysis.figures` and append a `PageFigure`
to `study_figures.FIGURES` or `points_figures.FIGURES`: the page shows it in its section.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import polars as pl

from orch_analysis.benefits.pooled import BenefitAnalysis
from orch_analysis.figures import SERIES, Picture
from orch_analysis.tasks.factors import BY_NAME

if TYPE_CHECKING:
    from orch_analysis.figures import Figure

Found = TypeVar("Found")
BENEFITS_CAPTION = (
    "Open points: slopes of each task with 95% intervals; filled points: shrunken to the group's mean. "
    "Below: the mean over tasks with its 95% interval (thick) and the 95% prediction interval of a new task "
    "(thin)."
)
BENEFITS_ALT = "Forest plot of scaling benefits per task with means and prediction intervals."
SPECIFICATIONS_CAPTION = (
    "Each point is one specification (definition of the benefit, axis, group, one task left out), sorted by "
    "its score: the effect of the factor in standard errors. Filled: p < .05 in that specification."
)
SPECIFICATIONS_ALT = "Scores of every factor over all specifications, sorted."
Words: TypeAlias = str | Callable[[Found], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFigure(Generic[Found]):
    """A figure of a page made from findings of type `Found`.

    name: of its files and anchor; section: id of the section that shows it; title, caption: text, or a
          function of
    the findings; alt: a description for readers who cannot see the figure; draw: returns the figure, or None
    if the findings lack its data. `draw` imports matplotlib only when it draws.
    """

    name: str
    section: str
    title: Words[Found]
    caption: Words[Found]
    alt: str
    draw: Callable[[Found], Figure | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The pictures of a page, each with the id of its section, in the order of the registry."""

    pictures: tuple[tuple[str, Picture], ...]

    def of(self, section: str) -> list[Picture]:
        """The pictures of one section."""
        return [picture for name, picture in self.pictures if name == section]


def draw_all(figures: Sequence[PageFigure[Found]], found: Found, folder: Path) -> Drawn:
    """Draw and save every figure whose data the findings contain."""
    pictures = []
    for one in figures:
        figure = one.draw(found)
        if figure is not None:
            from orch_analysis.figures import style

            title, caption = (
                text if isinstance(text, str) else text(found) for text in (one.title, one.caption)
            )
            picture = style.save(figure, folder, one.name, title=title, caption=caption, alt=one.alt)
            pictures.append((one.section, picture))
    return Drawn(pictures=tuple(pictures))


def factor_scatter(
    slopes: pl.DataFrame, factors: pl.DataFrame, correlations: pl.DataFrame, names: Sequence[str], value: str
) -> Figure | None:
    """Slopes against factors, a panel per `drawn` factor or column of a table; None without correlations."""
    shown = [name for name in names if name not in BY_NAME or BY_NAME[name].drawn]
    if slopes.is_empty() or not shown or not correlations["pearson"].count():
        return None
    from orch_analysis.figures import factor_plots

    return factor_plots.scatter_figure(slopes, factors, shown, value=value)


def factor_correlations(correlations: pl.DataFrame) -> Figure | None:
    """Correlations with their intervals; None if none of them could be computed."""
    known = drawn_correlations(correlations)
    if known.is_empty():
        return None
    from orch_analysis.figures import factor_plots

    return factor_plots.correlation_figure(known)


def drawn_correlations(correlations: pl.DataFrame) -> pl.DataFrame:
    """The correlations that could be computed, of the first groups."""
    known = correlations.filter(pl.col("pearson").is_not_null())
    return known.filter(
        pl.col("group").is_in(known["group"].unique(maintain_order=True).head(SERIES).to_list())
    )


def benefit_forest(found: BenefitAnalysis | None, axis: str) -> Figure | None:
    """Benefits along one axis with their means, where there are any."""
    if found is None or (main := found.along(axis)).pooled.is_empty():
        return None
    from orch_analysis.figures import benefit_plots

    return benefit_plots.benefit_figure(main.tasks, main.pooled)


def specifications(found: BenefitAnalysis | None) -> Figure | None:
    """The specification curve of every factor, where there are any."""
    if found is None or found.curve.is_empty():
        return None
    from orch_analysis.figures import benefit_plots

    return benefit_plots.specification_figure(found.curve)
