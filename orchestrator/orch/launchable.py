"""The plan that `orch launch` runs, from its argument."""

from __future__ import annotations

from pathlib import Path

from orch.console import say
from orch.launching.settings import LaunchOptions, settings_of
from orch.planning.planner import make_plan
from orch.studies import find_study, study_of_grid
from orch_core.errors import OrchError
from orch_core.grid.pricing import repriced
from orch_core.study.folder import Study
from orch_core.study.plan import Plan, open_plan, read_plan


def launchable(target: Path | None, options: LaunchOptions) -> tuple[Plan, Study]:
    """The plan in a file, of a grid (planned first), or the last one of a study, and its study.

    On Slurm it is priced for the resources that the launch asks for. Raises OrchError if the plan needs files
    that are not on this machine, or if these resources cannot share its batch.
    """
    if target is not None and target.suffix == ".parquet":
        plan, study = open_plan(target)
    elif target is not None and target.is_file():
        found = study_of_grid(target)
        plan, study = make_plan(target, found.root if found else None)
        if found is None:
            say(f"planned {target} in the new study {study.root}")
    else:
        study = find_study(target)
        plan = read_plan(study)
    if plan.absent:
        message = f"{plan.study} cannot be launched here: {', '.join(plan.absent)} not on this machine"
        raise OrchError(message, hint="bring the files to the paths that the grid gives, then plan again")
    classes = settings_of(plan.cluster, options).classes
    return (repriced(plan, classes) if classes else plan), study
