"""Frames as tables for the page: numbers with their intervals in one cell, in an order that reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from orch_analysis.correlate import worth
from orch_analysis.factors import LABELS, WORDS
from orch_analysis.slopes import AXES, VALUES, Slope
from orch_analysis.tables import Table, count, interval, number, p_value, plural, power, significant

SHOWN = 60  # rows of a table on the page; the files hold all


def slopes(
    name: str, title: str, rows: Sequence[Slope], files: tuple[str, ...], *, folded: bool = False
) -> Table:
    """Slopes with 95% intervals and n; those whose interval excludes zero are bold."""
    tasks = any(row.task for row in rows)
    body = []
    for row in rows:
        low, high = row.interval or (None, None)
        given = " and ".join(AXES.get(held, held.replace("_", " ")) for held in row.held)
        number_ = (
            interval(row.slope, low, high, signed=True) if row.fit.estimates else f"none: {row.fit.message}"
        )
        group = (row.algorithm, row.mix, *([row.task] if tasks else []))
        body.append(
            (
                *group,
                VALUES[row.value],
                AXES[row.axis],
                given,
                number_,
                str(row.fit.n),
                str(len(row.fit.dropped)),
            )
        )
    shown = body[:SHOWN]
    note = f"d log(value) / d log(axis), 95% t intervals; bold: zero is outside.{_rest(len(body))}"
    return Table(
        name=name, title=title, note=note, files=files, folded=folded,
        head=("algorithm", "mix", *(["task"] if tasks else []), "value", "along", "at fixed", "slope [95%]", "n", "left out"),
        rows=tuple(shown), words=6 if tasks else 5,
        strong=frozenset(index for index, row in enumerate(rows[:SHOWN]) if row.differs),
    )  # fmt: skip


def scores(best: pl.DataFrame, files: tuple[str, ...]) -> Table:
    """AUC of every algorithm's largest cell beside its floors; bold: above the control by more than the interval."""
    rows = [
        (
            row["task"],
            row["algorithm"],
            row["mix"],
            row["model"],
            count(row["images"]) if row["images"] else "–",
            interval(row["auc"], row["auc_lo"], row["auc_hi"]),
            number(row["control"]),
            interval(row["gain"], row["gain_lo"], row["gain_hi"], signed=True),
            number(row["pixels"]),
            interval(row["gain_pixels"], row["gain_pixels_lo"], row["gain_pixels_hi"], signed=True),
            significant(row["n_test"]),
        )
        for row in best.iter_rows(named=True)
    ]
    return Table(
        name="table-scores", title="Scores against their floors.", files=files, rows=tuple(rows), words=4,
        note="Largest encoder on most images of each algorithm; test AUC with 95% bootstrap intervals; control: the "
        "untrained encoder of the same size; bold: above it by more than the interval.",
        head=("task", "algorithm", "mix", "model", "images", "AUC [95%]", "control", "gain [95%]", "pixels", "gain over pixels [95%]", "n test"),
        strong=frozenset(i for i, low in enumerate(best["gain_lo"]) if low is not None and low > 0),
    )  # fmt: skip


def correlations(
    table: pl.DataFrame, files: tuple[str, ...], *, name: str, value: str, folded: bool = False
) -> Table:
    """Correlations with intervals, raw and corrected p, and their range when a task is left out."""
    rows = [
        (
            row["group"],
            LABELS.get(row["factor"], row["factor"]),
            str(row["n"]),
            interval(row["pearson"], row["pearson_lo"], row["pearson_hi"], 2, signed=True),
            interval(row["spearman"], row["spearman_lo"], row["spearman_hi"], 2, signed=True),
            p_value(row["p"]),
            p_value(row["p_permutation"]),
            p_value(row["p_holm"]),
            p_value(row["p_bh"]),
            _left_out(row),
        )
        for row in table.iter_rows(named=True)
    ]
    tests, most = table["p"].count(), int(table["n"].max() or 0)  # type: ignore[arg-type]
    note = (
        f"Slopes of {value} in encoder size against task factors, over {plural(most, 'task')}; Pearson with Fisher's and "
        f"Spearman with Bonett and Wright's 95% interval; p of Pearson by t and by permutation, and corrected over "
        f"{plural(tests, 'test')} (Holm; Benjamini-Hochberg). Over {most} tasks only |r| > {number(worth(most), 2)} "
        "can be told from zero. Last column: range of Pearson's r when one task is left out, and which moves it most."
    )
    return Table(
        name=name, title=f"Correlations of the slopes of {value} with task factors.", note=note, files=files, folded=folded,
        head=("slopes of", "factor", "n", "Pearson [95%]", "Spearman [95%]", "p", "p perm.", "p Holm", "p BH", "leave one out"),
        rows=tuple(rows), words=2,
        strong=frozenset(i for i, p in enumerate(table["p_holm"]) if p is not None and p < 0.05),
    )  # fmt: skip


def _left_out(row: Mapping[str, float | str | None]) -> str:
    low, high = row["loo_lo"], row["loo_hi"]
    if not isinstance(low, float) or not isinstance(high, float):
        return str(row["note"] or "–")
    return f"{number(low, 2)} to {number(high, 2)} ({row['loo_without']})"


def factors(table: pl.DataFrame, files: tuple[str, ...]) -> Table:
    """A row per task, a column per factor that some task has; definitions in the note."""
    names = [name for name in LABELS if name in table.columns and table[name].count()]
    notes = sorted({note for note in table["notes"] if note}) if "notes" in table.columns else []
    definitions = "; ".join(f"{LABELS[name]}: {WORDS[name]}" for name in names)
    rows = [
        (row["task"], *(significant(row[name]) for name in names))
        for row in table.unique("task", keep="first", maintain_order=True).iter_rows(named=True)
    ]
    return Table(
        name="table-factors", title="Factors of the tasks.", note=f"{definitions}.{' ' + '; '.join(notes) + '.' if notes else ''}",
        head=("task", *(LABELS[name] for name in names)), rows=tuple(rows), files=files,
    )  # fmt: skip


def ledger(table: pl.DataFrame, files: tuple[str, ...]) -> Table:
    """What gave nothing, by cause."""
    rows = [
        (row["cause"], row["name"], row["task"] or "pretraining", row["message"], row["log"])
        for row in table.sort("cause", "name", "task").head(SHOWN).iter_rows(named=True)
    ]
    return Table(
        name="table-ledger", title=f"Left out: {plural(table.height, 'result')}.", files=files, words=5,
        note=f"None of these enters a fit or a figure.{_rest(table.height)}",
        head=("cause", "cell", "part", "message", "log"), rows=tuple(rows),
    )  # fmt: skip


def sizes(runs: pl.DataFrame, files: tuple[str, ...]) -> Table:
    """What the encoders are: parameters by part, and training FLOPs, per algorithm and model."""
    keys = ["algorithm", "model"]
    parts = ["params_encoder", "params_head", "params_total"]
    rows = (
        runs.filter(pl.col("params_encoder") > 0)
        .group_by(keys)
        .agg(
            *(pl.col(name).first() for name in parts),
            pl.col("flops_train").max(),
            pl.len(),
            pl.col("seconds").sum(),
        )
        .sort("algorithm", "params_encoder")
    )
    body = [
        (row["algorithm"], row["model"], *(significant(row[name]) for name in parts),
         power(row["flops_train"]) if row["flops_train"] else "–", str(row["len"]), significant((row["seconds"] or 0) / 60))
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    return Table(
        name="table-sizes", title="Sizes.", files=files, rows=tuple(body), words=2,
        note="The x axis of every law is the encoder that is probed; heads and decoders are thrown away before.",
        head=("algorithm", "model", "encoder params", "head params", "total params", "training FLOPs (most)", "cells", "minutes"),
    )  # fmt: skip


def _rest(rows: int) -> str:
    return f" The first {SHOWN} of {rows} rows; the files hold all." if rows > SHOWN else ""
