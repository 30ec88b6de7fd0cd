"""Commands that run a study and look at its cells: `orch launch`, `status`, `why`, `compare` and others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import orch
from orch.cli.arguments import (
    AS_JSON,
    CLUSTER,
    FOLDER,
    NATURAL,
    POSITIVE,
    STUDY,
    STUDY_OPTION,
    WHOLE,
    Where,
    options_of,
    show,
)

if TYPE_CHECKING:
    from orch import CompareOptions


@click.command()
@click.argument("target", type=FOLDER, required=False)
@CLUSTER
@click.option(
    "--parallel",
    "--max-parallel",
    type=WHOLE,
    help="Run this many workers at once; the default is one per GPU or core.",
)
@click.option("--partition", help="Pass this partition to sbatch; it overrides the grid's `cluster:`.")
@click.option("--account", help="Pass this account to sbatch.")
@click.option("--qos", help="Pass this quality of service to sbatch.")
@click.option("--gpus-per-node", type=NATURAL, help="Pass this number of GPUs per node to sbatch.")
@click.option("--nodes", type=WHOLE, help="Pass this number of nodes to sbatch.")
@click.option(
    "--time", help="Pass this time limit to sbatch; a worker saves before it ends and continues in a new job."
)
@click.option("--sbatch", multiple=True, metavar="NAME[=VALUE]", help="Pass any other option to sbatch.")
@click.option("--max-gpu-hours", type=POSITIVE, help="Save and stop once the launch has spent this much.")
@click.option("--dry-run", is_flag=True, help="Print the sbatch scripts and their cost, and submit nothing.")
@click.option(
    "--wait/--no-wait",
    default=True,
    help="Wait for completion (default), or return once workers have started.",
)
@AS_JSON
def launch(
    target: Path | None,
    *,
    cluster: Where,
    parallel: int | None,
    partition: str | None,
    account: str | None,
    qos: str | None,
    gpus_per_node: int | None,
    nodes: int | None,
    time: str | None,
    sbatch: tuple[str, ...],
    max_gpu_hours: float | None,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Run the missing cells and probes of a study.

    TARGET is a study, a grid or a plan; without it, the study planned last in this directory is launched.

    Example: orch launch --cluster local
    """
    from orch.launchable import launchable
    from orch.launching.launch import launch_study, preview
    from orch.launching.settings import LaunchOptions, resources_of

    named = {
        "partition": partition,
        "account": account,
        "qos": qos,
        "gpus-per-node": gpus_per_node,
        "nodes": nodes,
        "time": time,
    }
    options = LaunchOptions(
        cluster=cluster,
        parallel=parallel,
        resources=resources_of(named, sbatch),
        max_gpu_hours=max_gpu_hours,
        wait=wait,
    )
    plan, study = launchable(target, options)
    if dry_run:
        show(preview(plan, study, options), as_json=as_json)
    else:
        show(launch_study(plan, study, options), as_json=as_json)


@click.command()
@click.argument("target", type=FOLDER, required=False)
@click.option("--max-gpu-hours", type=POSITIVE, help="Save and stop once this worker has spent this much.")
@AS_JSON
def worker(target: Path | None, *, max_gpu_hours: float | None, as_json: bool) -> None:
    """Run cells of a study in this process until nothing is left.

    Any scheduler that runs a command on machines with a shared folder (Kubernetes, PBS, LSF) can start any
    number of workers: each cell is done by one of them. If a worker dies, the others take over its cell.
    SIGTERM saves and ends a worker.

    Example: orch worker studies/demo
    """
    from orch.launchable import launchable
    from orch.launching.launch import launch_study
    from orch.launching.settings import LaunchOptions

    options = LaunchOptions(cluster="worker", max_gpu_hours=max_gpu_hours)
    show(launch_study(*launchable(target, options), options), as_json=as_json)


@click.command()
@STUDY
@click.option(
    "--axis",
    default="algorithm x model",
    show_default=True,
    help="Show a row per value of this axis (model, mix, images, class, ...) or product of axes.",
)
@click.option("--watch", is_flag=True, help="Refresh every few seconds until nothing is left or Ctrl-C.")
@AS_JSON
def status(study: Path | None, *, axis: str, watch: bool, as_json: bool) -> None:
    """Show which cells are done, running, pending or failed.

    Example: orch status studies/demo --axis model
    """
    from orch.launching.status import statuses

    for now in statuses(orch.open_study(study), axis, watch=watch):
        if watch and not as_json:
            click.clear()
        show(now, as_json=as_json)


@click.command()
@STUDY
@click.option(
    "--cells",
    multiple=True,
    metavar="CELL|EXPR",
    help="Only cancel cells with this name or id, or that match an expression such as mix == 'ct'.",
)
@click.option("--dropped", is_flag=True, help="Only cancel running cells that are no longer in the plan.")
@AS_JSON
def cancel(study: Path | None, *, cells: tuple[str, ...], dropped: bool, as_json: bool) -> None:
    """Stop a study's workers, or only some of its cells.

    Running cells save their state first. Cancelled cells start again only after `orch retry --cause
    cancelled`.

    Example: orch cancel --cells "model == 'ViT-L'"
    """
    show(orch.cancel(study, cells, dropped=dropped), as_json=as_json)


@click.command()
@STUDY
@click.option(
    "--cause", default="", help="Only retry cells that failed with this cause, such as out_of_memory."
)
@CLUSTER
@AS_JSON
def retry(study: Path | None, *, cause: str, cluster: Where, as_json: bool) -> None:
    """Launch failed cells again from their last checkpoint.

    Example: orch retry --cause killed
    """
    show(orch.retry(study, cause, cluster), as_json=as_json)


@click.command()
@click.argument("cell")
@STUDY_OPTION
def logs(cell: str, *, study: Path | None) -> None:
    """Print the log of a cell's newest attempt.

    CELL is a cell's name or the beginning of its id.

    Example: orch logs mae-w64-all-2000-s0
    """
    from orch.launching.operations import find_cell, log_path

    opened = orch.open_study(study)
    path = log_path(opened, find_cell(opened, cell))
    click.echo(path.read_text(encoding="utf-8", errors="replace"), nl=False)


@click.command()
@click.argument("cell")
@STUDY_OPTION
@AS_JSON
def why(cell: str, *, study: Path | None, as_json: bool) -> None:
    """Show how a cell's numbers came about.

    The page shows the cell's configuration, attempts, nodes, cost, code state and the end of its log. CELL is
    a cell's name or the beginning of its id.

    Example: orch why mae-w64-all-2000-s0
    """
    show(orch.why(cell, study), as_json=as_json)


@click.command()
@click.argument("first")
@click.argument("second")
@click.option(
    "--metric", multiple=True, default=("auc", "accuracy"), show_default=True, help="Compare by this metric."
)
@click.option("--task", multiple=True, help="Compare on this task only.")
@STUDY_OPTION
@AS_JSON
@options_of("orch", "CompareOptions")
def compare(first: str, second: str, *, study: Path | None, options: CompareOptions, as_json: bool) -> None:
    """Compare two cells on the test images of every task.

    Differences are SECOND minus FIRST, with the 95% interval of a paired bootstrap. The AUC of a binary task
    also has DeLong's test, and the accuracy McNemar's. Both are names of cells or the beginnings of their
    ids.

    Example: orch compare random-w64-s0 mae-w64-all-2000-s0 --metric auc --metric f1
    """
    show(orch.compare(first, second, study, options), as_json=as_json)


@click.command()
@click.argument("cell")
@click.argument("out", type=FOLDER)
@STUDY_OPTION
@AS_JSON
def export(cell: str, out: Path, *, study: Path | None, as_json: bool) -> None:
    """Write a cell's encoder into a folder that timm loads.

    OUT is a new folder. It gets the configuration, the weights, the normalisation of images and a model card
    with the data, the recipe, the scores and the energy. CELL is a cell's name or the beginning of its id.

    Example: orch export mae-w64-all-2000-s0 exported
    """
    show(orch.export(cell, out, study), as_json=as_json)


COMMANDS = (launch, worker, status, cancel, retry, logs, why, compare, export)
