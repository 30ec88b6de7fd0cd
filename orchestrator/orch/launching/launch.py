"""From a study, a grid or a plan to a launch, and the mirror brought up to date at its end."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from orch.budget import limits_of, release, reserve, spent_hours
from orch.console import say
from orch.launching import journal
from orch.launching import submit as clusters
from orch.launching.settings import ATTEMPTS, Settings, Summary
from orch.launching.slurm import Value
from orch.user_settings import user_cluster
from orch_core import provenance
from orch_core.errors import OrchError
from orch_core.formatting import quantity
from orch_core.grid.resources import DEFAULT, ResourceClass
from orch_core.study.folder import Study
from orch_core.study.plan import Plan

Where = Literal["local", "debug", "slurm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Options of `orch launch`: where, how many workers, Slurm's options (which win over the grid's), limits."""

    cluster: Where = "local"
    parallel: int | None = None
    options: Mapping[str, Value] = field(default_factory=dict)
    max_gpu_hours: float | None = None
    wait: bool = True


def wishes_of(
    *,
    cluster: Where,
    parallel: int | None,
    sbatch: tuple[str, ...],
    max_gpu_hours: float | None,
    wait: bool,
    **given: Any,
) -> Wishes:
    """Options of the command line as wishes; raises OrchError for an `--sbatch` without `=`."""
    bad = [word for word in sbatch if not all(word.partition("="))]
    if bad:
        message = f"--sbatch takes NAME=VALUE, got {bad[0]!r}"
        raise OrchError(message, hint="for example --sbatch constraint=a100")
    options: dict[str, Value] = {
        name.replace("_", "-"): value for name, value in given.items() if value is not None
    }
    options |= {name: value for name, _, value in (word.partition("=") for word in sbatch)}
    if options and cluster != "slurm":
        message = f"--{next(iter(options))} is an option of Slurm, and this launch is {cluster}"
        raise OrchError(message, hint="add --cluster slurm, or leave it out")
    return Wishes(cluster=cluster, parallel=parallel, options=options, max_gpu_hours=max_gpu_hours, wait=wait)


def launch_study(plan: Plan, study: Study, wishes: Wishes) -> Summary:
    """Launch what is missing of a study's plan; raises OrchError before anything runs.

    The plan's budget is reserved first, and refused beyond: the message names the cells that fall out.
    """
    settings = settings_of(plan, wishes)
    _check_training(wishes)
    limits = limits_of(plan)
    if limits.hours is not None:
        reserve(plan, study, limits)
    _say_cancelled(study)
    try:
        summary = clusters.launch(
            study,
            list(plan.jobs()),
            settings,
            wait=wishes.wait,
            overspent=lambda: limits.hours is not None and spent_hours(study) > limits.hours,
        )
    finally:
        if limits.hours is not None:
            release(study, plan.frame["id"].to_list())
    if wishes.wait:
        _mirror(study)
    _say_summary(study, summary)
    return summary


def preview(plan: Plan, study: Study, wishes: Wishes) -> tuple[clusters.Script, ...]:
    """The sbatch scripts that a launch on Slurm would submit; submits nothing."""
    return clusters.preview(study, list(plan.jobs()), settings_of(plan, wishes))


def script_page(script: clusters.Script) -> str:
    """One script of a dry run, under a line that says what it would run and cost."""
    hours = quantity(script.gpu_hours, "device-hours")
    return f"# {script.group}: {script.cells:,} cells, {script.workers:,} workers, {hours}\n{script.text}"


def _check_training(wishes: Wishes) -> None:
    missing = [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]
    if missing and wishes.cluster != "slurm":  # the nodes of a cluster may have what the login node has not
        message = f"this machine cannot train: {', '.join(missing)} not installed"
        raise OrchError(message, hint="pip install 'orch-scaling[train]'; `orch doctor` checks the rest")


def settings_of(plan: Plan, wishes: Wishes) -> Settings:
    """The grid's size classes as profiles, the command line's options over all of them, the user's file below.

    Raises GridError for a mistake in that file.
    """
    on_slurm = wishes.cluster == "slurm"
    cluster = plan.cluster.with_defaults(user_cluster()) if on_slurm else plan.cluster
    asked = ResourceClass.model_validate({"sbatch": dict(wishes.options)})
    classes = {name: asked.over(given) for name, given in cluster.resource_classes().items()}
    profiles = {name: given.options() for name, given in classes.items()}
    most = max(int(given.devices) for given in classes.values())
    return Settings(
        cluster=wishes.cluster,
        parallel=wishes.parallel or (cluster.parallel if on_slurm else None) or 0,
        attempts=cluster.max_attempts or ATTEMPTS,
        options=profiles.pop(DEFAULT) if on_slurm else {},
        profiles=profiles if on_slurm else {},
        cells_per_job={name: given.cells_per_job or 1 for name, given in classes.items()},
        gpus=max(1, min(most, len(provenance.gpus()))),
        max_gpu_hours=wishes.max_gpu_hours or 0,
    )


def _say_cancelled(study: Study) -> None:
    count = len(journal.cancelled_cells(study.root))
    if count:
        say(f"{count} cancelled cells stay so; `orch retry --cause cancelled` brings them back")


def _say_summary(study: Study, summary: Summary) -> None:
    say(f"{summary.done} cells done, {summary.failed} failed, {summary.remaining} left")
    causes = pl.DataFrame(
        {"cause": [failure.cause for failure in summary.failures]}, schema={"cause": pl.String}
    )
    for cause, count in causes.group_by("cause", maintain_order=True).len().iter_rows():
        first = next(failure for failure in summary.failures if failure.cause == cause)
        say(
            f"failed, {cause} ({count}): {first.name} {first.task}: {first.message} ({study.root / first.log})"
        )
    if summary.failed:
        say("next: mend the cause, then `orch retry`")
    elif not summary.remaining:
        say("next: orch fit-laws")


def _mirror(study: Study) -> None:
    from orch.tracking.track import sync

    try:
        sync(study)
    except OrchError as error:  # the records are safe; the mirror can be made at any time
        say(f"warning: not mirrored into MLflow: {error.message}; `orch sync` tries again")
