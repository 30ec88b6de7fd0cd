"""`orch fit-laws` and `predict`: from a study, an MLflow experiment or a table of points to laws."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from orch.answer import Answer
from orch.console import Exit, command_line
from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.plain import to_plain
from orch_analysis.fitting.points import Points
from orch_analysis.fitting.used_rows.selection import best, selected
from orch_analysis.forecast.groups import fit_groups, group_columns
from orch_analysis.reports.points_report import save_fits
from orch_analysis.saved import laws_json
from orch_analysis.tables.points_file import load_points
from orch_core.errors import OrchError
from orch_core.formatting import columns, percent

if TYPE_CHECKING:
    from orch_analysis.saved.registered import Score
    from orch_core.study.folder import Study

SHOWN = 100  # fits in the terminal
MANY = 8  # rows named for each reason, and lines of each kind of remark
BANDS = {"mean": "of the curve", "new": "of a new run"}
GRIDS = (".yaml", ".yml", "")  # endings of the names of grids, and of folders


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """The laws that `orch fit-laws` fits and the folder that it writes; `FitOptions` are those of a fit.

    law:        a name, a file, or auto; empty for power on a table, and for the laws of the report on a study
    group_by:   columns of the groups; empty for `forecast.groups.group_columns`
    factors:    columns to correlate slopes with
    out:        folder of the report
    tracking_uri, experiment: an MLflow experiment to fit instead of a study or a table
    """

    law: str = ""
    group_by: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    out: Path | None = None
    tracking_uri: str | None = None
    experiment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(Answer):
    """The result of `orch fit-laws`: a JSON document, a text and the exit code."""

    document: dict[str, Any]
    text: str
    exit_code: Exit = Exit.OK

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return self.document


def fit_laws(target: Path | None, request: FitRequest, options: FitOptions) -> Fitted:
    """Fit a study (all laws of its report, or one) or a table of points; raises OrchError for bad input."""
    if target is not None and not request.tracking_uri and is_table(target):
        return _fit_points(load_points(target), request, options, Path(f"{target.stem}-laws"))
    from orch.studies import find_study

    if request.tracking_uri:
        from orch.tracking.track import read_points

        name = request.experiment or find_study(target).name
        frame = read_points(request.tracking_uri, name)
        return _fit_points(load_points(frame, name=name), request, options, Path(f"{name}-laws"))
    study = find_study(target)
    if not request.law:
        return _report(study, request, options)
    from orch_analysis.tables.study_tables import study_points

    return _fit_points(study_points(study), request, options, study.laws)


def _fit_points(points: Points, request: FitRequest, options: FitOptions, default_out: Path) -> Fitted:
    """Choose rows, fit every group, and save laws and report."""
    law, points = request.law or "power", selected(points, options)
    groups = tuple(dict.fromkeys(request.group_by)) or group_columns(points.frame, options)
    points = best(points, options, groups)
    fits, out = fit_groups(law, points, options, by=groups), request.out or default_out
    save_fits(points, fits, out, command=shlex.join(command_line()), factors=request.factors)
    return _fitted(law, groups, points.notes, fits, out)


def _report(study: Study, request: FitRequest, options: FitOptions) -> Fitted:
    """Fit every law of a study's report, and score its registered forecasts."""
    from orch_analysis.reports.study_report import report_study
    from orch_analysis.saved import registered

    page = report_study(study.root, request.out, factors=request.factors, seed=options.seed)
    scores = registered.scores(study)
    text = f"report: {page}\n{_scored(scores)}next: open it in a browser, or `orch ui` for the runs"
    document = {"report": str(page), "laws": str(page.with_name("laws.json"))}
    return Fitted(document=document | {"forecasts": [asdict(score) for score in scores]}, text=text)


def _scored(scores: Sequence[Score]) -> str:
    """A line per registered forecast with its error, and one with the number inside their bands."""
    if not scores:
        return ""
    lines = [
        f"forecast of {one.registered[:10]}, {' '.join([*one.group.values(), one.law, one.value])}: "
        f"{one.predicted:.4g}, measured {one.measured:.4g} ({100 * one.error:+.2g}%), "
        f"{'inside' if one.inside else 'outside'} its band"
        for one in scores
    ]
    inside = sum(one.inside for one in scores)
    lines.append(f"{inside} of {len(scores)} registered forecasts are inside their bands\n")
    return "\n".join(lines)


def is_table(target: Path) -> bool:
    """Whether a path names a table of points, rather than a study, a grid or a plan."""
    return target.suffix.lower() not in GRIDS and target.name != "plan.json" and not target.is_dir()


def _fitted(law: str, groups: Sequence[str], notes: Sequence[str], fits: Sequence[Fit], out: Path) -> Fitted:
    """The answer for fits that were saved in the folder `out`."""
    asked, laws = fits[0].options, out / laws_json.FILE
    document: dict[str, Any] = {
        "law": law, "value": asked.value, "x": dict(asked.x), "group_by": list(groups), "laws": str(laws),
        "fits": [_fit_document(fit) for fit in fits], "notes": list(notes),
    }  # fmt: skip
    remarks = "".join(f"\n{line}" for line in [*map("note: {}".format, notes), *_remarks(fits)])
    by = f" by {', '.join(groups)}" if groups else ""
    text = f"{_table(fits)}{remarks}\n\n{fits[0].value}{by}; laws: {laws}"
    if not any(fit.estimates for fit in fits):
        return Fitted(document=document, text=text, exit_code=Exit.NO_FIT)
    return Fitted(document=document, text=f"{text}\nreport: {out / 'report.html'}")


def _fit_document(fit: Fit) -> dict[str, Any]:
    names = ("group", "estimates", "intervals", "n", "outcome", "message", "dropped", "warnings")
    return {"law": fit.law.name} | {name: to_plain(getattr(fit, name)) for name in names}


def _remarks(fits: Sequence[Fit]) -> list[str]:
    """Skipped rows by reason, and the fits' warnings; at most `MANY` lines of each."""
    rows: dict[str, list[int]] = {}
    for reason, row in sorted({(item.reason, item.row) for fit in fits for item in fit.dropped}):
        rows.setdefault(reason, []).append(row)
    left_out = [f"left out: {_rows(at)}: {reason}" for reason, at in rows.items()]
    warned: dict[str, list[str]] = {}
    for fit in fits:
        for text in (*_doubtful(fit), *fit.warnings):
            warned.setdefault(text, []).append(fit.label)
    return [*left_out[:MANY], *_grouped(warned, where=" in laws.json")]


def _doubtful(fit: Fit) -> tuple[str, ...]:
    """The outcome of a fit whose estimates are not fully reliable."""
    return (f"{fit.outcome}: {fit.message}",) if fit.estimates and fit.outcome is not Outcome.OK else ()


def _rows(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:MANY]))
    if len(numbers) == 1:
        return f"row {named}"
    return f"rows {named}" if len(numbers) <= MANY else f"{len(numbers)} rows, {named} ..."


def _table(fits: Sequence[Fit]) -> str:
    """A line per fit: its group, n, and estimates with intervals or the outcome."""
    rows = [["group", "n", "law", f"estimates [{percent(fits[0].level)} interval]"]]
    for fit in fits[:SHOWN]:
        numbers = "  ".join(f"{name} {_estimate(fit, name)}" for name in fit.estimates)
        rows.append(
            [fit.label or "all", str(fit.n), fit.law.name, numbers or f"{fit.outcome}: {fit.message}"]
        )
    more = f"\n... and {len(fits) - SHOWN:,} more fits in laws.json" if len(fits) > SHOWN else ""
    return columns(rows, left=4) + more


def _estimate(fit: Fit, name: str) -> str:
    ends = fit.intervals.get(name)
    bound = fit.bound_of(name)
    shown = f"{fit.estimates[name]:.4g}" if bound is None else f"{bound:g} (at the bound)"
    return f"{shown} [{ends[0]:.3g}, {ends[1]:.3g}]" if ends else shown


def predict(folder: Path, at: Mapping[str, float], *, trust: bool = False, register: bool = False) -> Fitted:
    """The predictions of every law in a folder of `fit-laws` at one scale, with bands at the fits' level.

    trust: execute the Python file of a user's law; register: also save the forecast in the folder's study.
    Raises OrchError for another folder.
    """
    rows: list[dict[str, Any]] = []
    remarks: dict[str, list[str]] = {}
    table = [["group", "quantity", "by", "value", "band", "beyond the data"]]
    for fit in laws_json.load_laws(folder, trust=trust):
        table[0][4] = f"{percent(fit.level)} band"
        about = {"group": dict(fit.group), "law": fit.law.name}
        if not fit.estimates:
            table.append([fit.label or "all", fit.value, fit.law.name, "-", str(fit.outcome), "-"])
            rows.append({**about, "outcome": str(fit.outcome)})
            continue
        row = fit.predict(pl.DataFrame({name: [number] for name, number in at.items()})).row(0, named=True)
        table.append([fit.label or "all", row["quantity"], row["predictor"], *_predicted(row)])
        for text in (*_doubtful(fit), *([row["note"]] if row["value"] is None else [])):
            remarks.setdefault(text, []).append(fit.label)
        rows.append({**about, "outcome": str(fit.outcome), **row})
    document: dict[str, Any] = {"at": dict(at), "predictions": rows}
    text = "\n".join([columns(table, left=3), *_grouped(remarks)])
    if register:
        from orch.studies import find_study
        from orch_analysis.saved import registered

        path = registered.register(find_study(folder.resolve().parent), folder, at, trust=trust)
        document["registered"] = str(path)
        text = (
            f"{text}\n\nregistered: {path}; `orch fit-laws` scores it when runs at this scale have finished"
        )
    return Fitted(document=document, text=text)


def _grouped(remarks: Mapping[str, Sequence[str]], where: str = "") -> list[str]:
    """A line per remark, with the first of the groups that it holds for; at most `MANY` lines."""
    lines = []
    for text, groups in remarks.items():
        more = f" and {len(groups) - 1} more" if len(groups) > 1 else ""
        lines.append(f"warning{f', {groups[0]}' if groups[0] else ''}{more}: {text}")
    return [
        *lines[:MANY],
        *([f"... and {len(lines) - MANY} more warnings{where}"] if len(lines) > MANY else []),
    ]


def _predicted(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """A prediction's value, its band or why it has none, and how far it lies beyond the data."""
    value = "refused" if row["value"] is None else f"{row['value']:.5g}"
    band = "-" if row["lo"] is None else f"{row['lo']:.4g} to {row['hi']:.4g} ({BANDS[row['band']]})"
    withheld = row["value"] is not None and row["note"]
    return value, row["note"].removeprefix("band ") if withheld else band, f"{row['extrapolation']:.3g}x"


def target_and_mapping(words: Sequence[str], mapping: Sequence[str]) -> tuple[Path | None, dict[str, str]]:
    """The study or table among a command's arguments, if any, and the other arguments as the mapping.

    Raises OrchError for a second table, and for a word that is neither.
    """
    targets = [word for word in words if "=" not in word or Path(word).exists()]
    if len(targets) > 1:
        message = f"one study or table at a time, got {' and '.join(targets)}"
        raise OrchError(message, hint="put the points into one table, with a column for --group-by")
    columns = assignments([*mapping, *(word for word in words if word not in targets)], "--map")
    return (Path(targets[0]) if targets else None), columns


def assignments(words: Sequence[str], what: str) -> dict[str, str]:
    """`("params=N", "value=loss")` as a mapping; raises OrchError for an argument without `=`."""
    bad = [word for word in words if not all(word.partition("="))]
    if bad:
        message = f"{what} requires NAME=VALUE, got {bad[0]!r}"
        raise OrchError(message, hint=f"for example {what} params=N value=loss")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def numbers(
    words: Sequence[str], what: str = "--at", example: str = "unique_samples=1e6"
) -> dict[str, float]:
    """`("loss=2.3",)`, words of the option `what`, as numbers; raises OrchError for a word that is none."""
    try:
        return {name: float(value) for name, value in assignments(words, what).items()}
    except ValueError as error:
        message = f"{what} takes NAME=NUMBER: {error}"
        raise OrchError(message, hint=f"for example {what} {example}") from error


def names(words: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, each given by itself or several with commas between them."""
    return tuple(dict.fromkeys(name.strip() for word in words for name in word.split(",") if name.strip()))
