"""`orch demo`: run a whole study on this machine, from the shipped images to a report."""

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
    """Copy the demo's grid and images into `folder`, plan, launch and fit; returns the launch's exit code.

    Raises OrchError if the shipped experiments are missing or `folder` cannot be written.
    """
    from orch.launching.launch import launch_study
    from orch.launching.settings import LaunchOptions
    from orch.planning.planner import PlanOptions, plan_grid
    from orch.studies import find_study
    from orch_analysis.reports.study_report import report_study
    from orch_core.study.plan import read_plan

    started = time.monotonic()
    grid = _copy(folder)
    say(f"$ orch plan {grid}")
    made = plan_grid(grid, None, PlanOptions())
    say(made.text)
    study = find_study(None)
    say("\n$ orch launch --cluster local")
    summary = launch_study(read_plan(study), study, LaunchOptions())
    if summary.exit_code or summary.remaining:
        return summary.exit_code
    say("\n$ orch fit-laws")
    report = report_study(study.root)
    say(f"\nreport: {report} ({duration((time.monotonic() - started) / 3600)} from grid to report)")
    say("next, you can browse the runs in MLflow:")
    say("  orch ui")
    say("plan a study that shows real scaling and takes about half an hour:")
    say("  orch plan experiments/small-study.yaml")
    say("or fit the 24 slopes of the published study:")
    say("  orch fit-laws experiments/published/biovfm.csv")
    return summary.exit_code


def _copy(folder: Path) -> Path:
    if not (EXPERIMENTS / "demo.yaml").exists():
        message = f"the demo's grid and images are missing at {EXPERIMENTS}"
        raise OrchError(message, hint="clone the repository and run `make demo` there")
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
        raise OrchError(message, hint="run it in a writable folder with 1 GB free") from error
