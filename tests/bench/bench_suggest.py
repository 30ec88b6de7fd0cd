"""`orch suggest` on simulated laws: extrapolation error at a share of the full grid's compute, and interval coverage.

60 (or --laws N) random laws E + A N^-alpha + B D^-beta, 1% noise, an 8 x 8 grid over 100x in size and data, cost N D,
a target 4x beyond both. Nothing is told the true parameters: the pilot is the grid's two cheap edges (about 1% of
the compute), and after each of five rounds the law is fitted again. Compared at the same compute: cells in random
order, and cheapest first; the error of the full grid is 1. Intervals are t intervals of the last fit.
Run: python tests/bench/bench_suggest.py [--laws N] [--share S]
"""

import argparse

import numpy as np

from orch_analysis.design import expected, next_cells
from orch_analysis.design.expected import AssumedLaw
from orch_analysis.fitting.newton import solve
from orch_analysis.fitting.problem import build, params_of
from orch_analysis.laws import LAWS

LAW = LAWS["chinchilla"]
NOISE, SIDE, REPEATS, ROUNDS = 0.01, 8, 3, 5
SIZES, DATA = np.geomspace(5e6, 5e8, SIDE), np.geomspace(2e5, 2e7, SIDE)
TARGET = {"params": 4 * SIZES[-1], "samples": 4 * DATA[-1]}
GRID = dict(
    zip(
        ("params", "samples"), (part.ravel() for part in np.meshgrid(SIZES, DATA, indexing="ij")), strict=True
    )
)
PRICES = GRID["params"] * GRID["samples"]
FULL = PRICES.sum()


def random_law(generator: np.random.Generator) -> dict[str, float]:
    """Exponents of .2 to .6; irreducible 30% to 70% of the loss in the grid's middle, the rest shared .2 to .8."""
    alpha, beta = generator.uniform(0.2, 0.6, 2)
    floor, share = generator.uniform(0.3, 0.7), generator.uniform(0.2, 0.8)
    middle = {name: np.exp(np.log(values).mean()) for name, values in GRID.items()}
    return {
        "E": floor,
        "A": (1 - floor) * share * middle["params"] ** alpha,
        "B": (1 - floor) * (1 - share) * middle["samples"] ** beta,
        "alpha": alpha,
        "beta": beta,
    }


class Simulation:
    """A study whose cells answer with a hidden law and noise."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.params = random_law(self.generator)
        self.true = LAW.value(GRID, self.params)
        self.at_target = float(LAW.value({k: np.array([v]) for k, v in TARGET.items()}, self.params)[0])

    def run(self, cells: list[int]) -> np.ndarray:
        return self.true[cells] * np.exp(NOISE * self.generator.standard_normal(len(cells)))

    def fitted(self, cells: list[int], values: np.ndarray) -> AssumedLaw:
        x = {name: column[cells] for name, column in GRID.items()}
        problem = build(LAW, x, values, "log")
        found = solve(problem, np.log(values), np.ones((1, values.size)), float("inf"), starts=4)
        named = {name: float(np.ravel(value)[0]) for name, value in params_of(problem, found.theta).items()}
        residuals = np.log(LAW.value(x, named)) - np.log(values)
        sd = float(np.sqrt((residuals**2).sum() / max(values.size - len(LAW.free), 1)))
        return AssumedLaw(law=LAW, params=named, noise=max(sd, 1e-4), source="fit")

    def judged(self, cells: list[int], values: np.ndarray) -> tuple[float, bool]:
        """Log error of the prediction at the target, and whether its interval contains the truth."""
        assumed_law = self.fitted(cells, values)
        x = {name: column[cells] for name, column in GRID.items()}
        interval = expected.expected(assumed_law, x, target=TARGET).prediction
        return float(np.log(interval.value / self.at_target)), interval.lo <= self.at_target <= interval.hi


def full(simulation: Simulation, _budget: float) -> tuple[list[int], np.ndarray]:
    cells = list(range(PRICES.size))
    return cells, simulation.run(cells)


def in_order(order: np.ndarray, budget: float) -> list[int]:
    """Cells of an order that fit the budget, what does not fit left out."""
    cells, spent = [], 0.0
    for cell in order:
        if spent + PRICES[cell] <= budget:
            cells.append(int(cell))
            spent += PRICES[cell]
    return cells


def at_random(simulation: Simulation, budget: float) -> tuple[list[int], np.ndarray]:
    cells = in_order(simulation.generator.permutation(PRICES.size), budget)
    return cells, simulation.run(cells)


def cheapest(simulation: Simulation, budget: float) -> tuple[list[int], np.ndarray]:
    cells = in_order(np.argsort(PRICES), budget)
    return cells, simulation.run(cells)


def suggested(simulation: Simulation, budget: float) -> tuple[list[int], np.ndarray]:
    cells = list(next_cells.pilot(GRID, PRICES, least=6))
    values = simulation.run(cells)
    for round_ in range(ROUNDS):
        left = budget - PRICES[cells].sum()
        counts = np.bincount(cells, minlength=PRICES.size)
        choice = next_cells.choose(
            simulation.fitted(cells, values),
            {name: column[cells] for name, column in GRID.items()},
            GRID, PRICES, TARGET,
            budget=left / (ROUNDS - round_), repeats=np.maximum(REPEATS - counts, 0), check=0.1,
        )  # fmt: skip
        cells += choice.chosen
        values = np.append(values, simulation.run(list(choice.chosen)))
    return cells, values


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--laws", type=int, default=60)
    parser.add_argument("--share", type=float, action="append")
    options = parser.parse_args()
    print(
        f"{'strategy':12} {'compute':>8} {'cells':>6} {'rms error':>10} {'/ full':>7} {'median/full':>11} {'coverage':>9}"
    )
    reference = None
    rows = [(full, 1.0)] + [
        (s, share) for share in options.share or (0.25, 0.4, 0.5) for s in (suggested, at_random, cheapest)
    ]
    for strategy, share in rows:
        errors, inside, compute, count = [], [], [], []
        for seed in range(options.laws):
            simulation = Simulation(seed)
            cells, values = strategy(simulation, share * FULL)
            error, covered = simulation.judged(cells, values)
            errors.append(error)
            inside.append(covered)
            compute.append(PRICES[cells].sum() / FULL)
            count.append(len(cells))
        rms, median = float(np.sqrt(np.mean(np.square(errors)))), float(np.median(np.abs(errors)))
        reference = reference or (rms, median)
        print(
            f"{strategy.__name__:12} {np.mean(compute):8.2f} {np.mean(count):6.0f} {100 * rms:9.2f}% {rms / reference[0]:7.2f} "
            f"{median / reference[1]:11.2f} {np.mean(inside):9.3f}"
        )


if __name__ == "__main__":
    main()
