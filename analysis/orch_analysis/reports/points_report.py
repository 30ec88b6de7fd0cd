"""The report of a table of points: its laws, their slopes as a forest, and what the tasks' factors have to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from orch_analysis.fitting.fit import Fit
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.usable import ROW, as_numbers, with_error_column
from orch_analysis.reports import page_tables, study_sentences
from orch_analysis.reports.page import Answer, Block, Page, Section, Text, render
from orch_analysis.reports.study_findings import varying_factors
from orch_analysis.saved import laws_json
from orch_analysis.tables import export
from orch_analysis.tables.points_file import Points
from orch_analysis.tasks import correlation, slopes
from orch_analysis.tasks.factors import LABELS
from orch_analysis.tasks.slopes import Slope
from orch_core.errors import OrchError
from orch_core.files import write_atomic
from orch_core.formatting import listed, plural

if TYPE_CHECKING:
    from orch_analysis.forecast.auto import Choice
    from orch_analysis.reports.page_figures import Drawn

SCORES = ("auc", "accuracy")  # values with a ceiling of 1
OTHER = {"params": "params_encoder", "params_encoder": "params"}  # the axis that a slope is compared with


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFindings:
    """Everything that the page of a table of points says.

    axes: per x axis the fits' slopes, the axis asked for first; correlations: of the first axis's slopes
    with the factors `names` of the frame `factors`.
    """

    points: Points
    frame: pl.DataFrame
    fits: Sequence[Fit]
    value: str
    axes: Mapping[str, Sequence[Slope]]
    factors: pl.DataFrame
    names: Sequence[str]
    correlations: pl.DataFrame


def report_points(
    points: Points, found: Sequence[Fit | Choice], out: Path, *, command: str, seed: int = 0
) -> Path:
    """Write the report of fits to a table of points into `out`; returns the page's path.

    points, found: what `table.read_points` and `lawsfile.fit_points` gave; of a `Choice` its fit is shown. Columns with
    the names of task factors (`factors.WORDS`) that are constant within a task enter the correlations. Power laws along
    `params` or `params_encoder` are repeated along the other of the two where the table has it: a law's x axis is a
    choice, and the page says what the choice does. Writes report.html, figures, tables, laws.json and cards; the same
    points give the same bytes. Raises OrchError where there is no fit or the folder cannot be written.
    """
    from orch_analysis.reports import page_figures

    fits = [item if isinstance(item, Fit) else item.fit for item in found]
    if not fits:
        message = f"{points.source}: no fit to report"
        raise OrchError(message, hint="check the grouping and the rows left out")
    said = point_findings(points, fits, seed)
    provenance = {"source": points.source, "sha256": points.sha256, "command": command}
    try:
        out.mkdir(parents=True, exist_ok=True)
        drawn = page_figures.of_points(said, out / "figures")
        page = _page(said, drawn, _save(said, out / "tables"), command)
        laws_json.write(found, out, provenance)
        write_atomic(out / "report.html", render(page))
    except OSError as error:
        message = f"cannot write the report into {out}: {error.strerror or error}"
        raise OrchError(message, hint="free some disk, or choose a writable folder with --out") from error
    return out / "report.html"


def point_findings(points: Points, fits: Sequence[Fit], seed: int) -> PointFindings:
    """Slopes along the axis asked for and its alternative, and correlations with the factors in the table."""
    frame = _used(points.frame, fits)
    first = _slopes(fits)
    axes = {first[0].axis: first} if first else {}
    if first and (other := OTHER.get(first[0].axis)) in frame.columns:
        axes[str(other)] = _slopes([_refit(frame, row, str(other)) for row in first])
    table = correlated(slopes.slope_table(first))
    factors = (
        _factors(frame, table, fits[0].value, first[0].axis) if first and "task" in frame.columns else table
    )
    names = varying_factors(factors, [name for name in LABELS if name in factors.columns])
    return PointFindings(
        points=points,
        frame=frame,
        fits=fits,
        value=fits[0].value,
        axes=axes,
        factors=factors,
        names=names,
        correlations=correlation.correlate_all(table, factors, names, seed=seed),
    )


def _used(frame: pl.DataFrame, fits: Sequence[Fit]) -> pl.DataFrame:
    """The rows that the fits used, numbers where they read numbers, with the columns that they made."""
    for fit in fits:
        if "ceiling" in fit.settings:
            frame = with_error_column(frame, str(fit.settings["metric"]), float(str(fit.settings["ceiling"])))
    if ROW in frame.columns:
        left_out = sorted({item.row for fit in fits for item in fit.dropped})
        frame = frame.filter(~pl.col(ROW).is_in(left_out)).drop(ROW)
    read = {str(name) for fit in fits for name in (fit.value, *fit.x.values())} & set(frame.columns)
    return frame.with_columns(pl.Series(name, as_numbers(frame, name)) for name in sorted(read))


def _factors(frame: pl.DataFrame, table: pl.DataFrame, value: str, axis: str) -> pl.DataFrame:
    """Factor columns that are constant per task, for every group of slopes; headroom for a score out of 1."""
    names = [name for name in LABELS if name in frame.columns and _constant(frame, name)]
    per_task = frame.group_by("task", maintain_order=True).agg(pl.col(names).drop_nulls().first())
    grouped = table.select("group", "algorithm", "mix", "task").join(per_task, on="task", how="left")
    if value not in SCORES or not (frame[value].min() > 0 and frame[value].max() <= 1):  # type: ignore[operator]
        return grouped
    keys = [key for key in ("algorithm", "mix", "task") if key in frame.columns]
    smallest = frame.sort(axis).group_by(keys, maintain_order=True).agg(headroom=1 - pl.col(value).first())
    return grouped.join(smallest, on=keys, how="left")


def correlated(table: pl.DataFrame) -> pl.DataFrame:
    """Slopes with the group that correlations are taken in: algorithm and mix."""
    return table.filter(pl.col("slope").is_not_null()).with_columns(
        group=pl.concat_str(
            pl.col("algorithm"),
            pl.when(pl.col("mix") != "").then(pl.concat_str(pl.lit(" · "), "mix")).otherwise(pl.lit("")),
        )
    )


def _slopes(fits: Sequence[Fit]) -> list[Slope]:
    """The power laws among the fits as slopes; their column is the axis."""
    return [
        Slope(
            algorithm=fit.group.get("algorithm", ""), mix=fit.group.get("mix", ""), task=fit.group.get("task", ""),
            value=fit.value, axis=str(next(iter(fit.x.values()))), held=(), fit=fit,
        )
        for fit in fits
        if fit.law.name == "power" and len(fit.x) == 1
    ]  # fmt: skip


def _refit(frame: pl.DataFrame, row: Slope, axis: str) -> Fit:
    from orch_analysis.fitting.fit import fit

    group = row.fit.group
    part = frame.filter(
        *(pl.col(key).cast(pl.String) == value for key, value in group.items() if key in frame.columns)
    )
    return fit("power", part, value=row.value, x={axis: axis}, group=group)


def _constant(frame: pl.DataFrame, name: str) -> bool:
    """True for a factor column that has one value per task."""
    return frame.group_by("task").agg(pl.col(name).drop_nulls().n_unique())[name].max() == 1


def _save(found: PointFindings, folder: Path) -> dict[str, tuple[str, ...]]:
    frames = {
        "points": found.frame,
        "fits": page_tables.fit_table(found.fits),
        "slopes": slopes.slope_table([row for rows in found.axes.values() for row in rows]),
        "correlations": found.correlations,
    }
    return {name: export.save(frame, folder, name) for name, frame in frames.items() if frame.height}


def _page(found: PointFindings, drawn: Drawn, files: Mapping[str, tuple[str, ...]], command: str) -> Page:
    groups = len({tuple(sorted(fit.group.items())) for fit in found.fits})
    left_out = len({item.row for fit in found.fits for item in fit.dropped})
    sections = [
        Section(
            id="laws",
            title="The laws",
            blocks=[*drawn["laws"], *drawn["forest"], page_tables.fits(found.fits, files["fits"])],
        )
    ]
    if len(found.axes) > 1:
        sections.append(_axes_section(found, files))
    if found.names:
        blocks: list[Block] = [
            Text(items=tuple(study_sentences.factor_notes(found.correlations))),
            *drawn["factors"],
            page_tables.correlations(
                found.correlations, files["correlations"], name="table-correlations", value=found.value
            ),
        ]
        sections.append(Section(id="factors", title="Which tasks scale", blocks=blocks))
    sections.append(Section(id="provenance", title="Provenance", blocks=_provenance(found, command)))
    return Page(
        title=f"Laws of {Path(found.points.source).name}",
        kicker="Scaling-law report of a table of points",
        lead=_lead(found),
        facts=[
            (f"{found.frame.height:,}", "points"),
            (str(groups), "groups"),
            (str(sum(fit.outcome is Outcome.OK for fit in found.fits)), "laws fitted"),
            (str(left_out), "rows left out"),
        ],
        answers=[*_axis_answers(found), *study_sentences.factor_answer(found.correlations)],
        sections=sections,
    )


def _lead(found: PointFindings) -> str:
    if not found.axes:
        law = found.fits[0].law
        return f"{law.formula}, fitted to {plural(len(found.fits), 'group')} of {found.value}."
    counts = [
        f"with {axis} in {sum(row.differs for row in rows)} of {len(rows)} groups"
        for axis, rows in found.axes.items()
    ]
    return f"{found.value} moves by more than its 95% interval {listed(counts)}."


def _axis_answers(found: PointFindings) -> list[Answer]:
    answers = []
    for axis, rows in found.axes.items():
        known = [row for row in rows if row.slope is not None]
        if not known:
            continue
        differing = sum(row.differs for row in known)
        points = sorted({row.fit.n for row in known})
        n = f"{points[0]}" if len(points) == 1 else f"{points[0]} to {points[-1]}"
        ordered = sorted(known, key=lambda row: row.slope or 0.0)
        ends = " to ".join(f"{_label(row)} {page_tables.digits(row)}" for row in (ordered[0], ordered[-1]))
        answers.append(
            Answer(
                verdict="yes" if 2 * differing > len(known) else "unclear" if differing else "no",
                claim=f"Along {axis}, {differing} of {plural(len(known), 'slope')} differ from zero.",
                numbers=f"Slopes from {ends}; 95% t intervals, n = {n} each. By chance alone {0.05 * len(known):.1f} would.",
            )
        )
    return answers


def _label(row: Slope) -> str:
    return " · ".join(part for part in (row.task, row.algorithm, row.mix) if part) or row.value


def _axes_section(found: PointFindings, files: Mapping[str, tuple[str, ...]]) -> Section:
    first, second = found.axes
    text = (
        (
            f"The same points along {first} and along {second}. Parts of a model that are thrown away before it is used "
            "(decoders, heads) stretch or shrink an axis, and with it the slope and its interval."
        ),
    )
    return Section(
        id="axis", title="What the x axis does",
        blocks=[Text(paragraphs=text), page_tables.two_axes(found.axes, files["slopes"])],
    )  # fmt: skip


def _provenance(found: PointFindings, command: str) -> list[Block]:
    law = found.fits[0].law
    items = [
        f"Points: {Path(found.points.source).name}, sha256 {found.points.sha256}.",
        f"Law: {law.name}, {law.formula}. Source: {law.source}.",
        f"Loss {found.fits[0].loss}, intervals {found.fits[0].interval} at {found.fits[0].level:.0%}, seed {found.fits[0].seed}.",
    ]
    items.append(f"Command: {command}.")
    items += [f"Row {item.row} left out: {item.reason}." for item in found.points.dropped[:20]]
    if len(found.points.dropped) > 20:
        items.append(f"and {len(found.points.dropped) - 20} more rows left out.")
    return [Text(items=tuple(items))]
