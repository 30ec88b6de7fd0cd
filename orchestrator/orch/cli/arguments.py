"""Arguments and options that several commands share, and the output of a command."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import click

from orch.answer import Answer
from orch.console import emit, say
from orch_core.formatting import without_credentials

Where = Literal["local", "debug", "slurm"]
FOLDER = click.Path(path_type=Path)
WHOLE = click.IntRange(min=1)
NATURAL = click.IntRange(min=0)
POSITIVE = click.FloatRange(min=0, min_open=True)

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
STUDY = click.argument("study", type=FOLDER, required=False)
STUDY_OPTION = click.option(
    "--study", type=FOLDER, help="Use this study instead of the one planned last in this directory."
)
CLUSTER = click.option(
    "--cluster",
    type=click.Choice(["local", "debug", "slurm"]),
    default="local",
    show_default=True,
    help="Run on this machine, inside this process, or on Slurm.",
)


def warn_of_credentials(_context: click.Context, _option: click.Parameter, uri: str | None) -> str | None:
    """Warn of a password in a URI on the command line, where `ps` shows it to everybody on the machine."""
    if uri and uri != without_credentials(uri):
        better = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        say(
            f"warning: `ps` shows the credentials in --tracking-uri to other users; for a server set {better}"
        )
    return uri


def options_of(
    module: str, name: str, argument: str = "options"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Pass those options of a command that are fields of a frozen type as one object, the named argument.

    The type is `name` in `module`, which is imported when the command runs.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**given: Any) -> None:
            kind = getattr(import_module(module), name)
            known = {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}
            command(**given, **{argument: kind(**known)})

        return call

    return decorate


def show(result: Answer, *, as_json: bool) -> None:
    """Print the result of a command on stdout, as one JSON document or as text, and exit with its code."""
    emit(result.to_json()) if as_json else click.echo(result.text)
    if result.exit_code:
        raise SystemExit(result.exit_code)
