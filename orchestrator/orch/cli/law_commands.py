"""`orch fit-laws`, `predict`, `frontier`: from a study or a table of points to laws, and their use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orch.cli.arguments import (
    AS_JSON,
    FOLDER,
    NATURAL,
    POSITIVE,
    options_of,
    show,
    warn_of_credentials,
)
from orch.console import fraction

if TYPE_CHECKING:
    from orch.fit_laws import FitRequest
    from orch_analysis.fitting.options import FitOptions

WORDS = click.argument("words", nargs=-1, metavar="[STUDY|TABLE] [NAME=COLUMN]...")
MAPPING = click.option(
    "--map",
    "pairs",
    multiple=True,
    metavar="NAME=COLUMN ...",
    help="Name the columns of value, params, samples, compute and run; a number sets a constant, and an "
    "expression such as value=1-acc1 or samples=C/6/N is computed.",
)


def _columns(_context: click.Context, _option: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    from orch.fit_laws import names

    return names(words) if words else ()


def _held(_context: click.Context, _option: click.Parameter, words: tuple[str, ...]) -> dict[str, float]:
    from orch.fit_laws import numbers

    return numbers(words, "--fix", "E=0") if words else {}


WHERE = click.option(
    "--where",
    default="",
    metavar="EXPRESSION",
    help="Use only the rows for which this holds, such as \"split == 'train' and lr < 1e-3\".",
)


@click.command("fit-laws")
@WORDS
@click.option(
    "--law",
    default="",
    help="Fit this law: its name, a Python file, or auto; the default is power for a table and all laws of "
    "the report for a study.",
)
@MAPPING
@click.option(
    "--group-by",
    multiple=True,
    callback=_columns,
    metavar="COLUMN,...",
    help="Fit each value of these columns separately; the default is dataset, task, algorithm and mix.",
)
@WHERE
@click.option(
    "--best-per",
    multiple=True,
    callback=_columns,
    metavar="COLUMN,...",
    help="Fit only the row with the best value for each combination of these columns, as of a sweep.",
)
@click.option(
    "--envelope",
    default="",
    metavar="COLUMN",
    help="Fit only the rows that are better than every row with less of this column, such as compute.",
)
@click.option(
    "--fix",
    multiple=True,
    callback=_held,
    metavar="NAME=NUMBER",
    help="Hold a parameter of the law at this value, such as E=0; may be repeated.",
)
@click.option(
    "--loss",
    type=click.Choice(["auto", "huber", "l2", "mse"]),
    default="auto",
    show_default=True,
    help="Minimise this loss; auto is l2 on logs for a power law and huber otherwise.",
)
@click.option(
    "--huber-delta", type=POSITIVE, help="Use this delta for Huber's loss; the default follows the noise."
)
@click.option("--weights", help="Weight rows by this column.")
@click.option("--stderr", help="Take known standard errors of the values from this column.")
@click.option("--cluster", help="Resample rows together that share a run or seed in this column.")
@click.option(
    "--bootstrap", type=NATURAL, default=1000, show_default=True, help="Draw this many bootstrap replicates."
)
@click.option(
    "--interval",
    type=click.Choice(["auto", "t", "percentile", "bca"]),
    default="auto",
    show_default=True,
    help="Compute this kind of interval; auto is percentile with a hundred points to spare, otherwise t.",
)
@click.option(
    "--level", type=fraction, default="95%", show_default=True, help="Set the level of intervals and bands."
)
@click.option(
    "--ceiling", type=float, help="Set the best value that a growing metric can reach, for --law auto."
)
@click.option(
    "--factor",
    "factors",
    multiple=True,
    metavar="NAME",
    help="Correlate the tasks' slopes with this factor only; may be repeated. The default is every factor.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed the search and the bootstrap.")
@click.option(
    "--out",
    type=FOLDER,
    help="Write the report into this folder; the default is in the study, or TABLE-laws.",
)
@click.option(
    "--tracking-uri",
    callback=warn_of_credentials,
    help="Fit the runs of an MLflow experiment on this server instead.",
)
@click.option("--experiment", help="Name the MLflow experiment; the default is the study's name.")
@AS_JSON
@options_of("orch_analysis.fitting.options", "FitOptions")
@options_of("orch.fit_laws", "FitRequest", "request")
def fit_laws(
    words: tuple[str, ...],
    pairs: tuple[str, ...],
    *,
    options: FitOptions,
    request: FitRequest,
    as_json: bool,
) -> None:
    """Fit laws with intervals to a study or a table of points.

    The report, the laws and their tables and figures are written into a folder.

    Example: orch fit-laws points.csv --law chinchilla --map params=N samples=D value=loss
    """
    from orch.fit_laws import fit_laws as fit
    from orch.fit_laws import target_and_mapping

    target, mapping = target_and_mapping(words, pairs)
    value = mapping.pop("value", "")
    show(fit(target, request, replace(options, value=value, x=mapping)), as_json=as_json)


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--params", type=float, help="Set the number of encoder parameters to predict for.")
@click.option("--samples", type=float, help="Set the number of training samples to predict for.")
@click.option("--at", multiple=True, metavar="NAME=NUMBER", help="Set any other variable of the laws.")
@click.option("--trust", is_flag=True, help="Execute the Python file of a user-defined law in the folder.")
@click.option(
    "--register",
    is_flag=True,
    help="Save the forecast in FOLDER's study; fit-laws scores it when the runs have finished.",
)
@AS_JSON
def predict(
    folder: Path,
    params: float | None,
    samples: float | None,
    at: tuple[str, ...],
    *,
    trust: bool,
    register: bool,
    as_json: bool,
) -> None:
    """Predict values at a given scale with fitted laws.

    FOLDER is a folder that `orch fit-laws` wrote. Every prediction has a band. A law in a Python file is
    executed only with --trust.

    Example: orch predict points-laws --params 1e9 --samples 2e10
    """
    from orch.fit_laws import numbers
    from orch.fit_laws import predict as predicted

    given = {"params": params, "samples": samples}
    point = numbers(at) | {name: value for name, value in given.items() if value is not None}
    show(predicted(folder, point, trust=trust, register=register), as_json=as_json)


@click.command()
@WORDS
@MAPPING
@click.option(
    "--group-by",
    multiple=True,
    callback=_columns,
    metavar="COLUMN,...",
    help="Estimate a frontier per value of these columns; the default for a study is algorithm and mix.",
)
@WHERE
@click.option("--flops", type=POSITIVE, help="Show the optimum for this budget in FLOPs.")
@click.option("--gpu-hours", type=POSITIVE, help="Show the optimum for this budget in GPU-hours.")
@click.option(
    "--flops-per-gpu-hour",
    "rate",
    type=POSITIVE,
    help="Set the FLOPs that a GPU-hour achieves (not its peak).",
)
@AS_JSON
def frontier(
    words: tuple[str, ...],
    pairs: tuple[str, ...],
    *,
    group_by: tuple[str, ...],
    where: str,
    flops: float | None,
    gpu_hours: float | None,
    rate: float | None,
    as_json: bool,
) -> None:
    """Estimate the compute-optimal model size and data size.

    Three approaches are compared: the envelope of training curves, isoFLOP minima and the fitted law.

    Example: orch frontier points.csv --map params=N compute=C value=loss --flops 1e21
    """
    from orch.compute_optimal import budget
    from orch.compute_optimal import frontier as found
    from orch.fit_laws import target_and_mapping

    target, mapping = target_and_mapping(words, pairs)
    show(found(target, mapping, group_by, budget(flops, gpu_hours, rate), where), as_json=as_json)


COMMANDS = (fit_laws, predict, frontier)
