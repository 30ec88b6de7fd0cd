"""`orch status`, `cancel`, `retry` and `why`, from the words of the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orch.launching import journal, operations
from orch.launching.launch import launch_jobs
from orch.launching.settings import LaunchOptions, Where, settings_of
from orch.launching.status import Status, status
from orch.launching.waiting import Summary
from orch.studies import find_study
from orch_core.errors import OrchError
from orch_core.formatting import duration, quantity
from orch_core.grid.cells import rule_mask
from orch_core.grid.expression import axes_of, is_expression
from orch_core.study.folder import Study
from orch_core.study.plan import Plan, read_plan

WATCH_SECONDS = 5.0  # between two looks


def statuses(target: Path | None, axis: str, *, watch: bool) -> Iterator[Status]:
    """A study's status, with `watch` again and again until nothing is running or pending.

    Looking takes a tenth of the time at most. Raises OrchError for an unknown axis.
    """
    study = find_study(target)
    plan = read_plan(study)
    jobs, ids = list(plan.jobs()), plan.frame["id"].to_list()
    while True:
        began = time.monotonic()
        now = status(study, jobs, axis=axis, ids=ids)
        yield now
        if not watch or not now.total.running + now.total.pending:
            return
        time.sleep(max(WATCH_SECONDS, 10 * (time.monotonic() - began)))


def cancelled(target: Path | None, words: tuple[str, ...], *, dropped: bool) -> operations.Cancelled:
    """Cancel a study, or cells by name, id or expression; raises OrchError where a word means no cell."""
    study = find_study(target)
    plan = read_plan(study)
    cells = [cell for word in words for cell in _meant(study, plan, word)]
    if dropped:
        cells += operations.dropped(study, list(plan.jobs()))
        if not cells:
            return operations.Cancelled(
                launches=0, cells=0, workers=0, note="no cell runs that the plan does not hold"
            )
    return operations.cancel(study, cells)


def retried(target: Path | None, cause: str, where: Where) -> Summary:
    """Launch the failed cells again; raises OrchError where there is none of the cause."""
    study = find_study(target)
    plan = read_plan(study)
    failed = operations.failed_jobs(study, list(plan.jobs()), cause)
    if not failed:
        message = f"no cell of {study.name} has failed{f' with cause {cause!r}' if cause else ''}"
        raise OrchError(message, hint="`orch status` shows where the study stands")
    journal.revive_cells(study.root, [job.cell.id for job in failed])
    return launch_jobs(study, failed, settings_of(plan.cluster, LaunchOptions(cluster=where)))


def _meant(study: Study, plan: Plan, word: str) -> list[str]:
    if not is_expression(word):
        return [operations.find_cell(study, word)]
    axes_of(word)
    found: list[str] = plan.frame.filter(rule_mask(word))["id"].to_list()
    if not found:
        message = f"no cell of the plan is meant by {word!r}"
        raise OrchError(message, hint="quote values: mix == 'ct'; `orch map` shows the axes")
    return found


def why_page(why: operations.Why) -> str:
    """Everything behind one cell, for the terminal."""
    model = why.config.get("model") or {}
    lines = [f"{why.name}  {why.id}", f"{why.status}{': ' + why.reason if why.reason else ''}", ""]
    shape = f"width {model['width']} depth {model['depth']} heads {model['heads']}" if model else "no encoder"
    lines += [f"config    {why.config['recipe']} {shape}, {_data(why.config)}"]
    lines += [f"value     {name} {_shown(value)}" for name, value in why.values.items()]
    lines += [f"probe     {task} auc {_shown(values.get('auc'))}" for task, values in why.probes.items()]
    lines += [f"cost      {name} {_shown(value)}" for name, value in why.cost.items()]
    code = why.provenance.get("code", {})
    lines += [f"code      {name} {value}" for name, value in code.items()]
    for one in why.attempts:
        place = f"{one.owner.host} job {one.owner.job or one.owner.pid}" if one.owner else "unknown place"
        end = (
            f"{one.end.how} {one.end.cause} after {duration(one.end.seconds / 3600)}"
            if one.end
            else "running"
        )
        lines.append(f"attempt {one.number} on {place}: {end} ({one.log})")
    return "\n".join([*lines, *(["", why.log_tail] if why.log_tail else [])])


def _data(config: dict[str, Any]) -> str:
    portions = ", ".join(f"{portion['source']} {portion['images']:,}" for portion in config["data"])
    return f"{config['samples_seen']:,} samples of {portions or 'no images'}, seed {config['seed']}"


def _shown(value: object) -> str:
    return quantity(value) if isinstance(value, float | int) and abs(value) >= 1e4 else f"{value}"
