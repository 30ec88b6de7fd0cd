"""Laws fitted to the records of a pilot study, for plans and suggestions."""

from __future__ import annotations

import polars as pl

from orch_analysis.design import expected
from orch_analysis.design.expected import AssumedLaw
from orch_analysis.design.precision import Group, data_axis
from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.fit import fit
from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.laws import LAWS
from orch_analysis.tables.study_tables import read_results
from orch_core.errors import OrchError
from orch_core.study.folder import Study

LAW = LAWS["chinchilla"]
LEAST_NOISE = 1e-4  # smallest sd of a log loss that a pilot of few cells can support


def points_of(study: Study) -> dict[Group, pl.DataFrame]:
    """Trained cells by recipe and mix, with `params_encoder`, `images`, `heldout_loss`, `seed` and others."""
    rows = read_results(study, planned_only=False).pretraining  # runs of an older plan count too
    rows = rows.filter((pl.col("images") > 0) & pl.col("heldout_loss").is_not_null())
    groups = rows.partition_by("recipe", "mix", as_dict=True, maintain_order=True)
    return {(str(recipe), str(mix)): frame for (recipe, mix), frame in groups.items()}


def fit_loss(points: pl.DataFrame, axis: str) -> Fit:
    """Held-out loss E + A N^-alpha + B D^-beta in encoder parameters N and data D, the column `axis`."""
    x: dict[str, str | float] = {"params": "params_encoder", "samples": axis}
    return fit(LAW, points, FitOptions(value="heldout_loss", x=x, bootstrap=0))


def assumed_law_of(points: pl.DataFrame, axis: str) -> AssumedLaw | None:
    """The fitted law of a group with its noise, from seeds or else from residuals; None without a fit."""
    found = fit_loss(points, axis)
    if found.outcome not in {Outcome.OK, Outcome.MISFIT} or not all(
        value > 0 for value in found.estimates.values()
    ):
        return None
    cells = points.select(pl.struct("params_encoder", "images", "samples_seen").rank("dense")).to_series()
    seeds = expected.pooled_noise(points["heldout_loss"].to_numpy(), cells.to_numpy())
    noise = seeds if seeds is not None else found.sd
    where = "seeds" if seeds is not None else "residuals"
    return AssumedLaw(
        law=LAW,
        params=found.estimates,
        noise=max(noise or 0.0, LEAST_NOISE),
        source=f"the pilot's fit to {found.n} cells, noise of {100 * (noise or 0):.2g}% from {where}",
    )


def assumed_laws_of(study: Study) -> dict[Group, AssumedLaw]:
    """The fitted law of every recipe and mix of a study; raises OrchError if none can be fitted."""
    found = {group: assumed_law_of(points, data_axis(points)) for group, points in points_of(study).items()}
    assumed_laws = {group: assumed_law for group, assumed_law in found.items() if assumed_law is not None}
    if not assumed_laws:
        message = f"{study.root} has no recipe and mix with enough trained cells for a law of size and data"
        raise OrchError(message, hint="a pilot needs 6 or more cells, over 3 sizes and 3 data sizes")
    return assumed_laws
