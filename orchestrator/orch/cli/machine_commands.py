"""`orch sync`, `ui`, `demo`, `doctor`, `completion`: MLflow, this machine and this shell."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from orch.cli.arguments import AS_JSON, STUDY, answer
from orch.console import Exit, emit, say


@click.command()
@STUDY
@click.option(
    "--tracking-uri", help="Mirror into this MLflow server or database, not into the study's mlflow.db."
)
@AS_JSON
def sync(study: Path | None, tracking_uri: str | None, *, as_json: bool) -> None:
    """Mirror a study's records into MLflow.

    Repeating the command only adds what has changed.

    Example: orch sync
    """
    from orch.studies import find_study
    from orch.tracking.track import sync as mirror

    summary = mirror(find_study(study), tracking_uri)
    answer(asdict(summary), str(summary), as_json=as_json)


@click.command()
@STUDY
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5000,
    show_default=True,
    help="Listen on this port of this machine.",
)
def ui(study: Path | None, port: int) -> None:
    """Serve the MLflow user interface for a study.

    It answers on this machine only, until Ctrl-C.

    Example: orch ui --port 5001
    """
    from orch.studies import find_study
    from orch.tracking.ui import ui as serve

    serve(find_study(study), port, tell=lambda address: say(f"MLflow UI: {address} (Ctrl-C stops it)"))


@click.command()
def demo() -> None:
    """Run a small real study on this machine in minutes.

    The demo plans, launches, mirrors and fits a study of the shipped images, and prints where its report is.

    Example: orch demo
    """
    from orch.demo import run_demo

    raise SystemExit(run_demo(Path("studies") / "demo-grid"))


@click.command()
@STUDY
@AS_JSON
def doctor(study: Path | None, *, as_json: bool) -> None:
    """Check whether this machine has what orch needs.

    Python, torch, timm, Slurm, the disk, MLflow and git are checked, and STUDY if it is given.

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


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes orch commands in a shell.

    Example: orch completion bash >> ~/.bashrc
    """
    from orch.cli import main

    script = get_completion_class(shell)
    assert script is not None  # click has all three
    click.echo(script(main, {}, "orch", "_ORCH_COMPLETE").source())


COMMANDS = (sync, ui, demo, doctor, completion)
