"""The sections of a study's page: which words, pictures and tables, in which order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from orch_analysis.reports import page_tables, study_sentences
from orch_analysis.reports.page import Block, Page, Section, Text
from orch_analysis.reports.page_figures import Drawn
from orch_analysis.reports.study_findings import Findings
from orch_analysis.tables import study_tables
from orch_analysis.tables.study_tables import CONTROLS, Results
from orch_core.formatting import plural, significant

Files = Mapping[str, tuple[str, ...]]


def study_page(found: Findings, drawn: Drawn, files: Files) -> Page:
    """The whole report of a study."""
    net = [row for row in found.probes if row.value == "error_ratio"]
    answers = [
        *study_sentences.loss_answers(found.loss, found.mixes),
        *study_sentences.gain_answers(found.best),
        *study_sentences.net_answers(found.probes, found.mixes),
        *study_sentences.factor_answer(found.correlations["auc"]),
        *study_sentences.missing_answer(found.results.ledger),
    ]
    return Page(
        title=f"Does scaling pay? The study “{found.study.name}”",
        kicker="Scaling-law report",
        lead=study_sentences.lead(found.loss, net, found.mixes),
        facts=_facts(found),
        answers=answers,
        sections=[
            _pretraining(found, drawn, files),
            _tasks(found, drawn, files),
            _scaling(found, drawn, files),
            _factors(found, drawn, files),
            Section(id="limits", title="What this cannot show", blocks=[Text(items=tuple(_caveats(found)))]),
            _grid(found, drawn, files),
            _provenance(found),
        ],
    )


def _caveats(found: Findings) -> list[str]:
    return study_sentences.caveats(found.results.pretraining, found.best, len(found.loss) + len(found.probes))


def _facts(found: Findings) -> list[tuple[str, str]]:
    runs, left_out = found.results.pretraining, found.results.ledger.height
    hours = float(found.cells["minutes"].fill_null(0).sum()) / 60
    return [
        (f"{runs.height} of {found.cells.height}", "cells finished"),
        (
            f"{found.results.probes.height:,}",
            f"probes of {plural(found.results.probes['task'].n_unique(), 'task')}",
        ),
        (str(left_out), "results left out"),
        (
            significant(hours) if hours >= 1 else f"{60 * hours:.0f} min",
            "device-hours" if hours >= 1 else "device time",
        ),
        (f"{runs.filter(~pl.col('algorithm').is_in(CONTROLS))['model'].n_unique()}", "encoder sizes"),
    ]


def _pretraining(found: Findings, drawn: Drawn, files: Files) -> Section:
    text = (
        (
            "Losses compare within an algorithm and a mix, never between algorithms. A slope along one axis is taken at fixed "
            "values of the others; bands are 95% intervals of the curve."
        ),
    )
    blocks: list[Block] = [
        Text(paragraphs=text),
        *drawn["loss"],
        page_tables.loss_laws(found.loss, files["slopes"]),
        page_tables.joint_laws(found.joint, files["joint"]),
        *drawn["curves"],
        page_tables.frontiers(found.frontiers),
    ]
    return Section(id="pretraining", title="Pretraining loss", blocks=blocks)


def _tasks(found: Findings, drawn: Drawn, files: Files) -> Section:
    text = (
        (
            "Linear probes on frozen features. A bigger encoder is better even untrained, so every score stands beside the "
            "untrained encoder of its size and a probe of the raw pixels."
        ),
    )
    blocks: list[Block] = [
        Text(paragraphs=text),
        *drawn["scores"],
        *drawn["gain"],
        *drawn["mixes"],
        page_tables.scores(found.best, files["scores"]),
    ]
    return Section(id="tasks", title="Tasks against their floors", blocks=blocks)


def _scaling(found: Findings, drawn: Drawn, files: Files) -> Section:
    blocks: list[Block] = [
        *drawn["forest"],
        page_tables.task_laws(found.probes, found.mixes, files["slopes"]),
        page_tables.slopes([*found.loss, *found.probes], files["slopes"]),
    ]
    return Section(id="slopes", title="How tasks scale", blocks=blocks)


def _factors(found: Findings, drawn: Drawn, files: Files) -> Section:
    blocks: list[Block] = [
        Text(items=tuple(study_sentences.factor_notes(found.correlations["auc"]))),
        *drawn["factors"],
        page_tables.factors(found.factors, files["factors"]),
        page_tables.correlations(found.correlations["auc"], files["correlations"], name="table-correlations", value="AUC"),
        page_tables.correlations(
            found.correlations["error_ratio"], files["correlations"], name="table-correlations-net",
            value="the error relative to the control", folded=True,
        ),
    ]  # fmt: skip
    return Section(id="factors", title="Which tasks scale", blocks=blocks)


def _grid(found: Findings, drawn: Drawn, files: Files) -> Section:
    blocks: list[Block] = [
        *drawn["coverage"],
        page_tables.sizes(found.results.pretraining, files["pretraining"]),
    ]
    if found.results.ledger.height:
        blocks.append(page_tables.ledger(found.results.ledger, files["ledger"]))
    else:
        blocks.append(
            Text(paragraphs=("Nothing was left out: every planned cell and probe has its record.",))
        )
    return Section(id="grid", title="What ran, and what did not", blocks=blocks)


def _provenance(found: Findings) -> Section:
    root = found.study.root
    plan = study_tables.read_plan(root)
    grid = root / "grid.yaml"
    items = [
        f"Data: {found.results.pretraining.height + found.results.probes.height:,} records, blake2b {found.results.digest}."
    ]
    if plan:
        items.append(f"Plan: {plan.get('plan', '')}; grid {Path(str(plan.get('grid', 'grid.yaml'))).name}.")
    items += [_part(name, counts) for name, counts in found.results.provenance.items()]
    if span := _span(found.results):
        items.append(span)
    items.append(
        f"Fits: laws.json; least squares on logarithms, exact t intervals. Commands: orch plan, orch launch, orch fit-laws {root.name}."
    )
    blocks: list[Block] = [Text(items=tuple(items))]
    if grid.exists():
        blocks.append(Text(code=grid.read_text(encoding="utf-8"), title="The grid, as planned"))
    return Section(id="provenance", title="Provenance", blocks=blocks)


def _part(name: str, counts: Mapping[str, int]) -> str:
    shown = []
    for text, count in list(counts.items())[:4]:
        value = json.loads(text)
        said = (
            ", ".join(f"{key} {item}" for key, item in value.items() if item not in ("", None, []))
            if isinstance(value, dict)
            else str(value)
        )
        shown.append(f"{said} ({plural(count, 'record')})")
    more = f"; and {len(counts) - 4} more" if len(counts) > 4 else ""
    return f"{name.capitalize()}: {'; '.join(shown)}{more}."


def _span(found: Results) -> str:
    runs = found.pretraining
    if not {"started", "ended"} <= set(runs.columns) or not runs["started"].count():
        return ""
    seconds = (runs["started"].drop_nulls().sort()[0], runs["ended"].drop_nulls().sort()[-1])
    first, last = (datetime.fromtimestamp(value, UTC) for value in seconds)
    return f"Ran from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC."
