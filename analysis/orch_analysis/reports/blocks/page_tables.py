"""Tables of a study's results for the page: each number with its interval in one cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.reports.blocks.factor_sentences import family, strength
from orch_analysis.reports.blocks.fit_tables import SHOWN, estimate, rest
from orch_analysis.tables.export import Table
from orch_analysis.tasks.factors import BY_NAME, in_order, label_of
from orch_analysis.tasks.slopes import AXES, VALUES, Slope
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
    from orch_analysis.frontiers.approaches import Frontier
    from orch_analysis.tasks.across_protocols import AcrossProtocols, Estimate
    from orch_analysis.tasks.contrasts import Contrast

RULE = (
    "A slope is d log(value) / d log(axis), with its 95% t interval. Runs at one value of the axis share a "
    "control, initial weights or a subset of images, so the interval counts values of the axis, not runs: "
    "n=12 (4) means 12 runs at 4 values."
)


def slopes(rows: Sequence[Slope], files: tuple[str, ...]) -> Table:
    """Every slope in a row, folded; bold if the interval excludes zero."""
    body = [
        (row.task or "pretraining", row.algorithm, row.mix, VALUES[row.value], AXES[row.axis], _given(row),
         _slope(row), _evidence(row), str(len(row.fit.dropped)))
        for row in rows[:SHOWN]
    ]  # fmt: skip
    return Table(
        name="table-slopes", title=f"All {plural(len(rows), 'slope')}.", files=files, rows=tuple(body),
        words=6, folded=True, note=f"{RULE}{rest(len(rows))}",
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
    given = sorted({f"along {AXES[row.axis]} at fixed {_given(row)}" for row in rows if row.held})
    return Table(
        name="table-loss", title="Slopes of the held-out loss.", files=files, rows=tuple(body), words=2,
        note=f"{RULE}{' Slopes are taken ' + '; '.join(given) + '.' if given else ''}",
        head=("algorithm", "mix", *(f"in {AXES[axis]}" for axis in axes)),
    )  # fmt: skip


def joint_laws(rows: Sequence[Fit], files: tuple[str, ...]) -> Table:
    """The joint law of size and data, with the parameters that the points do not determine."""
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
        name="table-joint", title="Joint law of encoder size and data.", files=files, rows=tuple(body),
        note="The law is loss = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022), where N is the number "
        f"of encoder parameters and D is {data}. It is fitted by Huber's loss on log residuals; intervals "
        "are 95% bootstrap intervals.",
        head=("algorithm", "mix", "E [95%]", "alpha [95%]", "beta [95%]", "n", "determined by the points"),
        words=2, trailing=True,
    )  # fmt: skip


def frontiers(found: Mapping[str, Frontier]) -> Table:
    """Exponents of the compute-optimal size and data, or the reason why they cannot be estimated."""
    body = []
    for algorithm, one in found.items():
        if one.outcome is Outcome.OK:
            exponents = (interval(one.a, *one.a_interval), interval(one.b, *one.b_interval))
            span, outcome = f"{power(one.low)} to {power(one.high)}", "; ".join(one.warnings) or "ok"
        else:
            exponents, span, outcome = ("–", "–"), "–", one.message
        body.append((algorithm, *exponents, span, outcome))
    return Table(
        name="table-frontier", title="Compute-optimal size.", rows=tuple(body), words=1, trailing=True,
        note="Exponents of the compute-optimal encoder size N* and of the samples seen D* in training FLOPs "
        "are estimated from the lower envelope of the training curves (approach 1 of Hoffmann et al. 2022). "
        "Intervals are bootstrap intervals over runs.",
        head=("algorithm", "N* exponent [95%]", "D* exponent [95%]", "FLOPs", "outcome"),
    )  # fmt: skip


def task_laws(rows: Sequence[Slope], mixes: Mapping[str, str], files: tuple[str, ...]) -> Table:
    """Slopes of AUC, error and relative error in encoder size, a row per task and algorithm."""
    size = [row for row in rows if row.axis == "params_encoder"]
    pairs = sorted({(row.task, row.algorithm) for row in size if mixes.get(row.algorithm) == row.mix})
    body, strong = [], set()
    for index, (task, algorithm) in enumerate(pairs):
        key = {"task": task, "algorithm": algorithm, "mix": mixes[algorithm]}
        cells = [_cell(size, n=False, value=value, **key) for value in ("auc", "error", "error_ratio")]
        control = _cell(size, value="error", task=task, algorithm="random", mix="")
        points = max(row.fit.n for row in size if _matches(row, **key))
        body.append((task, algorithm, cells[0], cells[1], control, cells[2], str(points)))
        if any(row.falls for row in size if _matches(row, value="error_ratio", **key)):
            strong.add(index)
    shown = ", ".join(f"{name} on {mix}" for name, mix in mixes.items())
    return Table(
        name="table-tasks", title="Slopes of the tasks in encoder size.", files=files, rows=tuple(body),
        note=f"{RULE} The rows are of {shown}. The control is the untrained encoder of the same size. In "
        "bold rows the error relative to the control falls with size.",
        head=("task", "algorithm", "AUC", "error (1 − AUC)", "error of control", "error relative to control",
              "n"),
        words=2, strong=frozenset(strong),
    )  # fmt: skip


def task_axes(rows: Sequence[Slope], mixes: Mapping[str, str], files: tuple[str, ...]) -> Table:
    """Slopes of the tasks' error along every axis; empty if encoder size is the only axis."""
    main = [row for row in rows if row.value == "error" and mixes.get(row.algorithm) == row.mix]
    axes = [axis for axis in AXES if any(row.axis == axis for row in main)]
    pairs = sorted({(row.task, row.algorithm) for row in main}) if len(axes) > 1 else []
    body = [
        (task, algorithm, *(_cell(main, n=True, axis=axis, task=task, algorithm=algorithm) for axis in axes))
        for task, algorithm in pairs
    ]
    return Table(
        name="table-task-axes", title="Slopes of the tasks' error along every axis.", files=files,
        rows=tuple(body), words=2,
        note="Slopes and intervals are computed as in the table above, at fixed values of the other axes "
        "except along training FLOPs.",
        head=("task", "algorithm", *(f"in {AXES[axis]}" for axis in axes)),
    )  # fmt: skip


def contrasts(rows: Sequence[Contrast], files: tuple[str, ...]) -> Table:
    """Differences in test AUC between values of one axis; bold if the interval excludes zero."""
    body = [
        (row.axis.replace("_", " "), row.second, row.first,
         interval(row.mean, *(row.interval or (None, None)), signed=True),
         f"{sum(value > 0 for value in row.tasks.values())} of {len(row.tasks)}", str(row.pairs))
        for row in rows[:SHOWN]
    ]  # fmt: skip
    return Table(
        name="table-contrasts", title="Comparisons of otherwise equal cells.", files=files, rows=tuple(body),
        note="Each difference in test AUC is the mean over tasks and over pairs of cells that differ in this "
        f"axis alone, with its 95% t interval over tasks.{rest(len(rows))}",
        head=("axis", "value", "compared with", "difference [95%]", "tasks with higher AUC",
              "pairs of cells"),
        words=3, strong=frozenset(index for index, row in enumerate(rows[:SHOWN]) if row.differs),
    )  # fmt: skip


def protocols(rows: Sequence[AcrossProtocols], files: tuple[str, ...]) -> Table:
    """Slopes and differences by protocol, those whose sign changes first; empty with one protocol."""
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
        note="Slopes are of the error (1 − AUC) in encoder parameters, differences are of test AUC over "
        "tasks, both with 95% intervals. Two protocols are clear where both intervals exclude "
        f"zero.{rest(len(rows))}",
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
    found = next((row for row in rows if _matches(row, **wanted)), None)
    return f"{_slope(found)}{f', n={_evidence(found)}' if n else ''}" if found else "–"


def _slope(row: Slope) -> str:
    if not row.fit.estimates:
        return row.fit.outcome.replace("_", " ")
    return interval(row.slope, *(row.interval or (None, None)), signed=True)


def _evidence(row: Slope) -> str:
    """The number of runs, followed by that of the axis's values in brackets if several runs share a value."""
    return f"{row.fit.n} ({row.units})" if row.units < row.fit.n else str(row.fit.n)


def _given(row: Slope) -> str:
    return " and ".join(AXES.get(held, held.replace("_", " ")) for held in row.held)


def scores(best: pl.DataFrame, files: tuple[str, ...]) -> Table:
    """AUC of every algorithm's largest cell with its controls; bold if the gain's interval is above zero."""
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
        note=f"The cells are the largest encoders on the most images ({which}). Intervals are 95% bootstrap "
        "intervals. The control is the untrained encoder of the same size; pixels are a probe of the raw "
        "pixels. In bold rows the interval of the gain over the control is above zero.",
        head=("task", "algorithm", "AUC [95%]", "control", "gain [95%]", "pixels", "gain over pixels [95%]",
              "test images"),
        strong=frozenset(i for i, low in enumerate(best["gain_lo"]) if low is not None and low > 0),
    )  # fmt: skip


def correlations(
    table: pl.DataFrame, files: tuple[str, ...], *, name: str, value: str, folded: bool = False
) -> Table:
    """Correlations with intervals, raw and corrected p, and their range if one task is left out."""
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
        f"Slopes of {value} in model size are correlated with task factors. Pearson's r has Fisher's 95% "
        "interval and Spearman's that of Bonett and Wright. The first p is of the t test of Pearson's r, in "
        "brackets that of the permutation test; Holm and BH (Benjamini and Hochberg) correct it for the "
        f"family of tests. {family(table)} {strength(most)} The last column is the range of Pearson's r if "
        f"one task is left out, with the task that changes it most.{rest(table.height)}"
    )
    return Table(
        name=name, title=f"Correlations of the slopes of {value} with task factors.", note=note, files=files,
        head=("slopes of", "factor", "n", "Pearson [95%]", "Spearman [95%]", "p (permuted)", "Holm / BH",
              "leave one out"),
        rows=tuple(rows), words=2, folded=folded,
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
        (row["cause"].replace("_", " "), row["name"], row["task"] or "pretraining", row["message"],
         row["log"])
        for row in table.sort("cause", "name", "task").head(SHOWN).iter_rows(named=True)
    ]  # fmt: skip
    return Table(
        name="table-ledger", title="Results left out.", files=files, words=5,
        note=f"{plural(table.height, 'result')} {'is' if table.height == 1 else 'are'} left out of every fit "
        f"and figure.{rest(table.height)}",
        head=("cause", "cell", "part", "message", "log"), rows=tuple(rows),
    )  # fmt: skip


def sizes(runs: pl.DataFrame, probes: pl.DataFrame, files: tuple[str, ...]) -> Table:
    """The encoders: parameters by part, training FLOPs and device time, per algorithm and model."""
    parts = ["params_encoder", "params_head", "params_total"]
    if "probe_seconds" in probes:
        runs = runs.join(probes.group_by("cell").agg(pl.col("probe_seconds").sum()), on="cell", how="left")
    else:
        runs = runs.with_columns(probe_seconds=None)
    rows = (
        runs.filter(pl.col("params_encoder") > 0)
        .group_by("algorithm", "model")
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
        note="Laws count the parameters of the encoder that is probed, without heads and decoders. Times are "
        "of one device, summed over cells.",
        head=("algorithm", "model", "encoder params", "head params", "total params", "training FLOPs (max)",
              "cells", "pretraining", "probes"),
    )  # fmt: skip
