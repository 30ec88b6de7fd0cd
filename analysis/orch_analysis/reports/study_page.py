"""The layout of a study's report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from orch_analysis.reports import study_sentences
from orch_analysis.reports.blocks import benefit_section, factor_sentences, page_tables
from orch_analysis.reports.blocks.page_figures import Drawn
from orch_analysis.reports.page import Block, Page, Section, Text
from orch_analysis.reports.study_findings import StudyFindings
from orch_analysis.tables import CONTROLS
from orch_analysis.tables.study_tables import Results
from orch_core.formatting import duration, plural

Files = Mapping[str, tuple[str, ...]]


def study_page(found: StudyFindings, drawn: Drawn, files: Files) -> Page:
    """The page of a study: its sentences, figures and tables in order."""
    return Page(
        title=f"Does scaling pay? The study “{found.study.name}”",
        kicker="Scaling-law report",
        lead=study_sentences.lead(found),
        facts=_facts(found),
        answers=study_sentences.answers(found),
        sections=[
            _pretraining(found, drawn, files),
            _tasks(found, drawn, files),
            _slopes(found, drawn, files),
            *_benefits(found, drawn, files),
            _factors(found, drawn, files),
            Section(
                id="limits", title="Limitations", blocks=[Text(items=tuple(study_sentences.caveats(found)))]
            ),
            _grid(found, drawn, files),
            _provenance(found),
        ],
    )


def _facts(found: StudyFindings) -> list[tuple[str, str]]:
    runs, tasks = found.results.pretraining, found.results.probes["task"].n_unique()
    time = found.device_time
    sizes = runs.filter(~pl.col("algorithm").is_in(CONTROLS))["model"].n_unique()
    return [
        (f"{runs.height} of {found.cells.height}", "cells finished"),
        (f"{found.results.probes.height:,}", f"probes of {plural(tasks, 'task')}"),
        (str(found.results.ledger.height), "results left out"),
        (duration(time.total), f"device time ({duration(time.probes)} of it probes)"),
        (str(sizes), "encoder sizes"),
    ]


def _pretraining(found: StudyFindings, drawn: Drawn, files: Files) -> Section:
    text = (
        "Losses can be compared within an algorithm and a mix, not between algorithms. A slope along one "
        "axis is taken at fixed values of the others; bands are 95% intervals of the curve."
    )
    blocks: list[Block] = [
        Text(paragraphs=(text,)),
        *drawn.of("pretraining"),
        page_tables.loss_laws(found.loss, files["slopes"]),
        page_tables.joint_laws(found.joint, files["joint"]),
        page_tables.frontiers(found.frontiers),
    ]
    return Section(id="pretraining", title="Pretraining loss", blocks=blocks)


def _tasks(found: StudyFindings, drawn: Drawn, files: Files) -> Section:
    text = (
        "Scores are those of probes trained on frozen features. A larger encoder scores higher even without "
        "training, so every score is shown beside two controls: an untrained encoder of the same size, and a "
        "probe of the raw pixels."
    )
    blocks: list[Block] = [
        Text(paragraphs=(text,)),
        *drawn.of("tasks"),
        page_tables.scores(found.best, files["scores"]),
    ]
    return Section(id="tasks", title="Downstream tasks and controls", blocks=blocks)


def _slopes(found: StudyFindings, drawn: Drawn, files: Files) -> Section:
    blocks: list[Block] = [
        *drawn.of("slopes"),
        page_tables.task_laws(found.probes, found.mixes, files["slopes"]),
        page_tables.task_axes(found.probes, found.mixes, files["slopes"]),
        page_tables.contrasts(found.contrasts, files["contrasts"]),
        page_tables.protocols(found.protocols, files["protocols"]),
        page_tables.slopes([*found.loss, *found.probes], files["slopes"]),
    ]
    return Section(id="slopes", title="Downstream scaling", blocks=blocks)


def _benefits(found: StudyFindings, drawn: Drawn, files: Files) -> list[Section]:
    if found.benefits.pooled.is_empty():
        return []
    pooled, beside = files["benefits"], files["moderators"]
    return [benefit_section.benefit_section(found.benefits, "params_encoder", drawn, pooled, beside)]


def _factors(found: StudyFindings, drawn: Drawn, files: Files) -> Section:
    blocks: list[Block] = [
        Text(items=tuple(factor_sentences.factor_notes(found.correlations["auc"]))),
        *drawn.of("factors"),
        page_tables.factors(found.factors, files["factors"]),
        page_tables.correlations(
            found.correlations["auc"], files["correlations"], name="table-correlations", value="AUC"
        ),
        page_tables.correlations(
            found.correlations["error_ratio"], files["correlations"], name="table-correlations-relative",
            value="the error relative to the control", folded=True,
        ),
    ]  # fmt: skip
    return Section(id="factors", title="Task factors", blocks=blocks)


def _grid(found: StudyFindings, drawn: Drawn, files: Files) -> Section:
    results = found.results
    complete = Text(paragraphs=("The study contains a record of every planned cell and probe.",))
    blocks: list[Block] = [
        *drawn.of("grid"),
        page_tables.sizes(results.pretraining, results.probes, files["pretraining"]),
        page_tables.ledger(results.ledger, files["ledger"]) if results.ledger.height else complete,
    ]
    return Section(id="grid", title="Cells, cost and missing results", blocks=blocks)


def _provenance(found: StudyFindings) -> Section:
    root = found.study.root
    plan = found.study.plan()
    grid = found.study.grid_file
    records = found.results.pretraining.height + found.results.probes.height
    items = [f"Data: {records:,} records, blake2b {found.results.digest}."]
    if plan:
        items.append(f"Plan: {plan.get('plan', '')}; grid {Path(str(plan.get('grid', 'grid.yaml'))).name}.")
    items += [_part(name, counts) for name, counts in found.results.provenance.items()]
    if span := _span(found.results):
        items.append(span)
    items.append(
        "Fits are saved in laws.json. Power laws are fitted by least squares on logarithms, with exact t "
        f"intervals. Commands: orch plan, orch launch, orch fit-laws {root.name}."
    )
    blocks: list[Block] = [Text(items=tuple(items))]
    if grid.exists():
        blocks.append(Text(code=grid.read_text(encoding="utf-8", errors="replace"), title="The grid file"))
    return Section(id="provenance", title="Provenance", blocks=blocks)


def _part(name: str, counts: Mapping[str, int]) -> str:
    shown = []
    for text, count in list(counts.items())[:4]:
        value = json.loads(text)
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items() if item not in ("", None, []))
        shown.append(f"{value} ({plural(count, 'record')})")
    more = f"; and {len(counts) - 4} more" if len(counts) > 4 else ""
    return f"{name.capitalize()}: {'; '.join(shown)}{more}."


def _span(found: Results) -> str:
    runs = found.pretraining
    if not {"started", "ended"} <= set(runs.columns) or not runs["started"].count():
        return ""
    seconds = (runs["started"].drop_nulls().sort()[0], runs["ended"].drop_nulls().sort()[-1])
    first, last = (datetime.fromtimestamp(value, UTC) for value in seconds)
    return f"Ran from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC."
