"""Maps of a study: the state of every model and data size, and hours by axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orch.answer import Answer
from orch_core.errors import OrchError
from orch_core.formatting import columns, duration, quantity
from orch_core.study.folder import Study
from orch_core.study.plan import Plan, hours_left, read_plan
from orch_core.study.summary import summary

BAR = 30  # characters of the longest bar
AXES = ("recipe", "model", "images", "mix", "seed")
LEGEND = "# done   + partly done or to probe   . planned   ! failed   (blank: not in the plan)"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyMap(Answer):
    """A study's plan with its state, and the ids of the cells whose last attempt failed."""

    plan: Plan
    failed: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        """Cells by recipe, mix, model and data size, and hours by axis, as one JSON document."""
        return {
            "study": self.plan.study,
            "cells": coverage(self.plan, self.failed),
            "hours": costs(self.plan),
        }

    @property
    def text(self) -> str:
        """The maps for the terminal."""
        return render(self.plan, self.failed)

    def write_page(self, path: Path) -> None:
        """Write the maps as one HTML file; raises OrchError if it cannot be written."""
        write_page(self.plan, self.failed, path)


def study_map(study: Study) -> StudyMap:
    """The map of a study; raises OrchError if the study has no plan."""
    failed = frozenset(record.cell for record in study.failures() if not record.task)
    return StudyMap(plan=read_plan(study), failed=failed)


def coverage(plan: Plan, failed: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Cells by recipe, mix, model and data size: `done`, `partial`, `failed`, `planned`, and their `mark`."""
    bad = pl.col("id").is_in(list(failed))
    state = pl.col("state")
    counts = plan.frame.group_by("recipe", "mix", "model", "images", maintain_order=True).agg(
        params=pl.col("params_encoder").first(),
        done=(state == "done").sum(),
        partial=(state == "partial").sum(),
        failed=((state == "new") & bad).sum(),
        planned=((state == "new") & ~bad).sum(),
    )
    return [{**row, "mark": _mark(row)} for row in counts.iter_rows(named=True)]


def _mark(row: Mapping[str, Any]) -> str:
    if row["failed"]:
        return "!"
    if row["partial"] or (row["done"] and row["planned"]):
        return "+"
    return "#" if row["done"] else "."


def costs(plan: Plan) -> dict[str, list[tuple[str, float, float]]]:
    """Hours by axis: for every value of it, hours still to come and hours of the whole plan."""
    left = hours_left(len(plan.probes)).filter(pl.col("state") != "done").sum()
    found = {}
    for axis in AXES:
        rows = plan.frame.group_by(axis, maintain_order=True).agg(left=left, whole=pl.col("hours_mid").sum())
        found[axis] = [(_name(axis, value), float(a), float(b)) for value, a, b in rows.iter_rows()]
    return found


def _name(axis: str, value: Any) -> str:
    if axis == "images":
        return quantity(value) if value else "none"
    return str(value) if value not in {None, ""} else "none"


def render(plan: Plan, failed: Iterable[str] = ()) -> str:
    """The maps of every recipe and mix, size down and data size across, and the hours by axis."""
    lines: list[str] = []
    cells = coverage(plan, failed)
    for recipe, mix in dict.fromkeys((cell["recipe"], cell["mix"]) for cell in cells):
        here = [cell for cell in cells if (cell["recipe"], cell["mix"]) == (recipe, mix)]
        lines += [f"{recipe} {mix}".rstrip(), _map(here), ""]
    lines += [LEGEND, ""]
    for axis, rows in costs(plan).items():
        if len(rows) > 1:
            lines += [f"hours by {axis} (to come / whole plan)", _bars(rows), ""]
    return "\n".join(lines).rstrip()


def _map(cells: list[dict[str, Any]]) -> str:
    sizes = sorted({cell["images"] for cell in cells})
    models = dict.fromkeys(
        cell["model"] for cell in sorted(cells, key=lambda cell: (cell["params"], str(cell["model"])))
    )
    marks = {(cell["model"], cell["images"]): f"{cell['mark']} {_count(cell)}" for cell in cells}
    head = ["  size \\ images", *(_name("images", size) for size in sizes)]
    rows = [
        [f"  {_name('model', model)}", *(marks.get((model, size), "") for size in sizes)] for model in models
    ]
    return columns([head, *rows], left=1)


def _count(cell: Mapping[str, Any]) -> str:
    whole = cell["done"] + cell["partial"] + cell["failed"] + cell["planned"]
    return f"{cell['done']}/{whole}"


def _bars(rows: list[tuple[str, float, float]]) -> str:
    most = max(whole for _, _, whole in rows) or 1.0
    table = []
    for name, left, whole in rows:
        length = round(BAR * whole / most)
        spent = length - min(length, round(BAR * left / most))
        table.append(
            [f"  {name}", "#" * spent + "." * (length - spent), f"{duration(left)} / {duration(whole)}"]
        )
    return columns(table, left=2)


def write_page(plan: Plan, failed: Iterable[str], path: Path) -> None:
    """Write the map of a plan as one HTML file; raises OrchError if it cannot be written."""
    from orch_analysis.figures.plan_maps import pictures
    from orch_analysis.reports.page import Page, Section, render
    from orch_analysis.tables.export import Table

    cells, numbers = coverage(plan, failed), summary(plan)
    states, unit = numbers.states, "core" if plan.device == "CPU" else plan.device
    whole = float(plan.frame["hours_mid"].sum())
    facts = [
        (f"{numbers.cells:,}", "cells"),
        (f"{states['done']:,}", "done"),
        (f"{sum(cell['failed'] for cell in cells):,}", "failed"),
        (f"{duration(numbers.hours_mid)}", f"to come, of one {unit}"),
        (f"{duration(whole)}", "the whole plan"),
    ]
    if numbers.usd is not None:
        facts.append((f"{numbers.usd:,.0f} USD", "to come"))
    rows = [
        (axis, name, duration(left), duration(all_), f"{100 * all_ / whole:.0f}%" if whole else "")
        for axis, values in costs(plan).items()
        for name, left, all_ in values
    ]
    table = Table(
        name="hours-table", title="Hours by axis.", note="To come, of the whole plan, and its share.",
        head=("axis", "value", "to come", "whole plan", "share"), rows=tuple(rows), words=2, folded=True,
    )  # fmt: skip
    drawn = pictures(cells, costs(plan))
    page = Page(
        title=plan.study,
        kicker="coverage of a study",
        lead=_lead(plan, numbers.hours_mid, numbers.flops_train),
        facts=facts,
        answers=(),
        sections=(
            Section(id="map-section", title="Coverage", blocks=drawn[:1]),
            Section(id="hours-section", title="Hours", blocks=(*drawn[1:], table)),
        ),
    )
    try:
        path.write_text(render(page), encoding="utf-8")
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise OrchError(message, hint="choose a writable path with --page") from error


def _lead(plan: Plan, hours: float, flops: float) -> str:
    left = f"{quantity(flops, 'FLOP')} are left to train" if flops else "Only probes are left"
    return f"{left}. Speed is {plan.rates}." if hours else "All that was planned is done."
