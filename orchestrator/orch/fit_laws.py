"""`orch fit-laws` and `predict`: from a study, an MLflow experiment or a table of points to laws."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orch.answer import Answer
from orch.console import Exit, columns, command_line
from orch.studies import find_study
from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.usable import ROW, listed, require
from orch_analysis.forecast.auto import Choice
from orch_analysis.laws import get
from orch_analysis.reports import report_points, report_study
from orch_analysis.saved import laws_json, registered
from orch_analysis.tables.points_file import Points, read_points
from orch_analysis.tables.study_tables import read_results
from orch_core.errors import OrchError
from orch_core.formatting import percent
from orch_core.yaml import did_you_mean

VALUES = (
    "auc",
    "loss",
    "heldout_loss",
    "accuracy",
    "error",
)  # columns that are a value by their name, first first
GROUPS = ("dataset", "task", "algorithm", "mix")  # columns that are groups by their name
MANY = 8  # rows named for each reason, and lines of each kind of remark
TABLES = (".csv", ".parquet", ".pq", ".tsv", ".txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Options of `orch fit-laws`; empty ones take the defaults said in its help."""

    law: str = ""
    mapping: Mapping[str, str] | None = None
    group_by: tuple[str, ...] = ()
    loss: str = "auto"
    huber_delta: float | None = None
    weights: str | None = None
    stderr: str | None = None
    cluster: str | None = None
    bootstrap: int = 1000
    interval: str = "auto"
    level: float = 0.95
    ceiling: float | None = None
    factors: tuple[str, ...] = ()
    seed: int = 0
    out: Path | None = None
    tracking_uri: str | None = None
    experiment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(Answer):
    """What was fitted: for --json, for the terminal, and the exit code."""

    document: dict[str, Any]
    text: str
    exit_code: Exit = Exit.OK

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return self.document


def fit_laws(target: Path | None, wishes: Wishes) -> Fitted:
    """Fit a study (without `law`: every law of its report) or a table of points; raises OrchError for bad input."""
    if wishes.tracking_uri:
        from orch.tracking.track import read_points as from_mlflow

        name = wishes.experiment or find_study(target).name
        return _fit_points(from_mlflow(wishes.tracking_uri, name), name, wishes, Path(f"{name}-laws"))
    if target is not None and is_table(target):
        return _fit_points(target, target.stem, wishes, Path(f"{target.stem}-laws"))
    study = find_study(target)
    if wishes.law:
        frame = read_results(study).pretraining
        named = {"params": "params_encoder", "samples": "samples_seen", "unique_samples": "images"}
        frame = frame.with_columns(pl.col(old).alias(new) for new, old in named.items())
        return _fit_points(frame, study.name, wishes, study.root / "laws")
    page = report_study(study.root, wishes.out, factors=wishes.factors, seed=wishes.seed)
    scores = registered.scores(study)
    text = f"report: {page}\n{_scored(scores)}next: open it in a browser, or `orch ui` for the runs"
    document = {"report": str(page), "laws": str(page.with_name("laws.json"))}
    return Fitted(document=document | {"forecasts": [asdict(score) for score in scores]}, text=text)


def _scored(scores: Sequence[registered.Score]) -> str:
    """How registered forecasts did, a line each and one for all of them; empty without any."""
    if not scores:
        return ""
    lines = [
        f"forecast of {one.registered[:10]}, {' '.join([*one.group.values(), one.law, one.value])}: "
        f"{one.predicted:.4g}, measured {one.measured:.4g} ({100 * one.error:+.2g}%), "
        f"{'inside' if one.inside else 'outside'} its band"
        for one in scores
    ]
    inside = sum(one.inside for one in scores)
    return "\n".join([*lines, f"{inside} of {len(scores)} registered forecasts lie in their bands"]) + "\n"


def is_table(target: Path) -> bool:
    """Whether a file is a table of points by its name; anything else is a study, a grid or a plan."""
    return target.suffix.lower() in TABLES


def _fit_points(source: Path | pl.DataFrame, name: str, wishes: Wishes, default_out: Path) -> Fitted:
    law = wishes.law or "power"
    points = read_points(source, mapping={}, name=name)
    value, x, groups = _reading(points.frame, law, wishes)
    found = laws_json.fit_points(
        points,
        law=law if law == "auto" else get(law),
        value=value,
        x=x,
        group_by=groups,
        loss=wishes.loss,  # type: ignore[arg-type]  # click checked it
        delta=wishes.huber_delta or "auto",
        weights=wishes.weights,
        stderr=wishes.stderr,
        bootstrap=wishes.bootstrap,
        cluster=wishes.cluster,
        interval=wishes.interval,  # type: ignore[arg-type]  # click checked it
        level=wishes.level,
        seed=wishes.seed,
        ceiling=wishes.ceiling,
    )
    out = wishes.out or default_out
    command = shlex.join(command_line())
    path = _write(points, found, out, command, wishes)
    document = {"law": law, "value": value, "x": x, "group_by": list(groups), "laws": str(path)}
    fitted = any(_fit_of(one).estimates for one in found)
    remarks = "".join(f"\n{line}" for line in _remarks(found))
    text = f"{_table(found)}{remarks}\n\n{value} by {', '.join(groups) or 'no group'}; laws: {path}"
    if not fitted:
        return Fitted(document=document | _fits(found), text=text, exit_code=Exit.NO_FIT)
    return Fitted(document=document | _fits(found), text=f"{text}\nreport: {path.with_name('report.html')}")


def _write(points: Points, found: Sequence[Fit | Choice], out: Path, command: str, wishes: Wishes) -> Path:
    """The report with its laws.json; laws.json alone, with its outcomes, where nothing could be fitted."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(_fit_of(one).estimates for one in found):
            page = report_points(
                points, found, out, command=command, factors=wishes.factors, seed=wishes.seed
            )
            return page.with_name("laws.json")
        (out / "report.html").unlink(missing_ok=True)  # an earlier table's would stand beside these outcomes
        return laws_json.write(
            found, out, {"source": points.source, "sha256": points.sha256, "command": command}
        )
    except OSError as error:
        message = f"cannot write into {out}: {error.strerror or error}"
        raise OrchError(message, hint="free some disk, or choose a writable folder with --out") from error


def _reading(
    frame: pl.DataFrame, law: str, wishes: Wishes
) -> tuple[str, dict[str, str | float], tuple[str, ...]]:
    """Which columns are the value, the law's variables and the groups: as mapped, else by their names."""
    mapping = dict(wishes.mapping or {})
    value = mapping.pop("value", "")
    x: dict[str, str | float] = {name: _column(frame, column) for name, column in mapping.items()}
    needed = ("params", "samples") if law == "auto" else get(law).x
    if not x or set(x) & set(needed):  # a law read along a variable of the user's own has no other
        x |= {name: name for name in needed if name not in x and name in frame.columns}
        unknown = [name for name in x if name not in {*needed, "params", "samples", "compute"}]
        if unknown:
            message = f"{law} reads {', '.join(needed)}, not {unknown[0]}{did_you_mean(unknown[0], needed)}"
            raise OrchError(message, hint="map a variable of the law, or leave it out")
    value = value or next((name for name in VALUES if name in frame.columns and name not in x.values()), "")
    if not value:
        message = f"which column holds the value? There is none of {', '.join(VALUES)}"
        names = [name for name in frame.columns if name != ROW]
        raise OrchError(message, hint=f"say --map value=COLUMN; columns: {listed(names)}")
    if value in x.values():
        message = f"column {value!r} cannot be both the value and what the law explains it by"
        raise OrchError(message, hint="map them apart: --map value=COLUMN")
    groups = tuple(dict.fromkeys(wishes.group_by)) or tuple(
        name
        for name in GROUPS
        if name in frame.columns and name not in x.values() and frame[name].n_unique() > 1
    )
    return value, x, groups


def _column(frame: pl.DataFrame, word: str) -> str | float:
    """A column of the table, or a number that holds for all its rows."""
    if word not in frame.columns and word[:1].isdigit():
        try:
            return float(word)
        except ValueError:
            pass
    require(frame, word)
    return word


def _fit_of(one: Fit | Choice) -> Fit:
    return one if isinstance(one, Fit) else one.fit


def _fits(found: Sequence[Fit | Choice]) -> dict[str, Any]:
    rows = [
        {
            "law": fit.law.name,
            "group": dict(fit.group),
            "estimates": dict(fit.estimates),
            "intervals": {name: list(ends) for name, ends in fit.intervals.items()},
            "n": fit.n,
            "outcome": str(fit.outcome),
            "message": fit.message,
            "dropped": [asdict(row) for row in fit.dropped],
            "warnings": [*fit.warnings, *_said(one)],
        }
        for one, fit in ((one, _fit_of(one)) for one in found)
    ]
    return {"fits": rows}


def _said(one: Fit | Choice) -> tuple[str, ...]:
    return () if isinstance(one, Fit) else one.warnings


def _remarks(found: Sequence[Fit | Choice]) -> list[str]:
    """Rows left out, by reason, and what the fits warn of; at most `MANY` lines of each."""
    rows: dict[str, list[int]] = {}
    for reason, row in sorted({(item.reason, item.row) for one in found for item in _fit_of(one).dropped}):
        rows.setdefault(reason, []).append(row)
    left_out = [f"left out: {_rows(at)}: {reason}" for reason, at in rows.items()]
    warned = [
        f"warning{f', {name}' if name else ''}: {text}"
        for one in found
        for fit in [_fit_of(one)]
        for name in [" ".join(fit.group.values())]
        for text in (*_doubtful(fit), *fit.warnings, *_said(one))
    ]
    more = [f"... and {len(warned) - MANY} warnings more in laws.json"] if len(warned) > MANY else []
    return [*left_out[:MANY], *warned[:MANY], *more]


def _doubtful(fit: Fit) -> tuple[str, ...]:
    """The outcome of a fit that has estimates and is still not to be trusted whole."""
    return (f"{fit.outcome}: {fit.message}",) if fit.estimates and fit.outcome is not Outcome.OK else ()


def _rows(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:MANY]))
    if len(numbers) == 1:
        return f"row {named}"
    return f"rows {named}" if len(numbers) <= MANY else f"{len(numbers)} rows, {named} ..."


def _table(found: Sequence[Fit | Choice]) -> str:
    """A line per fit: its group, n, estimates with intervals, or without any the outcome that says what is missing."""
    fits = [_fit_of(one) for one in found]
    rows = [["group", "n", "law", f"estimates [{percent(fits[0].level)} interval]" if fits else "estimates"]]
    for fit in fits:
        numbers = "  ".join(f"{name} {_estimate(fit, name)}" for name in fit.estimates)
        said = numbers or f"{fit.outcome}: {fit.message}"
        rows.append([" ".join(fit.group.values()) or "all", str(fit.n), fit.law.name, said])
    return columns(rows, left=4)


def _estimate(fit: Fit, name: str) -> str:
    ends = fit.intervals.get(name)
    shown = f"{fit.estimates[name]:.4g}"
    return f"{shown} [{ends[0]:.3g}, {ends[1]:.3g}]" if ends else shown


def predict(folder: Path, at: Mapping[str, float], *, trust: bool = False, register: bool = False) -> Fitted:
    """Every law of a folder of `fit-laws` at one scale, with its band at the level of the fits.

    trust: execute the Python file of a user's law; register: also keep the forecast in the study that the folder is in.
    Raises OrchError for another folder.
    """
    rows, table = [], [["group", "law", "value", "band", "beyond the data"]]
    for one in laws_json.read(folder, trust=trust):
        fit = _fit_of(one)
        table[0][3] = f"{percent(fit.level)} band"
        group = " ".join(fit.group.values()) or "all"
        if not fit.estimates:
            table.append([group, fit.law.name, "-", str(fit.outcome), "-"])
            rows.append({"group": dict(fit.group), "law": fit.law.name, "outcome": str(fit.outcome)})
            continue
        needed = fit.law.x if isinstance(one, Fit) else tuple(one.x)
        point = {name: number for name, number in at.items() if name in needed}
        got = one.predict(**point)  # type: ignore[arg-type]  # a law has no variable called band
        band = "-" if got.lo is None or got.hi is None else f"{got.lo:.4g} to {got.hi:.4g}"
        table.append([group, fit.law.name, f"{got.value:.5g}", band, f"{got.extrapolation:.3g}x"])
        rows.append({"group": dict(fit.group), "law": fit.law.name, **asdict(got)})
    document, text = {"at": dict(at), "predictions": rows}, columns(table, left=2)
    if register:
        path = registered.register(find_study(folder.resolve().parent), folder, at, trust=trust)
        document["registered"] = str(path)
        text = (
            f"{text}\n\nregistered: {path}; `orch fit-laws` scores it when runs at this scale have finished"
        )
    return Fitted(document=document, text=text)


def target_and_mapping(words: Sequence[str], mapping: Sequence[str]) -> tuple[Path | None, dict[str, str]]:
    """The study or table among the words of a command line, if any, and the rest with `mapping` as NAME=COLUMN.

    Raises OrchError for a second table, and for a word that is neither.
    """
    targets = [word for word in words if "=" not in word or Path(word).exists()]
    if len(targets) > 1:
        message = f"one study or table at a time, got {' and '.join(targets)}"
        raise OrchError(message, hint="put the points into one table, with a column that --group-by names")
    columns = assignments([*mapping, *(word for word in words if word not in targets)], "--map")
    return (Path(targets[0]) if targets else None), columns


def assignments(words: Sequence[str], what: str) -> dict[str, str]:
    """`("params=N", "value=loss")` as a mapping; raises OrchError for a word without `=`."""
    bad = [word for word in words if not all(word.partition("="))]
    if bad:
        message = f"{what} takes NAME=VALUE, got {bad[0]!r}"
        raise OrchError(message, hint=f"for example {what} params=N value=loss")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def numbers(words: Sequence[str]) -> dict[str, float]:
    """`("loss=2.3",)` as numbers; raises OrchError for a word that is none."""
    try:
        return {name: float(value) for name, value in assignments(words, "--at").items()}
    except ValueError as error:
        message = f"--at takes NAME=NUMBER: {error}"
        raise OrchError(message, hint="for example --at unique_samples=1e6") from error
