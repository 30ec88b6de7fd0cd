"""The map of a study as a page: what is done and what is to come by size and data, and where the hours go."""

from __future__ import annotations

from pathlib import Path

from orch.planning.map import costs, coverage
from orch.planning.plan import Plan, summary
from orch_core.errors import OrchError
from orch_core.formatting import duration, quantity


def _lead(plan: Plan, hours: float, flops: float) -> str:
    left = f"{quantity(flops, 'FLOP')} are left to train" if flops else "Only probes are left"
    return f"{left}. Speed is {plan.rates}." if hours else "All that was planned is done."


def write_page(plan: Plan, failed: frozenset[str], path: Path) -> None:
    """Write the map of a plan as one HTML file; raises OrchError where it cannot be written."""
    from orch_analysis.figures.plan_maps import pictures
    from orch_analysis.reports.page import Page, Section, render
    from orch_analysis.tables.export import Table

    cells, numbers = coverage(plan, failed), summary(plan)
    states, unit = numbers["states"], "core" if plan.device == "CPU" else plan.device
    whole = float(plan.frame["hours_mid"].sum())
    facts = [
        (f"{numbers['cells']:,}", "cells"),
        (f"{states['done']:,}", "done"),
        (f"{sum(cell['failed'] for cell in cells):,}", "failed"),
        (f"{duration(numbers['hours_mid'])}", f"to come, of one {unit}"),
        (f"{duration(whole)}", "the whole plan"),
    ]
    if numbers["usd"] is not None:
        facts.append((f"{numbers['usd']:,.0f} USD", "to come"))
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
        lead=_lead(plan, numbers["hours_mid"], numbers["flops_train"]),
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
        raise OrchError(message, hint="give a writable path with --page") from error
