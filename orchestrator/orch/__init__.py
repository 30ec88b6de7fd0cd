"""orch: plan, launch and fit scaling-law studies of self-supervised vision models.

Every function here is the command of the same name. It takes paths as text or `Path`, and returns what the
command prints: `print` displays it, and `to_json` contains its numbers. The default study is the one planned
                last in
the working directory. Laws, fits and reports are in `orch_analysis`.

Where the code is: `cli` (the commands), `planning`, `launching`, `tracking` (MLflow), `datasets` (packs),
                   `fit_laws`, `cell_comparison`, `exporting` and
`compute_optimal` (the commands around `orch_analysis`), `doctor`, `demo`, `console` (output and exit codes).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orch.cell_comparison import CellComparison
    from orch.cell_comparison import CompareOptions as CompareOptions
    from orch.exporting import Exported
    from orch.launching.cell_report import CellReport
    from orch.launching.operations import Cancelled
    from orch.launching.settings import LaunchOptions as LaunchOptions
    from orch.launching.settings import Where
    from orch.launching.status import Status
    from orch.launching.waiting import Summary
    from orch.planning.map import StudyMap
    from orch.planning.planner import Comparison, NewPlan
    from orch.planning.planner import PlanOptions as PlanOptions
    from orch.planning.speed import Calibrated
    from orch.planning.suggest import Suggestion
    from orch.planning.suggest import SuggestOptions as SuggestOptions
    from orch.tracking.track import SyncSummary
    from orch_core.grid.resources import ResourceClass as ResourceClass
    from orch_core.study.folder import Study
else:
    from orch_core.lazy import public

    __getattr__ = public(
        __name__,
        {
            "orch.cell_comparison": "CompareOptions",
            "orch.planning.planner": "PlanOptions",
            "orch.planning.suggest": "SuggestOptions",
            "orch.launching.settings": "LaunchOptions",
            "orch_core.grid.resources": "ResourceClass",
        },
    )[1]

__all__ = [
    "CompareOptions",
    "LaunchOptions",
    "PlanOptions",
    "ResourceClass",
    "SuggestOptions",
    "calibrate",
    "cancel",
    "compare",
    "coverage",
    "export",
    "launch",
    "open_study",
    "plan",
    "retry",
    "status",
    "suggest",
    "sync",
    "why",
]


def open_study(study: str | Path | None = None) -> Study:
    """The study in a folder, or of a grid that was planned, or the one planned last in this directory.

    Raises OrchError if there is no such study.
    """
    from orch.studies import find_study

    return find_study(None if study is None else Path(study))


def plan(
    grid: str | Path, study: str | Path | None = None, options: PlanOptions | None = None
) -> NewPlan | Comparison:
    """Check a grid, price its cells, and save the plan into `study` (default: studies/NAME).

    With `options.against`, compare with an older plan and save nothing. Raises GridError for mistakes in the
    grid, each with its line and column, and OrchError for anything else that is wrong.
    """
    from orch.planning.planner import PlanOptions, plan_grid

    return plan_grid(Path(grid), None if study is None else Path(study), options or PlanOptions())


def calibrate(grid: str | Path | None = None) -> Calibrated:
    """Measure how fast this machine trains and probes the cells of a grid, or a small ladder of models."""
    from orch.planning import speed

    return speed.calibrate(None if grid is None else Path(grid))


def suggest(
    options: SuggestOptions, study: str | Path | None = None, out: str | Path = "next.yaml"
) -> Suggestion:
    """Write a grid of the cells that most reduce the uncertainty at a target per device-hour into `out`."""
    from orch.planning import suggest as planner

    return planner.suggest(open_study(study), Path(out), options)


def coverage(study: str | Path | None = None) -> StudyMap:
    """The sizes that a study covers, and its hours by axis (`orch map`)."""
    from orch.planning.map import study_map

    return study_map(open_study(study))


def launch(target: str | Path | None = None, options: LaunchOptions | None = None) -> Summary:
    """Run the missing cells and probes of a study, a grid (planned first) or a plan file.

    Raises OrchError before anything runs; a failed cell gets a record with its reason, and is counted in the
    summary.
    """
    from orch.launchable import launchable
    from orch.launching.launch import launch_study
    from orch.launching.settings import LaunchOptions

    options = options or LaunchOptions()
    return launch_study(*launchable(None if target is None else Path(target), options), options)


def status(study: str | Path | None = None, axis: str = "algorithm x model") -> Status:
    """The numbers of done, running, pending and failed cells of a study, per value of `axis`."""
    from orch.launching.status import statuses

    return next(statuses(open_study(study), axis, watch=False))


def cancel(study: str | Path | None = None, cells: Sequence[str] = (), *, dropped: bool = False) -> Cancelled:
    """Stop a study's workers, or only the cells with a name, an id or an expression such as `mix == 'ct'`.

    dropped: only running cells that are no longer in the plan
    """
    from orch.launching import operations

    return operations.cancel(open_study(study), cells, dropped=dropped)


def retry(study: str | Path | None = None, cause: str = "", cluster: Where = "local") -> Summary:
    """Launch the cells that failed (with `cause`, if it is given) again from their last checkpoint."""
    from orch.launching import operations

    return operations.retry(open_study(study), cause, cluster)


def why(cell: str, study: str | Path | None = None) -> CellReport:
    """The origin of a cell's numbers: configuration, attempts, cost, code state and the end of its log.

    cell: its name, or the beginning of its id
    """
    from orch.launching import cell_report, operations

    opened = open_study(study)
    return cell_report.report(opened, operations.find_cell(opened, cell))


def compare(
    first: str, second: str, study: str | Path | None = None, options: CompareOptions | None = None
) -> CellComparison:
    """The differences between two cells of a study on the test images of every probe that both have.

    first, second: names of cells, or the beginnings of their ids. Raises OrchError if they share no such
    probe.
    """
    from orch.cell_comparison import CompareOptions, compare_cells
    from orch.launching.operations import find_cell

    opened = open_study(study)
    cells = (find_cell(opened, first), find_cell(opened, second))
    return compare_cells(opened, *cells, options or CompareOptions())


def export(cell: str, out: str | Path, study: str | Path | None = None) -> Exported:
    """Write a cell's encoder into a new folder from which timm loads it, with a model card.

    cell: its name, or the beginning of its id
    """
    from orch.exporting import export_cell
    from orch.launching.operations import find_cell

    opened = open_study(study)
    return export_cell(opened, find_cell(opened, cell), Path(out))


def sync(study: str | Path | None = None, tracking_uri: str | None = None) -> SyncSummary:
    """Mirror a study's records into its MLflow database, or into another MLflow server or database."""
    from orch.tracking.track import sync as mirror

    return mirror(open_study(study), tracking_uri)
