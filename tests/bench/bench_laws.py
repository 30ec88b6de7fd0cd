"""Speed of the law engine against the usual way, in one run: `python tests/bench/bench_laws.py`.

* Ours: point fit and 1,000 globally initialised bootstraps of the Chinchilla law on 240 points, in a process of its
  own, so imports count; once more with 2,000 bootstraps and with 480 points, for the growth.
* The reference: L-BFGS-B of scipy on the same objective from the grid of Hoffmann et al. 2022 (5 x 5 x 5 x 6 x 6 =
  4,500 starts). A subset of the starts is timed and scaled to 4,500; a bootstrap fit that is initialised globally
  costs the grid again, so the same statistical work is 1,001 grids.
* All forms on many curves: seconds per curve for 200 bootstraps of every law of one size.

CPU seconds of one thread; only the ratios mean anything on another machine.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")

import itertools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from orch_analysis.fitting.fit import FitOptions, fit
from orch_analysis.laws import LAWS

DATA = Path(__file__).parents[1] / "data" / "laws" / "epoch_chinchilla_svg_extracted_data.csv"
GRID = (
    np.arange(0, 30, 5), np.arange(0, 30, 5), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5),
)  # fmt: skip
TIMED = 40


def points() -> pl.DataFrame:
    raw = pl.read_csv(DATA)
    table = raw.select(
        N=pl.col("Model Size"), D=pl.col("Training FLOP") / (6 * pl.col("Model Size")), loss=pl.col("loss")
    )
    return table.filter(pl.col("loss") < table["loss"].sort()[-5])


def ours(bootstrap: int, copies: int) -> None:
    """The child process: one fit, its CPU seconds (imports included) on stdout."""
    table = points()
    more = [table.with_columns(pl.col("loss") * (1 + 1e-6 * i)) for i in range(copies)]
    found = fit("chinchilla", pl.concat(more), FitOptions(value="loss", x={"params": "N", "samples": "D"}, huber_delta=1e-3, bootstrap=bootstrap, seed=42))  # fmt: skip
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "objective": found.objective}))


def in_own_process(bootstrap: int, copies: int = 1) -> dict[str, float]:
    command = [sys.executable, __file__, "ours", str(bootstrap), str(copies)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(out.stdout))


def reference() -> tuple[float, float]:
    """CPU seconds of all 4,500 starts, scaled from a sample of them, and the best objective in the sample."""
    from scipy.optimize import minimize
    from scipy.special import huber, logsumexp

    table = points()
    N, D, y = (np.log(table[name].to_numpy()) for name in ("N", "D", "loss"))

    def objective(p: np.ndarray) -> float:
        terms = [np.full_like(N, p[2]), p[0] - p[3] * N, p[1] - p[4] * D]
        return float(huber(1e-3, logsumexp(terms, axis=0) - y).sum())

    starts = list(itertools.product(*GRID))
    sample = np.random.default_rng(0).choice(len(starts), TIMED, replace=False)
    begin, best = time.process_time(), np.inf
    for i in sample:
        best = min(best, minimize(objective, np.array(starts[i]), method="L-BFGS-B").fun)
    return (time.process_time() - begin) * len(starts) / TIMED, best


def curves() -> float:
    """CPU seconds per curve for 200 bootstraps of every form of one size; 60 points each, 1% noise."""
    x, rng = np.geomspace(1e5, 1e8, 60), np.random.default_rng(0)
    begin, count = time.process_time(), 3
    for _ in range(count):
        y = (rng.uniform(0.05, 0.3) + 30 * x ** -rng.uniform(0.3, 0.5)) * np.exp(
            0.01 * rng.standard_normal(60)
        )
        table = pl.DataFrame({"samples": x, "y": y})
        for name in ("power", "power_offset", "m2", "m4", "bnsl1", "bnsl2"):
            law = LAWS[name] if LAWS[name].x == ("samples",) else LAWS[name].along("samples")
            fit(law, table, FitOptions(value="y", bootstrap=200))
    return (time.process_time() - begin) / count


def main() -> None:
    one = in_own_process(1000)
    print(
        f"ours, 1 + 1,000 bootstraps: {one['cpu']:.2f} CPU s, whole process; objective {one['objective']:.13f}"
    )
    grid, best = reference()
    print(
        f"scipy L-BFGS-B, {4500} starts, one fit: {grid:.1f} CPU s (scaled from {TIMED}); best seen {best:.13f}"
    )
    print(f"ratio, one grid fit to our 1,001 fits: {grid / one['cpu']:.0f}x")
    print(f"ratio, same statistical work (1,001 grids): {1001 * grid / one['cpu']:,.0f}x")
    empty, double, twice = in_own_process(0), in_own_process(2000), in_own_process(1000, copies=2)
    base = empty["cpu"]
    print(
        f"growth, 2x bootstraps: {(double['cpu'] - base) / (one['cpu'] - base):.2f}x; "
        f"2x points: {(twice['cpu'] - base) / (one['cpu'] - base):.2f}x (without the {base:.2f} s of a point fit)"
    )
    each = curves()
    print(f"all forms, 200 bootstraps: {each:.2f} CPU s per curve, {92 * each:.0f} s for 92 curves")


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        ours(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
