"""`orch plan`, `calibrate`, `suggest`, `map`, `schema`: the commands before a launch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import orch
from orch.cli.arguments import AS_JSON, FOLDER, POSITIVE, STUDY, WHOLE, options_of, show
from orch.console import emit

if TYPE_CHECKING:
    from orch import PlanOptions, SuggestOptions


def _target(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> dict[str, float] | None:
    from orch_analysis.design.precision import read_target

    return None if text is None else read_target(text)


@click.command()
@click.argument("grid", type=FOLDER)
@click.option("--study", type=FOLDER, help="Put the study into this folder instead of studies/NAME.")
@click.option(
    "--diff",
    "against",
    is_flag=False,
    flag_value="",
    metavar="[STUDY|PLAN]",
    help="Only show what changes against the study's last plan, or against another study or plan.",
)
@click.option(
    "--data",
    type=FOLDER,
    help="Look for named tasks (`task: pathmnist`) in this folder first, then in ORCH_DATA and ~/.medmnist.",
)
@click.option(
    "--pilot", type=FOLDER, help="Take the expected laws from the fits of this study, not from publications."
)
@click.option(
    "--target",
    callback=_target,
    help="Predict the loss at this point, such as params=1e9,samples=1e8, not 4x beyond the grid.",
)
@click.option(
    "--budget-gpu-hours", "gpu_hours", type=POSITIVE, help="Limit the study to this many GPU-hours."
)
@click.option("--budget-usd", "usd", type=POSITIVE, help="Limit the study to this price in US dollars.")
@AS_JSON
@options_of("orch", "PlanOptions")
def plan(grid: Path, study: Path | None, *, options: PlanOptions, as_json: bool) -> None:
    """Check a grid, price its cells and save the plan.

    The plan lists every cell with its cost and estimates how precisely the grid can fit its laws.

    Example: orch plan experiments/demo.yaml
    """
    show(orch.plan(grid, study, options), as_json=as_json)


@click.command()
@click.argument("grid", type=FOLDER, required=False)
@AS_JSON
def calibrate(grid: Path | None, *, as_json: bool) -> None:
    """Measure how fast this machine trains and probes.

    Later plans for this machine's device use the measured speeds. With GRID, the recipes and model shapes of
    its cells are measured, otherwise a small ladder of models.

    Example: orch calibrate experiments/demo.yaml
    """
    show(orch.calibrate(grid), as_json=as_json)


@click.command()
@STUDY
@click.option(
    "--target",
    required=True,
    callback=_target,
    help="Name the point to predict the loss at, such as params=1e9,samples=1e8.",
)
@click.option("--budget", required=True, type=POSITIVE, help="Spend at most this many device-hours.")
@click.option(
    "--rounds",
    type=WHOLE,
    default=1,
    show_default=True,
    help="Plan for the whole budget and write the first of this many parts.",
)
@click.option("--task", help="Predict the AUC of this task instead of the held-out loss.")
@click.option(
    "--compare",
    is_flag=True,
    help="Also print the precision expected from random, cheapest and largest cells for the same hours.",
)
@click.option("--algorithm", help="Only suggest cells of this recipe, such as mae@1.")
@click.option("--mix", help="Only suggest cells of this mix.")
@click.option(
    "--out", type=FOLDER, default="next.yaml", show_default=True, help="Write the grid into this file."
)
@AS_JSON
@options_of("orch", "SuggestOptions")
def suggest(study: Path | None, out: Path, *, options: SuggestOptions, as_json: bool) -> None:
    """Write a grid of the most informative cells to run next.

    These are the cells that most reduce the expected error of a forecast at the target. The forecast is a
    power law plus a smooth deviation from it, so large cells near the target are worth their price.

    Example: orch suggest studies/demo --target params=1e7,samples=1e5 --budget 2
    """
    show(orch.suggest(options, study, out), as_json=as_json)


@click.command("map")
@STUDY
@click.option("--page", type=FOLDER, help="Also write the map with pictures into this HTML file.")
@AS_JSON
def coverage_map(study: Path | None, page: Path | None, *, as_json: bool) -> None:
    """Show the sizes that a study covers, and its hours by axis.

    The map has model sizes in rows and data sizes in columns, and marks what is done, planned or failed.

    Example: orch map studies/demo --page map.html
    """
    made = orch.coverage(study)
    if page:
        made.write_page(page)
    show(made, as_json=as_json)


@click.command()
@AS_JSON
def schema(*, as_json: bool) -> None:  # noqa: ARG001 - the schema is JSON either way
    """Print the JSON schema of a grid for editors.

    Example: orch schema > grid.schema.json
    """
    from orch_core.grid.language import Grid

    emit({"$schema": "https://json-schema.org/draft/2020-12/schema", **Grid.model_json_schema()})


COMMANDS = (plan, calibrate, suggest, coverage_map, schema)
