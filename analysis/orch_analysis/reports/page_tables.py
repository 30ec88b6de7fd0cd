"""Frames as tables for the page: each number with its interval in one cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import polars as pl

from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.reports.factor_sentences import family, strength
from orch_analysis.tables.export import Table
from orch_analysis.tasks.factors import BY_NAME, in_order, label_of
from orch_analysis.tasks.slopes import AXES, VALUES, Slope
from orch_core.errors import OrchError
from orch_core.formatting import (
    MISSING,
    count,
    duration,
    interval,
    number,
    p_value,
    plural,
    power,
    significant,
)

if TYPE_CHECKING:
    from orch_analysis.forecast.auto import AutoFit
    from orch_analysis.frontiers.approaches import Frontier
    from orch_analysis.tasks.across_protocols import AcrossProtocols, Estimate
    from orch_analysis.tasks.contrasts import Contrast

AHEAD = 4.0  # times the largest scale of the points, at which a forecast is shown
SHOWN = 60  # rows of a table on the page; the files have all
EDGE = 1e-6  # distance, relative above 1, from a bound at which an estimate is on it
MISFIT = (
    "Misfit p: chance of such a departure from the law if it is true; below .05 the outcome is misfit and bands beyond "
    "the data are withheld; a dash: too few points for a test."
)
RULE = (
    "Slopes are d log(value) / d log(axis) with 95% t intervals. Runs at one value of the axis share what belongs to it"
    " (a control, initial weights, a subset of images), so the interval rests on the values: n=12 (4) means 12 runs at 4."
)


def slopes(rows: Sequence[Slope], files: tuple[str, ...]) -> Table:
    """Every slope in a row of its own, folded; bold where zero is outside its interval."""
    body = [
        (row.task or "pretraining", row.algorithm, row.mix, VALUES[row.value], AXES[row.axis], _given(row), _slope(row),
         _evidence(row), str(len(row.fit.dropped)))
        for row in rows[:SHOWN]
    ]  # fmt: skip
    return Table(
        name="table-slopes", title=f"All {plural(len(rows), 'slope')}.", files=files, folded=True, rows=tuple(body), words=6,
        note=f"{RULE}{_rest(len(rows))}",
        head=("task", "algorithm", "mix", "value", "along", "at fixed", "slope [95%]", "n", "left out"),
        strong=frozenset(index for index, row in enumerate(rows[:SHOWN]) if row.differs),
    )  # fmt: skip


def loss_laws(rows: Sequence[Slope], files: tuple[str, ...]) -> Table:
    """The held-out loss's slopes, a row per algorithm and mix, a column per axis."""
    rows = [row for row in rows if row.value == "heldout_loss"]
    groups = sorted({(row.algorithm, row.mix) for row in rows})
    axes = [axis for axis in AXES if any(row.axis == axis for row in rows)]
    body = [
        (*group, *(_cell(rows, n=True, axis=axis, algorithm=group[0], mix=group[1]) for axis in axes))
        for group in groups
    ]
    given = sorted({f"{AXES[row.axis]} at fixed {_given(row)}" for row in rows if row.held})
    return Table(
        name="table-loss", title="Slopes of the held-out loss.", files=files, rows=tuple(body), words=2,
        note=f"{RULE}{' Slopes in ' + '; '.join(given) + '.' if given else ''}",
        head=("algorithm", "mix", *(f"in {AXES[axis]}" for axis in axes)),
    )  # fmt: skip


def joint_laws(rows: Sequence[Fit], files: tuple[str, ...]) -> Table:
    """The joint law of size and data, with what the points do not determine."""
    body = [
        (
            row.group["algorithm"],
            row.group["mix"],
            *(estimate(row, name) for name in ("E", "alpha", "beta")),
            str(row.n),
            "all parameters" if row.outcome is Outcome.OK else row.message,
        )
        for row in rows
    ]
    data = AXES[str(rows[0].x["samples"])] if rows else ""
    return Table(
        name="table-joint", title="Joint law of encoder size and data.", files=files, rows=tuple(body), words=2, trailing=True,
        note=f"loss = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022), N encoder parameters, D {data}; Huber loss on "
        "log residuals, 95% bootstrap intervals.",
        head=("algorithm", "mix", "E [95%]", "alpha [95%]", "beta [95%]", "n", "determined by the points"),
    )  # fmt: skip


def frontiers(found: Mapping[str, Frontier]) -> Table:
    """Exponents of the compute-optimal size and data, or why there are none."""
    body = []
    for algorithm, one in found.items():
        known = one.outcome is Outcome.OK
        exponents = (
            (interval(one.a, *one.a_interval), interval(one.b, *one.b_interval)) if known else ("–", "–")
        )
        span = f"{power(one.low)} to {power(one.high)}" if known else "–"
        body.append(
            (algorithm, *exponents, span, ("; ".join(one.warnings) or "ok") if known else one.message)
        )
    return Table(
        name="table-frontier", title="Compute-optimal size.", rows=tuple(body), words=1, trailing=True,
        note="Exponents of the compute-optimal encoder size N* and samples seen D* in training FLOPs, from the lower envelope "
        "of the training curves (approach 1 of Hoffmann et al. 2022). Intervals: bootstrap over runs.",
        head=("algorithm", "N* exponent [95%]", "D* exponent [95%]", "FLOPs", "outcome"),
    )  # fmt: skip


def task_laws(rows: Sequence[Slope], mixes: Mapping[str, str], files: tuple[str, ...]) -> Table:
    """Slopes in encoder size, a row per task and algorithm: of AUC, of the error, and of the error relative to the control."""
    size = [row for row in rows if row.axis == "params_encoder"]
    pairs = sorted({(row.task, row.algorithm) for row in size if mixes.get(row.algorithm) == row.mix})
    body, strong = [], set()
    for index, (task, algorithm) in enumerate(pairs):
        key = {"task": task, "algorithm": algorithm, "mix": mixes[algorithm]}
        cells = [_cell(size, n=False, value=value, **key) for value in ("auc", "error", "error_ratio")]
        control = _cell(size, value="error", task=task, algorithm="random", mix="")
        net = [row for row in size if _matches(row, value="error_ratio", **key)]
        points = max(row.fit.n for row in size if _matches(row, **key))
        body.append((task, algorithm, cells[0], cells[1], control, cells[2], str(points)))
        if any(row.differs and (row.slope or 0) < 0 for row in net):
            strong.add(index)
    shown = ", ".join(f"{name} on {mix}" for name, mix in mixes.items())
    return Table(
        name="table-tasks", title="Slopes of the tasks in encoder size.", files=files, rows=tuple(body), words=2,
        note=f"{RULE} Mixes: {shown}. Control: the untrained encoder of the same size. Bold: the error falls with size by more "
        "than that of the control.",
        head=("task", "algorithm", "AUC", "error (1 − AUC)", "error of control", "error relative to control", "n"),
        strong=frozenset(strong),
    )  # fmt: skip


def task_axes(rows: Sequence[Slope], mixes: Mapping[str, str], files: tuple[str, ...]) -> Table:
    """Slopes of the tasks' error along every axis, a row per task and algorithm; empty where size is the only axis."""
    main = [row for row in rows if row.value == "error" and mixes.get(row.algorithm) == row.mix]
    axes = [axis for axis in AXES if any(row.axis == axis for row in main)]
    pairs = sorted({(row.task, row.algorithm) for row in main}) if len(axes) > 1 else []
    body = [
        (task, algorithm, *(_cell(main, n=True, axis=axis, task=task, algorithm=algorithm) for axis in axes))
        for task, algorithm in pairs
    ]
    return Table(
        name="table-task-axes", title="Slopes of the tasks' error along every axis.", files=files, rows=tuple(body), words=2,
        note=f"{RULE} Each is taken at fixed values of the other axes, except along training FLOPs.",
        head=("task", "algorithm", *(f"in {AXES[axis]}" for axis in axes)),
    )  # fmt: skip


def contrasts(rows: Sequence[Contrast], files: tuple[str, ...]) -> Table:
    """Differences in test AUC between values of one axis; bold: the interval excludes zero."""
    body = [
        (row.axis.replace("_", " "), row.second, row.first, interval(row.mean, *(row.interval or (None, None)), signed=True),
         f"{sum(value > 0 for value in row.tasks.values())} of {len(row.tasks)}", str(row.pairs))
        for row in rows[:SHOWN]
    ]  # fmt: skip
    return Table(
        name="table-contrasts", title="Comparisons of otherwise equal cells.", files=files, rows=tuple(body), words=3,
        note="Difference in test AUC, averaged over pairs of cells that differ in this axis alone and over tasks, with the "
        f"95% t interval over tasks.{_rest(len(rows))}",
        head=("axis", "value", "compared with", "difference [95%]", "tasks with higher AUC", "pairs of cells"),
        strong=frozenset(index for index, row in enumerate(rows[:SHOWN]) if row.differs),
    )  # fmt: skip


def protocols(rows: Sequence[AcrossProtocols], files: tuple[str, ...]) -> Table:
    """Slopes and differences under every protocol, those whose sign changes first; empty with one protocol."""
    ordered = sorted(rows, key=lambda row: (not row.reverses, row.keeps_sign))
    names = sorted({name for row in rows for name in row.estimates})
    body = [
        (row.quantity, row.subject, row.task, *(_estimate(row.estimates.get(name)) for name in names),
         "yes" if row.keeps_sign else "no, and both are clear" if row.reverses else "no")
        for row in ordered[:SHOWN]
    ]  # fmt: skip
    return Table(
        name="table-protocols", title="Slopes and differences under every probing protocol.", files=files,
        rows=tuple(body), words=3,
        note="Slopes are of the error (1 − AUC) in encoder parameters, differences are of test AUC over tasks, both with 95% "
        f"intervals. Two protocols are clear where both intervals exclude zero.{_rest(len(rows))}",
        head=("quantity", "of", "task", *names, "one sign"),
        strong=frozenset(index for index, row in enumerate(ordered[:SHOWN]) if not row.keeps_sign),
    )  # fmt: skip


def _estimate(found: Estimate | None) -> str:
    if found is None:
        return MISSING
    value, ends = found
    return interval(value, *(ends or (None, None)), signed=True)


def _matches(row: Slope, **wanted: str) -> bool:
    return all(getattr(row, key) == value for key, value in wanted.items())


def _cell(rows: Sequence[Slope], *, n: bool = False, **wanted: str) -> str:
    found = [row for row in rows if _matches(row, **wanted)]
    return f"{_slope(found[0])}{f', n={_evidence(found[0])}' if n else ''}" if found else "–"


def _slope(row: Slope) -> str:
    low, high = row.interval or (None, None)
    return (
        interval(row.slope, low, high, signed=True)
        if row.fit.estimates
        else row.fit.outcome.replace("_", " ")
    )


def _evidence(row: Slope) -> str:
    """Runs, and in brackets the values of the axis where several runs share one."""
    return f"{row.fit.n} ({row.units})" if row.units < row.fit.n else str(row.fit.n)


def _given(row: Slope) -> str:
    return " and ".join(AXES.get(held, held.replace("_", " ")) for held in row.held)


def scores(best: pl.DataFrame, files: tuple[str, ...]) -> Table:
    """AUC of every algorithm's largest cell beside its floors; bold: above the control by more than the interval."""
    rows = [
        (
            row["task"],
            row["algorithm"],
            interval(row["auc"], row["auc_lo"], row["auc_hi"]),
            number(row["control"]),
            interval(row["gain"], row["gain_lo"], row["gain_hi"], signed=True),
            number(row["pixels"]),
            interval(row["gain_pixels"], row["gain_pixels_lo"], row["gain_pixels_hi"], signed=True),
            significant(row["n_test"]),
        )
        for row in best.iter_rows(named=True)
    ]
    cells = best.select("algorithm", "model", "mix", "images").unique(maintain_order=True).sort("algorithm")
    which = "; ".join(
        f"{a}: {model} on {count(images)} images of {mix}" for a, model, mix, images in cells.iter_rows()
    )
    return Table(
        name="table-scores", title="Test AUC against the controls.", files=files, rows=tuple(rows), words=2,
        note=f"Largest encoder on most images ({which}). Test AUC with 95% bootstrap intervals. Control: the untrained "
        "encoder of the same size. Pixels: a probe of the raw pixels. Bold: the gain's interval is above zero.",
        head=("task", "algorithm", "AUC [95%]", "control", "gain [95%]", "pixels", "gain over pixels [95%]", "n test"),
        strong=frozenset(i for i, low in enumerate(best["gain_lo"]) if low is not None and low > 0),
    )  # fmt: skip


def correlations(
    table: pl.DataFrame, files: tuple[str, ...], *, name: str, value: str, folded: bool = False
) -> Table:
    """Correlations with intervals, raw and corrected p, and their range when a task is left out."""
    rows = [
        (
            row["group"],
            label_of(row["factor"]),
            str(row["n"]),
            _r(row, "pearson"),
            _r(row, "spearman"),
            f"{p_value(row['p'])} ({p_value(row['p_permutation'])})",
            f"{p_value(row['p_holm'])} / {p_value(row['p_bh'])}",
            _left_out(row),
        )
        for row in table.head(SHOWN).iter_rows(named=True)
    ]
    most = int(table["n"].max() or 0)  # type: ignore[arg-type]
    note = (
        f"Slopes of {value} in model size against task factors. Pearson's r with Fisher's 95% interval, Spearman's with "
        "that of Bonett and Wright; p of Pearson's r by t test (by permutation), and corrected over the family (Holm / "
        f"Benjamini-Hochberg). {family(table)} {strength(most)} Last column: range of Pearson's r if one task is left out, "
        f"and the task that changes it most.{_rest(table.height)}"
    )
    return Table(
        name=name, title=f"Correlations of the slopes of {value} with task factors.", note=note, files=files, folded=folded,
        head=("slopes of", "factor", "n", "Pearson [95%]", "Spearman [95%]", "p (permuted)", "Holm / BH", "leave one out"),
        rows=tuple(rows), words=2,
        strong=frozenset(i for i, p in enumerate(table["p_holm"].head(SHOWN)) if p is not None and p < 0.05),
    )  # fmt: skip


def _left_out(row: Mapping[str, float | str | None]) -> str:
    low, high = row["loo_lo"], row["loo_hi"]
    if not isinstance(low, float) or not isinstance(high, float):
        return str(row["note"] or "–")
    return f"{_bare(number(low, 2))} to {_bare(number(high, 2))} ({row['loo_without']})"


def _r(row: Mapping[str, Any], name: str) -> str:
    return _bare(interval(row[name], row[f"{name}_lo"], row[f"{name}_hi"], 2, signed=True))


def _bare(text: str) -> str:
    """Numbers below one without their leading zero, as correlations are written."""
    return text.replace("0.", ".")


def factors(table: pl.DataFrame, files: tuple[str, ...]) -> Table:
    """A row per factor that some task has, with its definition, and a column per task."""
    tasks = table.unique("task", keep="first", maintain_order=True).sort("task")
    names = [name for name in in_order(tasks.columns) if name in BY_NAME and tasks[name].count()]
    notes = sorted({note for note in tasks["notes"] if note}) if "notes" in tasks.columns else []
    rows = [
        (
            label_of(name),
            f"{BY_NAME[name].definition} [{BY_NAME[name].unit}]",
            *(significant(one) for one in tasks[name]),
        )
        for name in names
    ]
    return Table(
        name="table-factors", title="Factors of the tasks.", note=" ".join(f"{note}." for note in notes),
        head=("factor", "definition [unit]", *tasks["task"]), rows=tuple(rows), words=2, files=files,
    )  # fmt: skip


def ledger(table: pl.DataFrame, files: tuple[str, ...]) -> Table:
    """Results that are missing, by cause."""
    rows = [
        (row["cause"], row["name"], row["task"] or "pretraining", row["message"], row["log"])
        for row in table.sort("cause", "name", "task").head(SHOWN).iter_rows(named=True)
    ]
    return Table(
        name="table-ledger", title="Results left out.", files=files, words=5,
        note=f"{plural(table.height, 'result')}; none enters a fit or a figure.{_rest(table.height)}",
        head=("cause", "cell", "part", "message", "log"), rows=tuple(rows),
    )  # fmt: skip


def sizes(runs: pl.DataFrame, probes: pl.DataFrame, files: tuple[str, ...]) -> Table:
    """The encoders: parameters by part, training FLOPs and device time, per algorithm and model."""
    keys, parts = ["algorithm", "model"], ["params_encoder", "params_head", "params_total"]
    probing = (
        probes.group_by("cell").agg(probe_seconds=pl.col("probe_seconds").sum())
        if "probe_seconds" in probes
        else None
    )
    joined = (
        runs.join(probing, on="cell", how="left")
        if probing is not None
        else runs.with_columns(probe_seconds=None)
    )
    rows = (
        joined.filter(pl.col("params_encoder") > 0)
        .group_by(keys)
        .agg(
            *(pl.col(name).first() for name in parts),
            pl.col("flops_train").max(),
            pl.len(),
            pl.col("seconds", "probe_seconds").sum(),
        )
        .sort("algorithm", "params_encoder")
    )
    body = [
        (row["algorithm"], row["model"], *(significant(row[name]) for name in parts),
         power(row["flops_train"]) if row["flops_train"] else "–", str(row["len"]),
         *(duration((row[name] or 0) / 3600) for name in ("seconds", "probe_seconds")))
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    return Table(
        name="table-sizes", title="Sizes and device time.", files=files, rows=tuple(body), words=2,
        note="Laws count the parameters of the encoder that is probed; heads and decoders are discarded before. Time is of "
        "one device, summed over cells.",
        head=("algorithm", "model", "encoder params", "head params", "total params", "training FLOPs (max)", "cells",
              "pretraining", "probes"),
    )  # fmt: skip


def _rest(rows: int) -> str:
    return f" The first {SHOWN} of {rows} rows; the files have all." if rows > SHOWN else ""


def fits(rows: Sequence[Fit], files: tuple[str, ...]) -> Table:
    """Every law of a table of points: parameters with intervals, n, rows left out, outcome; bold: slope not zero."""
    shown = rows[:SHOWN]
    groups = list(dict.fromkeys(key for row in rows for key in row.group))
    params = list(dict.fromkeys(name for row in rows for name in row.law.params))
    laws = dict.fromkeys((row.law.name, row.law.formula) for row in rows)
    named = ["law"] if len(laws) > 1 else []
    body = [
        (
            *(row.group.get(key, "") for key in groups),
            *(row.law.name for _ in named),
            *(estimate(row, name) for name in params),
            str(row.n),
            str(len(row.dropped)),
            "–" if row.lack_of_fit is None else p_value(row.lack_of_fit.p),
            row.outcome.replace("_", " "),
        )
        for row in shown
    ]
    formulas = "; ".join(f"{name}: {formula}" if named else formula for name, formula in laws)
    ends = [row.intervals.get("slope") for row in shown]
    return Table(
        name="table-fits", title="Fitted laws.", files=files, rows=tuple(body), words=len(groups) + len(named),
        note=f"{formulas}. {rows[0].level:.0%} intervals ({rows[0].interval}). {MISFIT}{_rest(len(rows))}",
        head=(*groups, *named, *params, "n", "rows left out", "misfit p", "outcome"),
        strong=frozenset(i for i, end in enumerate(ends) if end and not end[0] <= 0 <= end[1]),
    )  # fmt: skip


def choices(rows: Sequence[AutoFit]) -> Table:
    """What `--law auto` compared, per group: the forms' errors on scales held back, the form named, and a forecast."""
    groups = list(dict.fromkeys(key for row in rows for key in row.group))
    forms = list(dict.fromkeys(score.form for row in rows for score in row.choice.scores))
    body = [
        (
            *(row.group.get(key, "") for key in groups),
            *(number(_errors(row).get(form)) for form in forms),
            row.law.name,
            "–" if isnan(row.choice.coverage) else f"{row.choice.coverage:.0%}",
            _forecast(row),
        )
        for row in rows[:SHOWN]
    ]
    scales = " and ".join(rows[0].law.x)
    return Table(
        name="table-choices", title="Choice of law and forecast.", files=(), rows=tuple(body), words=len(groups),
        note="Columns of laws: root mean square of ln(predicted / measured) on larger scales, held back in "
        f"{max(row.choice.origins for row in rows)} turns or fewer. The law named is the simplest within 10% of the "
        "lowest error, or a constant if the points show no trend. Coverage: share of the held-back points in the 90% "
        f"band of the forecast. The forecast is that of {rows[0].options.value} for one new run at {AHEAD:g} times the "
        f"largest {scales}, by an average that does not depend on the law named, with its {rows[0].level:.0%} band."
        f"{_rest(len(rows))}",
        head=(*groups, *forms, "law named", "coverage", f"forecast at {AHEAD:g}x"),
    )  # fmt: skip


def _errors(row: AutoFit) -> dict[str, float]:
    return {score.form: score.error for score in row.choice.scores}


def _forecast(row: AutoFit) -> str:
    """The forecast with its band, or a dash if the points allow none."""
    try:
        at = pl.DataFrame({name: [AHEAD * high] for name, (_, high) in row.ranges.items()})
        found = row.predict(at).row(0, named=True)
    except OrchError:
        return "–"
    return "refused" if found["value"] is None else interval(found["value"], found["lo"], found["hi"])


def estimate(row: Fit, name: str) -> str:
    """A parameter with its interval; one that ended at a bound of the law says so."""
    value = row.estimates.get(name)
    if value is None:
        return "–"
    low, high = row.intervals.get(name, (None, None))
    bound = row.bound_of(name)
    if bound is None and (name == "slope" or 0.001 <= abs(value) < 1):
        return interval(value, low, high, 4 if name == "slope" else 3, signed=name == "slope")
    words = significant(value) if bound is None else f"{significant(bound)} (at the bound)"
    if low is None or high is None:
        return words
    ends = (bound if bound is not None and _near(end, bound) else end for end in (low, high))
    return f"{words} [{', '.join(map(significant, ends))}]"


def _near(value: float, bound: float) -> bool:
    return abs(value - bound) <= EDGE * max(1.0, abs(value))


def two_axes(axes: Mapping[str, Sequence[Slope]], files: tuple[str, ...]) -> Table:
    """The slopes of the same groups along two axes, side by side; bold: zero outside on the second only."""
    (first, rows), (second, others) = axes.items()
    pairs = list(zip(rows, others, strict=True))[:SHOWN]
    body = [
        (row.task, row.algorithm, digits(row), _share(row), digits(other), _share(other), str(row.fit.n))
        for row, other in pairs
    ]
    changed = [i for i, (row, other) in enumerate(pairs) if other.differs and not row.differs]
    return Table(
        name="table-axes", title="Slopes along two x axes.", files=files, rows=tuple(body), words=2,
        note=f"95% t intervals. They exclude zero in {sum(row.differs for row in rows)} of {len(rows)} groups along {first} "
        f"and in {sum(row.differs for row in others)} along {second}; bold: along {second} only."
        f"{_rest(len(rows))}",
        head=("task", "algorithm", f"slope in {first}", "R²", f"slope in {second}", "R²", "n"),
        strong=frozenset(changed),
    )  # fmt: skip


def digits(row: Slope) -> str:
    """The slope with its interval to four decimals, as the published slopes are given."""
    low, high = row.interval or (None, None)
    return interval(row.slope, low, high, 4, signed=True)


def _share(row: Slope) -> str:
    """R squared of the line in logs: 1 - residual over total sum of squares, from slope, spread and residuals."""
    line = row.fit.line
    if line is None or row.slope is None:
        return "–"
    explained = row.slope**2 * line.spread
    residual = sum(value**2 for value in row.fit.residuals)
    return number(explained / (explained + residual), 2)


def fit_table(fits: Sequence[Fit]) -> pl.DataFrame:
    """One row per fit and parameter: group, law, estimate, interval, n, rows left out, outcome."""
    rows = [
        {
            **{f"group_{key}": value for key, value in fit.group.items()},
            "law": fit.law.name,
            "parameter": name,
            "estimate": fit.estimates.get(name),
            "lo": fit.intervals.get(name, (None, None))[0],
            "hi": fit.intervals.get(name, (None, None))[1],
            "n": fit.n,
            "left_out": len(fit.dropped),
            "misfit_p": None if fit.lack_of_fit is None else fit.lack_of_fit.p,
            "outcome": str(fit.outcome),
        }
        for fit in fits
        for name in fit.law.params
    ]
    types = {"estimate": pl.Float64, "lo": pl.Float64, "hi": pl.Float64, "misfit_p": pl.Float64}
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides=types)
