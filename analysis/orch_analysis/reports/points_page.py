"""The layout and the sentences of the report of a table of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.points import Dropped
from orch_analysis.reports.blocks import benefit_section, factor_sentences, fit_tables, page_tables
from orch_analysis.reports.blocks.page_figures import Drawn
from orch_analysis.reports.page import Answer, Block, Page, Section, Text
from orch_analysis.reports.points_findings import PointsFindings
from orch_analysis.tasks.slopes import Slope
from orch_core.formatting import listed, percent, plural

Files = Mapping[str, tuple[str, ...]]
NAMED = 20  # rows left out that the page lists


def points_page(found: PointsFindings, drawn: Drawn, files: Files, command: str) -> Page:
    """The page of a table of points.

    command: the command line that wrote it, for its provenance.
    """
    blocks: list[Block] = [*drawn.of("laws"), fit_tables.fits(found.fits, files["fits"])]
    blocks += _choices(found)
    sections = [Section(id="laws", title="Fitted laws", blocks=blocks)]
    benefits: list[Answer] = []
    if len(found.axes) > 1:
        sections.append(_axes_section(found, files))
    if found.benefits:
        pooled, beside = files["benefits"], files.get("moderators", ())
        axis = found.benefit_axis
        sections.append(benefit_section.benefit_section(found.benefits, axis, drawn, pooled, beside))
        benefits = benefit_section.benefit_answers(found.benefits, axis)
    if found.names:
        sections.append(_factors_section(found, drawn, files))
    sections.append(Section(id="provenance", title="Provenance", blocks=[_provenance(found, command)]))
    slopes = f"the slopes of {found.value} in model size"
    return Page(
        title=f"Scaling laws of {Path(found.points.source).name}",
        kicker="Scaling-law report of a table of points",
        lead=_lead(found),
        facts=_facts(found),
        answers=[
            *_misfit_answers(found),
            *_axis_answers(found),
            *benefits,
            *factor_sentences.factor_answer(found.correlations, slopes),
        ],
        sections=sections,
    )


def _choices(found: PointsFindings) -> list[Block]:
    if all(type(fit) is Fit for fit in found.fits):  # the forecasts of `--law auto` need more of scipy
        return []
    from orch_analysis.forecast.auto import AutoFit

    chosen = [fit for fit in found.fits if isinstance(fit, AutoFit) and fit.estimates]
    return [fit_tables.choices(chosen)] if chosen else []


def _facts(found: PointsFindings) -> list[tuple[str, str]]:
    fitted = sum(bool(fit.estimates) for fit in found.fits)
    doubtful = sum(bool(fit.estimates) and fit.outcome is not Outcome.OK for fit in found.fits)
    facts = [
        (f"{found.frame.height:,}", "points"),
        (str(len({tuple(sorted(fit.group.items())) for fit in found.fits})), "groups"),
        (f"{fitted} of {len(found.fits)}", "laws fitted"),
        (str(len({item.row for fit in found.fits for item in fit.dropped})), "rows left out"),
    ]
    return [*facts, (str(doubtful), "laws with a warning")] if doubtful else facts


def _lead(found: PointsFindings) -> str:
    if not found.axes:
        laws = listed(list(dict.fromkeys(fit.law.formula for fit in found.fits)))
        return f"{laws}, fitted to {plural(len(found.fits), 'group')} of {found.value}."
    counts = [
        f"along {axis} in {sum(row.differs for row in rows)} of {plural(len(rows), 'group')}"
        for axis, rows in found.axes.items()
    ]
    return f"The slope of {found.value} differs from zero {listed(counts)} (95% intervals)."


def _misfit_answers(found: PointsFindings) -> list[Answer]:
    """The laws that do not describe their points, first on the page: they support no other conclusion."""
    fitted = [fit for fit in found.fits if fit.estimates]
    wrong = [fit for fit in fitted if fit.outcome is Outcome.MISFIT]
    if not wrong:
        return []
    one = len(wrong) == 1
    named = listed([fit.label or fit.law.name for fit in wrong[:NAMED]])
    more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return [Answer(
        verdict="no",
        claim=f"{len(wrong)} of {plural(len(fitted), 'law')} {'does' if one else 'do'} not describe "
        f"{'its' if one else 'their'} points; do not extrapolate {'it' if one else 'them'}.",
        numbers=f"{named}{more}. {wrong[0].message}.",
    )]  # fmt: skip


def _axis_answers(found: PointsFindings) -> list[Answer]:
    answers = []
    for axis, rows in found.axes.items():
        known = [row for row in rows if row.slope is not None]
        if not known:
            continue
        differing = sum(row.differs for row in known)
        points = sorted({row.fit.n for row in known})
        n = f"{points[0]}" if len(points) == 1 else f"{points[0]} to {points[-1]}"
        ordered = sorted(known, key=lambda row: row.slope or 0.0)
        ends = " to ".join(f"{_label(row)} {fit_tables.digits(row)}" for row in (ordered[0], ordered[-1]))
        answers.append(Answer(
            verdict="yes" if 2 * differing > len(known) else "unclear" if differing else "no",
            claim=f"Along {axis}, {differing} of {plural(len(known), 'slope')} "
            f"{'differs' if differing == 1 else 'differ'} from zero.",
            numbers=f"Slopes range from {ends} (95% t intervals, n = {n} points each). "
            f"{factor_sentences.chance(len(known))}",
        ))  # fmt: skip
    return answers


def _label(row: Slope) -> str:
    return " · ".join(part for part in (row.task, row.algorithm, row.mix) if part) or row.value


def _axes_section(found: PointsFindings, files: Files) -> Section:
    first, second = found.axes
    text = (
        f"The same points are fitted along {first} and along {second}. Parts of a model that are discarded "
        "before it is used (decoders, heads) are counted by one axis and not by the other, which changes the "
        "slope and its interval."
    )
    blocks: list[Block] = [Text(paragraphs=(text,)), fit_tables.two_axes(found.axes, files["slopes"])]
    return Section(id="axis", title="Effect of the choice of x axis", blocks=blocks)


def _factors_section(found: PointsFindings, drawn: Drawn, files: Files) -> Section:
    used = (
        "A factor is a numeric column of the table with one value per task; `--factor NAME` selects some of "
        f"them. The factors of this report are {listed(list(found.names))}."
    )
    blocks: list[Block] = [
        Text(paragraphs=(used,), items=tuple(factor_sentences.factor_notes(found.correlations))),
        *drawn.of("factors"),
        page_tables.correlations(
            found.correlations, files["correlations"], name="table-correlations", value=found.value
        ),
    ]
    return Section(id="factors", title="Task factors", blocks=blocks)


def _provenance(found: PointsFindings, command: str) -> Text:
    first = found.fits[0]
    laws = {fit.law.name: fit.law for fit in found.fits}
    dropped = found.points.dropped
    items = [
        f"Points: {Path(found.points.source).name}, sha256 {found.points.sha256}.",
        *(f"Law: {law.name}, {law.formula}. Source: {law.source}." for law in laws.values()),
        f"Loss function: {first.loss}. Intervals: {percent(first.level)} ({first.interval}).",
        f"Seed: {first.options.seed}. Command: {command}.",
        *_left_out(dropped[:NAMED]),
        *([f"{len(dropped) - NAMED} more rows were left out."] if len(dropped) > NAMED else []),
    ]
    return Text(items=tuple(items))


def _left_out(dropped: Sequence[Dropped]) -> list[str]:
    return [f"Row {item.row} was left out: {item.reason}." for item in dropped]
