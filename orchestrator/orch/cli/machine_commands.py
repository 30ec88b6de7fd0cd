"""`orch sync`, `ui`, `demo`, `doctor`, `completion`: MLflow, this machine and this shell."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import get_completion_class

import orch
from orch.cli.arguments import AS_JSON, STUDY, show, warn_of_credentials
from orch.console import say


@click.command()
@STUDY
@click.option(
    "--tracking-uri",
    callback=warn_of_credentials,
    help="Mirror into this MLflow server or database, not into the study's mlflow.db.",
)
@AS_JSON
def sync(study: Path | None, tracking_uri: str | None, *, as_json: bool) -> None:
    """Mirror a study's records into MLflow.

    Repeating the command adds only the changes.

    Example: orch sync
    """
    show(orch.sync(study, tracking_uri), as_json=as_json)


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
    from orch.tracking.ui import ui as serve

    serve(orch.open_study(study), port, tell=lambda address: say(f"MLflow UI: {address} (Ctrl-C stops it)"))


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
@click.option(
    "--cluster",
    type=click.Choice(["local", "slurm"]),
    default="local",
    show_default=True,
    help="Check this machine, or Slurm's nodes: a job per resource class (without STUDY: per partition).",
)
@AS_JSON
def doctor(study: Path | None, *, cluster: str, as_json: bool) -> None:
    """Check whether this machine or a cluster's nodes can run orch.

    Python, torch, timm, Slurm, the disk, MLflow and git are checked, and STUDY if it is given. On Slurm, jobs
    check the imports, GPUs, data, clocks, scratch disk, srun and the network between processes.

    Example: orch doctor studies/demo --cluster slurm
    """
    from orch.doctor import Diagnosis, checks

    if cluster == "slurm":
        from orch.cluster_doctor import cluster_checks

        show(Diagnosis(checks=cluster_checks(study)), as_json=as_json)
    else:
        show(Diagnosis(checks=tuple(checks(study))), as_json=as_json)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes orch commands in a shell.

    Example: orch completion bash >> ~/.bashrc
    """
    script = get_completion_class(shell)
    assert script is not None  # click has all three
    click.echo(script(click.get_current_context().find_root().command, {}, "orch", "_ORCH_COMPLETE").source())


COMMANDS = (sync, ui, demo, doctor, completion)
