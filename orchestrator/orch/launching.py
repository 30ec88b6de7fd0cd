"""From a study or a grid to a launch, and the mirror brought up to date at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from orch import cluster as clusters
from orch.console import say
from orch.plan import find_study, make_plan, read_plan
from orch_core.errors import OrchError
from orch_core.study import Study


def launch_study(
    target: Path | None, cluster: Literal["local", "debug", "slurm"], parallel: int | None
) -> clusters.Summary:
    """Launch what is missing of a study, or of the grid that `target` is; raises OrchError before anything runs."""
    if target is not None and target.is_file():
        plan, study = make_plan(target)
    else:
        study = find_study(target)
        plan = read_plan(study)
    if plan.absent:
        message = f"{plan.study} cannot be launched here: not on this machine: {', '.join(plan.absent)}"
        raise OrchError(message, hint="bring the files to the paths that the grid gives, then plan again")
    settings = clusters.Settings(cluster=cluster, parallel=parallel or 0)
    summary = clusters.launch(study, list(plan.jobs()), settings)
    _mirror(study)
    say(f"{summary.done} cells done, {summary.failed} failed, {summary.remaining} left")
    for failure in summary.failures[:10]:
        say(
            f"failed: {failure.name} {failure.task}: {failure.cause}: {failure.message} ({study.root / failure.log})"
        )
    if not summary.remaining and not summary.failed:
        say("next: orch fit-laws")
    return summary


def _mirror(study: Study) -> None:
    from orch.track import sync

    try:
        sync(study)
    except OrchError as error:  # the records are safe; the mirror can be made at any time
        say(f"warning: not mirrored into MLflow: {error.message}; `orch sync` tries again")
