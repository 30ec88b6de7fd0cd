"""`orch demo`: a whole study on this machine, from the shipped images to a report."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import orch
from orch.console import say
from orch_core.errors import OrchError
from orch_core.formatting import duration

EXPERIMENTS = Path(orch.__file__).parents[2] / "experiments"


def run_demo(folder: Path) -> int:
    """Copy the demo's grid and images into `folder`, then plan, launch, sync and fit-laws; the exit code of the launch.

    Raises OrchError where the shipped experiments are not beside the package, or `folder` cannot be written.
    """
    from orch.launching.launch import Wishes as Launch
    from orch.launching.launch import launch_study
    from orch.planning.command import Wishes, planned
    from orch.studies import find_study
    from orch_analysis.reports import report_study

    started = time.monotonic()
    grid = _copy(folder)
    say(f"$ orch plan {grid}")
    made = planned(grid, None, Wishes())
    say(made.text)
    study = find_study(None)
    say("\n$ orch launch --cluster local")
    summary = launch_study(study.root, Launch())
    if summary.exit_code or summary.remaining:
        return summary.exit_code
    say("\n$ orch fit-laws")
    report = report_study(study.root)
    say(f"\nreport: {report} ({duration((time.monotonic() - started) / 3600)} from grid to report)")
    say("what to try next:")
    say("  orch ui                                   browse the runs in MLflow")
    say("  orch plan experiments/small-study.yaml    a study that shows real scaling, within the hour")
    say("  orch fit-laws experiments/published/biovfm.csv    the published study's 24 slopes, with intervals")
    return summary.exit_code


def _copy(folder: Path) -> Path:
    if not (EXPERIMENTS / "demo.yaml").exists():
        message = f"the demo's grid and images are not at {EXPERIMENTS}"
        raise OrchError(message, hint="run it from a clone of the repository, installed with `make demo`")
    try:
        shutil.copytree(
            EXPERIMENTS / "images",
            folder / "images",
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("*.py"),
        )
        return Path(shutil.copy(EXPERIMENTS / "demo.yaml", folder / "demo.yaml"))
    except OSError as error:
        message = f"cannot copy the demo into {folder}: {error.strerror or error}"
        raise OrchError(message, hint="run it in a folder that you can write, with 1 GB free") from error
