"""Forecasts of L(N, D) against the usual Huber fit on published tables: `python tests/bench/bench_joint.py`.

Every table of `tests/data/laws` with both sizes; the runs beyond a quarter, an eighth and a sixteenth of the largest
compute are held back. Errors are root mean squares of ln predicted/measured; printed are each table's, the forecast's
share of the Huber fit's (delta 1e-3, no weights), and how much of the held-back runs the 90% band covers.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from orch_analysis.fitting.fit import FitOptions, fit
from orch_analysis.forecast.two_variables import forecast

DATA = Path(__file__).parents[1] / "data" / "laws"
CUTS = (4, 8, 16)
COLUMNS = {"params": "N", "samples": "D"}


def tables() -> Iterator[tuple[str, pl.DataFrame]]:
    """Name and table with N, D and loss; repeated data and the outliers of the Chinchilla points are left out."""
    raw = pl.read_csv(DATA / "epoch_chinchilla_svg_extracted_data.csv")
    chinchilla = raw.select(
        N="Model Size", D=pl.col("Training FLOP") / (6 * pl.col("Model Size")), loss="loss"
    )
    yield "Hoffmann 2022", chinchilla.filter(pl.col("loss") < chinchilla["loss"].sort()[-5])
    raw = pl.read_csv(DATA / "gadre_overtraining_104models.csv")
    for (name,), part in raw.group_by("dataset_name", maintain_order=True):
        yield f"Gadre 2024, {name}", part.select("N", "D", loss="loss_c4_val").drop_nulls()
    raw = pl.read_csv(DATA / "datablations_182runs.csv").filter(
        pl.col("tokens") <= 1.01 * pl.col("unique_tokens")
    )
    yield "Muennighoff 2023", raw.select(N="params", D="tokens", loss="loss")
    for file in ("porian_isoflop_summary_df.csv", "porian_isoflop_summary_df_owt2.csv"):
        for (name,), part in pl.read_csv(DATA / file).group_by("config", maintain_order=True):
            yield (
                f"Porian 2024, {name}",
                part.select(N="n", D=pl.col("flops") / (6 * pl.col("n")), loss="loss"),
            )


def judged(table: pl.DataFrame, cut: int) -> tuple[float, float, float] | None:
    """Error of the Huber fit, error of the forecast and coverage of its band; None where too little is left."""
    table = table.cast(pl.Float64)
    compute = pl.col("N") * pl.col("D")
    small, large = (
        table.filter(part) for part in (compute <= compute.max() / cut, compute > compute.max() / cut)
    )
    if small.height < 12 or large.height < 2:
        return None
    truth = np.log(large["loss"].to_numpy())
    usual = fit("chinchilla", small, FitOptions(value="loss", x=COLUMNS, huber_delta=1e-3, bootstrap=0))
    x = {name: large[column].to_numpy() for name, column in COLUMNS.items()}
    found = forecast(small, value="loss", x=COLUMNS, at=list(zip(x["params"], x["samples"], strict=True)))
    errors = [np.log(usual.law.value(x, usual.estimates)) - truth, np.log(found.value) - truth]
    inside = (np.log(found.lo) <= truth) & (truth <= np.log(found.hi))
    return (*(float(np.sqrt(np.mean(error**2))) for error in errors), float(inside.mean()))


def main() -> None:
    results: dict[int, list[tuple[float, float, float]]] = {cut: [] for cut in CUTS}
    for name, table in tables():
        found = {cut: judged(table, cut) for cut in CUTS}
        print(name.ljust(48), *("-".rjust(7) if one is None else f"{one[1]:7.4f}" for one in found.values()))
        for cut, one in found.items():
            results[cut] += [one] if one else []
    for cut, rows in results.items():
        usual, ours, inside = np.array(rows).T
        share = np.exp(np.mean(np.log(ours / usual)))
        third = int((ours <= usual / 3).sum())
        print(
            f"held back beyond 1/{cut}: {share:.2f} of the Huber fit's error, a third or less in {third} of"
            f" {len(rows)} tables; 90% band covers {inside.mean():.2f}"
        )
    usual, ours, inside = np.array([row for rows in results.values() for row in rows]).T
    print(
        f"all: {np.exp(np.mean(np.log(ours / usual))):.2f}, at worst {np.max(ours / usual):.1f}; band {inside.mean():.2f}"
    )


if __name__ == "__main__":
    main()
