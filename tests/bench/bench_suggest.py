"""The design of `orch suggest` on runs that exist: the forecast's error for a share of the compute of all of them.

    python tests/bench/bench_suggest.py --table FILE     columns split (train or test), N, D, loss; a run costs N D
    python tests/bench/bench_suggest.py                  simulations in which no law of the family holds

Of the training runs each strategy buys what 1, 5 or 10% of their summed cost pays for, and the test runs are forecast
from those by `forecast.kriging`, whatever the strategy: the design (a pilot and five rounds), random draws (median of
8), cheapest first, largest first. One JSON line with every share: R2, RMSLE, share of the test runs in the 90% band, and the
rms error that the design expected.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")

import argparse
import json
import time
from pathlib import Path

import numpy as np
import polars as pl

from orch_analysis.design.next_cells import PILOT, Candidates, choose
from orch_analysis.forecast.kriging import calibration, krige, prior

SHARES, ROUNDS, DRAWS = (0.01, 0.05, 0.1), 5, 8
LEVEL = 1.645  # half width of a 90% band in standard deviations


class Runs:
    """Training runs as candidates, and test runs to forecast: logs of (N, D), log losses, costs N D."""

    def __init__(self, x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> None:
        self.x, self.y, self.test_x, self.test_y = x, y, test_x, test_y
        self.cost = np.exp(x.sum(axis=1))

    def score(self, chosen: list[int]) -> dict[str, float]:
        x, y = self.x[chosen], self.y[chosen]
        found = krige(x, y)
        mean, sd = found.predict(self.test_x)
        expected = calibration(x, y) * np.hypot(sd, found.noise)
        error, truth = mean - self.test_y, np.exp(self.test_y)
        rest = ((np.exp(mean) - truth) ** 2).sum() / max(((truth - truth.mean()) ** 2).sum(), 1e-300)
        return {
            "r2": 1 - rest,
            "rmsle": np.sqrt(np.mean(error**2)),
            "in_band": np.mean(np.abs(error) <= LEVEL * expected),
            "expected": np.sqrt(np.mean(expected**2)),
        }

    def design(self, budget: float) -> list[int]:
        chosen: list[int] = []
        surface, left = prior(self.x.mean(axis=0)), np.ones(len(self.y), dtype=int)
        for turn in range(ROUNDS + 1):
            room = budget - self.cost[chosen].sum()
            candidates = Candidates(x=self.x, prices=self.cost, repeats=left)
            pilot = turn == 0 and self.cost.min() <= PILOT * budget
            spend = room / (ROUNDS + 1 - turn) if turn else PILOT * budget
            found = choose(surface, candidates, self.test_x, budget=spend if pilot else room, spend=spend)
            chosen += found.chosen
            left[list(found.chosen)] = 0
            if not chosen:
                break
            surface = krige(self.x[chosen], self.y[chosen])
        return chosen

    def in_order(self, order: np.ndarray, budget: float) -> list[int]:
        chosen, spent = [], 0.0
        for index in order:
            if spent + self.cost[index] <= budget:
                chosen.append(int(index))
                spent += self.cost[index]
        return chosen


def judged(runs: Runs, share: float) -> dict[str, object]:
    """Every strategy's score for a share of the summed cost."""
    budget, start = share * runs.cost.sum(), time.process_time()
    chosen = runs.design(budget)
    seconds = time.process_time() - start
    generator = np.random.default_rng(0)
    drawn = [runs.score(runs.in_order(generator.permutation(len(runs.y)), budget)) for _ in range(DRAWS)]
    found = {
        "design": runs.score(chosen),
        "random": {name: float(np.median([one[name] for one in drawn])) for name in drawn[0]},
        "cheapest": runs.score(runs.in_order(np.argsort(runs.cost), budget)),
        "largest": runs.score(runs.in_order(np.argsort(-runs.cost), budget)),
    }
    rounded = {name: {k: round(float(v), 4) for k, v in one.items()} for name, one in found.items()}
    return {"share": share, "runs": len(chosen), "seconds": round(seconds, 1)} | rounded


def read(path: Path) -> Runs:
    table = pl.read_csv(path)
    parts = []
    for split in ("train", "test"):
        rows = table.filter(pl.col("split") == split).cast(
            {"N": pl.Float64, "D": pl.Float64, "loss": pl.Float64}
        )
        parts += [np.log(rows.select("N", "D").to_numpy()), np.log(rows["loss"].to_numpy())]
    return Runs(*parts)


def broken(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The exponent of data doubles beyond a break (Caballero et al. 2023)."""
    tail = d**-0.15 * (1 + (d / 3e9) ** 2) ** -0.075
    return 1.5 + 400 * n**-0.34 + 30 * tail


def repeated(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Half a billion unique tokens, worth less each time (Muennighoff et al. 2023, eq. 5, R* = 15)."""
    unique = np.minimum(d, 5e8)
    worth = unique + 15 * unique * (1 - np.exp(-(d / unique - 1) / 15))
    return 1.7 + 400 * n**-0.34 + 410 * worth**-0.28


def floor(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """A power law in compute alone until a floor is reached over a decade."""
    return np.exp(np.logaddexp(5 * np.log(20 * (n * d) ** -0.05), 5 * np.log(2.4)) / 5)


def simulated(law, seed: int) -> Runs:
    """A 12 x 12 grid over 300x in N and D, .3% noise; seven test runs 2 to 4 times beyond both."""
    generator = np.random.default_rng(seed)
    sides = np.meshgrid(np.geomspace(1e7, 3e9, 12), np.geomspace(2e8, 6e10, 12), indexing="ij")
    n, d = (side.ravel() for side in sides)
    ahead = np.geomspace(2, 4, 7)
    parts = []
    for size, data in ((n, d), (3e9 * ahead, 6e10 * ahead)):
        noise = 0.003 * generator.standard_normal(size.size)
        parts += [np.log(np.stack([size, data], axis=1)), np.log(law(size, data)) + noise]
    return Runs(*parts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", type=Path)
    parser.add_argument("--laws", type=int, default=3, help="simulated tables per law")
    options = parser.parse_args()
    if options.table:
        runs = read(options.table)
        print(json.dumps({"table": options.table.stem, "shares": [judged(runs, share) for share in SHARES]}))
        return
    for law in (broken, repeated, floor):
        for share in SHARES:
            found = [judged(simulated(law, seed), share) for seed in range(options.laws)]
            mean = {
                name: {k: round(float(np.mean([one[name][k] for one in found])), 4) for k in found[0][name]}
                for name in ("design", "random", "cheapest", "largest")
            }
            print(json.dumps({"law": law.__name__, "share": share} | mean), flush=True)


if __name__ == "__main__":
    main()
