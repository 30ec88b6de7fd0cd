"""The command line: verbs only. Each imports what it needs inside, so that `orch --help` answers at once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from orch.console import Commands, Exit, emit, say, share

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
Where = Literal["local", "debug", "slurm"]
WHOLE = click.IntRange(min=1)
POSITIVE = click.FloatRange(min=0, min_open=True)
FOLDER = click.Path(path_type=Path)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="orch-scaling", prog_name="orch")
def main() -> None:
    """Plan, launch and fit scaling-law studies of self-supervised vision models.

    A whole study: orch plan grid.yaml, orch launch --cluster slurm, orch fit-laws.
    """


@main.command()
@click.argument("grid", type=FOLDER)
@click.option("--study", type=FOLDER, help="Folder of the study; default: studies/NAME.")
@click.option(
    "--diff",
    "against",
    is_flag=False,
    flag_value="",
    metavar="[STUDY|PLAN]",
    help="Only show what changes against the study's last plan, or another study or plan.",
)
@click.option(
    "--pilot", type=FOLDER, help="Study whose fits say what to expect; default: published exponents."
)
@click.option(
    "--target", help="Where to predict the loss: params=1e9,samples=1e8; default: 4x beyond the grid."
)
@click.option(
    "--budget-gpu-hours", "gpu_hours", type=click.FloatRange(min=0, min_open=True), help="Limit in GPU-hours."
)
@click.option("--budget-usd", "usd", type=click.FloatRange(min=0, min_open=True), help="Limit in USD.")
@AS_JSON
def plan(grid: Path, study: Path | None, *, as_json: bool, **wishes: Any) -> None:
    """Check a grid, enumerate and price its cells, say what they will tell, and write the plan into the study.

    Example: orch plan experiments/demo.yaml
    """
    from orch.planning.command import Wishes, planned

    made = planned(grid, study, Wishes(**wishes))
    if as_json:
        emit(made.to_json())
    else:
        click.echo(made.text)


@main.command()
@click.argument("grid", type=FOLDER, required=False)
@AS_JSON
def calibrate(grid: Path | None, *, as_json: bool) -> None:
    """Measure how fast this machine trains and probes; plans for its device use it from then on.

    With GRID the recipes and shapes of its cells, else a small ladder. Example: orch calibrate experiments/demo.yaml
    """
    from orch.planning.calibrate import calibrate_for

    document, text = calibrate_for(grid)
    if as_json:
        emit(document)
    else:
        click.echo(text)


@main.command()
@click.argument("study", type=FOLDER, required=False)
@click.option("--target", required=True, help="Where the loss is to be known: params=1e9,samples=1e8.")
@click.option(
    "--budget", required=True, type=click.FloatRange(min=0, min_open=True), help="Device-hours to spend."
)
@click.option("--algorithm", help="Only this recipe, such as mae@1.")
@click.option("--mix", help="Only this mix.")
@click.option("--out", type=FOLDER, default="next.yaml", show_default=True, help="Grid to write.")
@AS_JSON
def suggest(study: Path | None, target: str, budget: float, out: Path, *, as_json: bool, **only: Any) -> None:
    """Write a grid of the cells to run next: those that tell most about the target for their price.

    Example: orch suggest studies/demo --target params=1e7,samples=1e5 --budget 2
    """
    from orch.planning.suggest import suggest_for

    document, text = suggest_for(study, target, budget, out, **only)
    if as_json:
        emit(document)
    else:
        click.echo(text)


@main.command(name="map")
@click.argument("study", type=FOLDER, required=False)
@click.option("--page", type=FOLDER, help="Write the map as an HTML file too, with pictures.")
@AS_JSON
def coverage_map(study: Path | None, page: Path | None, *, as_json: bool) -> None:
    """Map a study: sizes x data sizes that are done, planned or failed, and where the hours go.

    Example: orch map studies/demo --page map.html
    """
    from orch.planning.map import costs, coverage, failed_cells, render
    from orch.planning.map_page import write_page
    from orch.planning.plan import read_plan
    from orch.studies import find_study

    opened = find_study(study)
    made, failed = read_plan(opened), failed_cells(opened)
    if page:
        write_page(made, failed, page)
    if as_json:
        emit({"study": made.study, "cells": coverage(made, failed), "hours": costs(made)})
    else:
        click.echo(render(made, failed))


@main.command()
@AS_JSON
def schema(*, as_json: bool) -> None:  # noqa: ARG001 - the schema is JSON either way
    """Print the JSON schema of a grid, for editors.

    Example: orch schema > grid.schema.json
    """
    from orch_core.grid.language import Grid

    emit({"$schema": "https://json-schema.org/draft/2020-12/schema", **Grid.model_json_schema()})


@main.command()
@click.argument("target", type=FOLDER, required=False)
@click.option("--cluster", type=click.Choice(["local", "debug", "slurm"]), default="local", show_default=True)
@click.option("--parallel", "--max-parallel", type=WHOLE, help="Workers at once; default: one a core or GPU.")
@click.option("--partition", help="Slurm: sbatch's option; these win over the grid's `cluster:`.")
@click.option("--account", help="Slurm: sbatch's option.")
@click.option("--qos", help="Slurm: sbatch's option.")
@click.option("--gpus-per-node", type=click.IntRange(min=0), help="Slurm: sbatch's option.")
@click.option("--nodes", type=WHOLE, help="Slurm: sbatch's option.")
@click.option("--time", help="Slurm: sbatch's option; a worker that runs out of it saves and goes on.")
@click.option("--sbatch", multiple=True, metavar="NAME=VALUE", help="Slurm: any other option of sbatch.")
@click.option("--max-gpu-hours", type=POSITIVE, help="Stop, and save, when the launch has spent this much.")
@click.option(
    "--dry-run", is_flag=True, help="Slurm: print the sbatch scripts and their cost; submit nothing."
)
@click.option(
    "--wait/--no-wait", default=True, help="Stay until all is done (default), or leave the workers to it."
)
@AS_JSON
def launch(target: Path | None, *, dry_run: bool, as_json: bool, **wishes: Any) -> None:
    """Run what is missing of a study: pretraining, then probes. TARGET is a study, a grid or a plan.

    Without TARGET: the study planned last in this directory. Example: orch launch --cluster local
    """
    from orch.launching.launch import launch_study, preview, script_page, wishes_of

    asked = wishes_of(**wishes)
    if dry_run:
        scripts = preview(target, asked)
        said = [asdict(script) for script in scripts]
        page = "\n".join(script_page(one) for one in scripts) or "nothing is left to launch"
        emit({"scripts": said}) if as_json else click.echo(page)
        return
    summary = launch_study(target, asked)
    if as_json:
        emit(summary.to_json())
    raise SystemExit(summary.exit_code)


@main.command()
@click.argument("study", type=FOLDER, required=False)
@click.option(
    "--axis", default="algorithm x model", show_default=True, help="Rows: model, mix, images, class, ..."
)
@click.option("--watch", is_flag=True, help="Show it anew every few seconds, until all is done or Ctrl-C.")
@AS_JSON
def status(study: Path | None, *, axis: str, watch: bool, as_json: bool) -> None:
    """Show what is done, running, pending and failed, and what is still to come.

    Example: orch status studies/demo --axis model
    """
    from orch.launching.progress import status_table
    from orch.launching.steering import statuses

    for now in statuses(study, axis, watch=watch):
        if watch and not as_json:
            click.clear()
        emit(now.to_json()) if as_json else click.echo(status_table(now))


@main.command()
@click.argument("study", type=FOLDER, required=False)
@click.option("--tracking-uri", help="MLflow server or database; default: mlflow.db in the study.")
@AS_JSON
def sync(study: Path | None, tracking_uri: str | None, *, as_json: bool) -> None:
    """Mirror the study into MLflow; safe to repeat.

    Example: orch sync
    """
    from orch.studies import find_study
    from orch.tracking.track import sync as mirror

    summary = mirror(find_study(study), tracking_uri)
    if as_json:
        emit(asdict(summary))
    else:
        click.echo(str(summary))


@main.command()
@click.argument("study", type=FOLDER, required=False)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(study: Path | None, port: int) -> None:
    """Serve the MLflow UI on the study's mirror, on this machine only, until Ctrl-C.

    Example: orch ui --port 5001
    """
    from orch.studies import find_study
    from orch.tracking.ui import ui as serve

    serve(find_study(study), port, tell=lambda address: say(f"MLflow UI: {address} (Ctrl-C stops it)"))


@main.command()
def demo() -> None:
    """Run a real scaling study on this machine in minutes: plan, launch, sync, fit-laws.

    Example: orch demo
    """
    from orch.demo import run_demo

    raise SystemExit(run_demo(Path("studies") / "demo-grid"))


@main.command()
@click.argument("study", type=FOLDER, required=False)
@AS_JSON
def doctor(study: Path | None, *, as_json: bool) -> None:
    """Check this machine, and STUDY if given: Python, torch, timm, Slurm, disk, MLflow.

    Example: orch doctor studies/demo
    """
    from orch.doctor import checks

    found = checks(study)
    if as_json:
        emit({"checks": [asdict(check) for check in found]})
    else:
        for check in found:
            click.echo(f"{check.status:8} {check.name:10} {check.message}")
            if check.remedy:
                click.echo(f"{'':19} -> {check.remedy}")
    raise SystemExit(Exit.FAILED_CELLS if any(check.status == "error" for check in found) else Exit.OK)


@main.group(cls=Commands)
def data() -> None:
    """Pack images of any kind for pretraining, and look at what is in them.

    Example: orch data pack packs ct=scans/ && orch data stats packs
    """


@data.command("pack")
@click.argument("out", type=FOLDER)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--side", type=WHOLE, help="Reduce images to this shorter side, in pixels.")
@click.option(
    "--store", type=click.Choice(["keep", "raw", "jpeg"]), default="keep", show_default=True, help="Encoding."
)
@click.option(
    "--val", type=share, default="1%", show_default=True, help="Held out where a source has no val."
)
@click.option("--max-bad", type=share, default="1%", show_default=True, help="Unusable images of a source.")
@click.option("--workers", type=WHOLE, help="Processes; default: one for each core.")
@AS_JSON
def data_pack(out: Path, sources: tuple[str, ...], *, as_json: bool, **wishes: Any) -> None:
    """Pack SOURCEs into the folder OUT; run again after anything, it goes on where it stopped.

    SOURCE: PATH, MODALITY=PATH, or a YAML file; images, DICOM, NIfTI, npz, Parquet, WebDataset shards.

    Example: orch data pack packs x-ray=experiments/images/pneumonia.npz
    """
    from orch.data.packing import pack_sources, summary

    manifest = pack_sources(out, sources, **wishes)
    if as_json:
        emit(manifest.to_json())
    else:
        click.echo(summary(out, manifest))


@data.command("stats")
@click.argument("path", type=FOLDER)
@click.option("--page", type=FOLDER, help="HTML page to write; default: NAME-stats.html here.")
@click.option("--verify", is_flag=True, help="First read every pack and compare it with its hash.")
@AS_JSON
def data_stats(path: Path, page: Path | None, *, verify: bool, as_json: bool) -> None:
    """Count a pack folder or npz: splits, sizes, duplicates, groups on both sides; a page with thumbnails.

    Example: orch data stats experiments/images/blood.npz
    """
    from orch.data import stats

    if verify:
        stats.verify(path)
    written = page or Path(f"{path.resolve().name}-stats.html")
    found = stats.stats(path, written)
    emit(found.to_json()) if as_json else click.echo(stats.text(found))
    say(f"page: {written}")


@main.command("fit-laws")
@click.argument("words", nargs=-1, metavar="[STUDY|TABLE] [NAME=COLUMN]...")
@click.option(
    "--law", default="", help="A law's name, a Python file, or auto. Tables: power; studies: their report."
)
@click.option(
    "--map", "mapping", multiple=True, help="NAME=COLUMN ...: columns of value, params, samples, compute."
)
@click.option("--group-by", multiple=True, help="One fit per value; default: dataset, task, algorithm, mix.")
@click.option("--loss", type=click.Choice(["auto", "huber", "l2", "mse"]), default="auto", show_default=True)
@click.option(
    "--huber-delta", type=click.FloatRange(min=0, min_open=True), help="Default: scaled to the noise."
)
@click.option("--weights", help="Column of weights.")
@click.option("--stderr", help="Column of known standard errors of the values.")
@click.option("--cluster", help="Column of runs or seeds that points come from together.")
@click.option("--bootstrap", type=click.IntRange(min=0), default=1000, show_default=True)
@click.option(
    "--interval",
    type=click.Choice(["auto", "t", "percentile", "bca"]),
    default="auto",
    show_default=True,
    help="auto: percentile with a hundred points to spare, else t.",
)
@click.option("--level", type=share, default="95%", show_default=True, help="Of intervals and bands.")
@click.option("--ceiling", type=float, help="Best value of a metric that grows, for --law auto.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=FOLDER, help="Folder of the report; default: in the study, or TABLE-laws.")
@click.option("--tracking-uri", help="Fit the runs of an MLflow experiment instead.")
@click.option("--experiment", help="Its name; default: the study's.")
@AS_JSON
def fit_laws(words: tuple[str, ...], *, mapping: tuple[str, ...], as_json: bool, **wishes: Any) -> None:
    """Fit laws with honest intervals to a study or to any table of points, and write a report.

    Example: orch fit-laws points.csv --law chinchilla --map params=N samples=D value=loss
    """
    from orch.fit_laws import Wishes, target_and_mapping
    from orch.fit_laws import fit_laws as fit

    target, columns = target_and_mapping(words, mapping)
    fitted = fit(target, Wishes(mapping=columns, **wishes))
    emit(fitted.document) if as_json else click.echo(fitted.text)
    raise SystemExit(fitted.exit_code)


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("--params", type=float, help="Parameters of the model.")
@click.option("--samples", type=float, help="Training samples.")
@click.option("--at", multiple=True, help="NAME=NUMBER: any other variable of the laws.")
@AS_JSON
def predict(
    folder: Path, params: float | None, samples: float | None, at: tuple[str, ...], *, as_json: bool
) -> None:
    """Predict with the laws that fit-laws wrote into FOLDER, with bands.

    Example: orch predict points-laws --params 1e9 --samples 2e10
    """
    from orch.fit_laws import numbers
    from orch.fit_laws import predict as predicted

    given = {"params": params, "samples": samples}
    said = predicted(folder, numbers(at) | {name: v for name, v in given.items() if v is not None})
    emit(said.document) if as_json else click.echo(said.text)


@main.command()
@click.argument("words", nargs=-1, metavar="[STUDY|TABLE] [NAME=COLUMN]...")
@click.option(
    "--map", "mapping", multiple=True, help="NAME=COLUMN ...: value, params, samples, compute, run."
)
@click.option("--group-by", multiple=True, help="One frontier per value; studies: algorithm and mix.")
@click.option("--flops", type=POSITIVE, help="A budget in FLOPs: what it buys.")
@click.option("--gpu-hours", type=POSITIVE, help="A budget in GPU-hours, at --flops-per-gpu-hour.")
@click.option("--flops-per-gpu-hour", "rate", type=POSITIVE, help="What a GPU-hour achieves (not its peak).")
@AS_JSON
def frontier(words: tuple[str, ...], *, mapping: tuple[str, ...], as_json: bool, **wishes: Any) -> None:
    """Show the compute-optimal size and data by three approaches, and what a budget buys.

    Example: orch frontier points.csv --map params=N compute=C value=loss --flops 1e21
    """
    from orch.compute_optimal import budget
    from orch.compute_optimal import frontier as found
    from orch.fit_laws import target_and_mapping

    target, columns = target_and_mapping(words, mapping)
    flops = budget(wishes["flops"], wishes["gpu_hours"], wishes["rate"])
    said = found(target, columns, wishes["group_by"], flops)
    emit(said.document) if as_json else click.echo(said.text)
    raise SystemExit(said.exit_code)


@main.command()
@click.argument("study", type=FOLDER, required=False)
@click.option("--cells", multiple=True, metavar="CELL|EXPR", help="Only these: names, ids, or `mix == 'ct'`.")
@click.option("--dropped", is_flag=True, help="Only cells that run although the plan holds them no more.")
@AS_JSON
def cancel(study: Path | None, *, cells: tuple[str, ...], dropped: bool, as_json: bool) -> None:
    """Stop a study's workers, or some cells: what runs saves first, and nothing comes back by itself.

    Example: orch cancel --cells "model == 'ViT-L'"
    """
    from orch.launching.steering import cancelled

    done = cancelled(study, cells, dropped=dropped)
    said = (
        f"{done.launches} launches, {done.cells} cells, {done.workers} workers here told to stop. {done.note}"
    )
    emit(asdict(done)) if as_json else click.echo(said.rstrip())


@main.command()
@click.argument("study", type=FOLDER, required=False)
@click.option("--cause", default="", help="Only cells that failed so: out_of_memory, killed, ...")
@click.option("--cluster", type=click.Choice(["local", "debug", "slurm"]), default="local", show_default=True)
@AS_JSON
def retry(study: Path | None, *, cause: str, cluster: Where, as_json: bool) -> None:
    """Try failed cells again, from what they had saved.

    Example: orch retry --cause killed
    """
    from orch.launching.steering import retried

    summary = retried(study, cause, cluster)
    if as_json:
        emit(summary.to_json())
    raise SystemExit(summary.exit_code)


@main.command()
@click.argument("cell")
@click.option("--study", type=FOLDER, help="Default: the study planned last in this directory.")
def logs(cell: str, *, study: Path | None) -> None:
    """Print the log of a cell's newest attempt. CELL is its name or the beginning of its id.

    Example: orch logs mae-w64-all-2000-s0
    """
    from orch.launching.operations import find_cell, log_path
    from orch.studies import find_study

    opened = find_study(study)
    path = log_path(opened, find_cell(opened, cell))
    click.echo(path.read_text(encoding="utf-8", errors="replace"), nl=False)


@main.command()
@click.argument("cell")
@click.option("--study", type=FOLDER, help="Default: the study planned last in this directory.")
@AS_JSON
def why(cell: str, *, study: Path | None, as_json: bool) -> None:
    """Say what stands behind a cell's numbers: config, attempts, nodes, cost, code state, the log's end.

    Example: orch why mae-w64-all-2000-s0
    """
    from orch.launching.operations import find_cell
    from orch.launching.operations import why as reasons
    from orch.launching.steering import why_page
    from orch.studies import find_study

    opened = find_study(study)
    found = reasons(opened, find_cell(opened, cell))
    emit(found.to_json()) if as_json else click.echo(why_page(found))
