"""Coverage of nominal 95% intervals on simulated truth: `python tests/bench/bench_coverage.py [data sets] [n ...]`.

Laws with known parameters, 1% noise that is normal, heavy-tailed (Student t with 3 degrees of freedom) or shared by
the three points of a cluster (half of the variance). For every parameter, and for a prediction ten times beyond the
largest scale, the share of data sets whose interval holds the truth. With 300 data sets the Monte Carlo error is
0.013, with 800 it is 0.008; the aim is 0.93 to 0.97.

Measured with 800 data sets: all cells of n = 12, 20 and 60 lie in 0.931 to 0.979; above 0.97 are only cells of n = 12
with four clusters. n = 240, 400 data sets: the power law with offset 0.910 to 0.958, Chinchilla 0.925 to 0.938 with
normal, 0.940 to 0.955 with heavy-tailed and 0.945 to 0.960 with clustered noise. The lowest two are luck: on the same
normal data sets the exact interval of the linearised law, 0.95 in expectation, covers 0.920 of the 0.910 and 0.930 of
the 0.925 (10x).
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")

import sys
import time

import numpy as np
import polars as pl
from scipy.special import stdtrit

from orch_analysis.fitting.fit import FitOptions, fit
from orch_analysis.fitting.problem import build, theta_of
from orch_analysis.fitting.resampling import jacobian
from orch_analysis.laws import LAWS

SD = 0.01
KINDS = ("normal", "heavy", "clustered")
TRUTHS = {
    "power_offset": {"E": 0.05, "A": 20.0, "alpha": 0.3},
    "chinchilla": {"E": 1.81721810, "A": 477.825868, "B": 2143.41736, "alpha": 0.3473105, "beta": 0.36717243},
}
DRAWS = {
    12: 200,
    20: 200,
    60: 200,
    240: 1000,
}  # rows are resampled at 240: percentiles as published need more
SHAPES = {12: (4, 3, 1), 20: (5, 4, 1), 60: (5, 4, 3), 240: (8, 6, 5)}


def design(law: str, n: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Scales of the points, and the scale ten times beyond."""
    if law == "power_offset":
        return {"params": np.geomspace(3e6, 3e8, n)}, {"params": 3e9}
    sizes, data, copies = SHAPES[n]
    grid = np.meshgrid(np.geomspace(5e7, 1e10, sizes), np.geomspace(1e9, 3e11, data), indexing="ij")
    N, D = (np.repeat(axis.ravel(), copies) for axis in grid)
    return {"params": N, "samples": D}, {"params": 1e11, "samples": 3e12}


def noise(kind: str, clusters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    own = (
        rng.standard_t(3, clusters.size) / np.sqrt(3)
        if kind == "heavy"
        else rng.standard_normal(clusters.size)
    )
    if kind == "clustered":
        own = np.sqrt(0.5) * (own + rng.standard_normal(clusters.max() + 1)[clusters])
    return SD * own


def coverage(law: str, n: int, kind: str, sets: int) -> dict[str, float]:
    x, beyond = design(law, n)
    truth, clusters = TRUTHS[law], np.arange(n) // 3
    exact = LAWS[law].value(x, truth)
    goal = float(LAWS[law].value({k: np.array([v]) for k, v in beyond.items()}, truth)[0])
    hits = dict.fromkeys([*truth, "10x"], 0)
    for seed in range(sets):
        y = exact * np.exp(noise(kind, clusters, np.random.default_rng([seed, n])))
        # copies at one scale are told apart by their cluster or number, or they would count as duplicates
        table = pl.DataFrame(x | {"y": y, "run": clusters, "copy": np.arange(n)})
        found = fit(
            law,
            table,
            FitOptions(
                value="y", bootstrap=DRAWS[n], seed=seed, cluster="run" if kind == "clustered" else None
            ),
        )
        for name, value in truth.items():
            lo, hi = found.intervals[name]
            hits[name] += lo <= value <= hi
        band = found.predict(**beyond).row(0, named=True)
        hits["10x"] += band["lo"] <= goal <= band["hi"]
    return {name: count / sets for name, count in hits.items()}


def exact_interval(law: str, n: int, sets: int) -> float:
    """Share of the same data sets, with normal noise, whose exact t interval of the linearised law holds the 10x truth.

    It is 0.95 in expectation: what is missing here is the luck of these data sets, not the fault of a method.
    """
    x, beyond = design(law, n)
    truth = {name: np.array(value) for name, value in TRUTHS[law].items()}
    here, there = (
        build(LAWS[law], at, LAWS[law].value(at, truth), "log")
        for at in (x, {k: np.array([v]) for k, v in beyond.items()})
    )
    theta = theta_of(here, truth)
    X, ahead = jacobian(here, theta), jacobian(there, theta)[0]
    inverse = np.linalg.inv(X.T @ X)
    hits = 0
    for seed in range(sets):
        e = noise("normal", np.arange(n) // 3, np.random.default_rng([seed, n]))
        moved = inverse @ (X.T @ e)
        sd = np.sqrt(np.sum((e - X @ moved) ** 2) / (n - theta.size) * (ahead @ inverse @ ahead))
        hits += abs(ahead @ moved) <= stdtrit(n - theta.size, 0.975) * sd
    return hits / sets


def main() -> None:
    sets = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    for n in map(int, sys.argv[2:] or SHAPES):
        for law in TRUTHS:
            for kind in KINDS:
                begin = time.process_time()
                found = coverage(law, n, kind, sets)
                shown = "  ".join(f"{name} {value:.3f}" for name, value in found.items())
                print(
                    f"n={n:3d} {law:12s} {kind:9s} {shown}  ({time.process_time() - begin:.0f} CPU s)",
                    flush=True,
                )
            print(
                f"n={n:3d} {law:12s} exact interval on the same normal data sets: 10x {exact_interval(law, n, sets):.3f}"
            )


if __name__ == "__main__":
    main()
