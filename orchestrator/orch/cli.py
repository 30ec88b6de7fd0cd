"""The command line: verbs only. Each imports what it needs inside, so that `orch --help` answers at once."""

from __future__ import annotations

from pathlib import Path

import click

from orch.console import Commands, emit

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
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
@AS_JSON
def plan(grid: Path, study: Path | None, *, as_json: bool) -> None:
    """Check a grid, enumerate and price its cells, and write the plan into the study.

    Example: orch plan experiments/demo.yaml
    """
    from orch.plan import make_plan, summary
    from orch.plan_text import render

    made, opened = make_plan(grid, study)
    if as_json:
        emit({**summary(made), "root": str(opened.root), "frame": made.frame.drop("data").to_dicts()})
    else:
        click.echo(render(made, opened.root))


@main.command()
@AS_JSON
def schema(*, as_json: bool) -> None:  # noqa: ARG001 - the schema is JSON either way
    """Print the JSON schema of a grid, for editors.

    Example: orch schema > grid.schema.json
    """
    from orch_core.grid import Grid

    emit({"$schema": "https://json-schema.org/draft/2020-12/schema", **Grid.model_json_schema()})
