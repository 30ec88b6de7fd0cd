"""The choice of the cells to run next: those that most reduce the error of a forecast for their price.

The design minimises the variance of the forecast (`orch_analysis.forecast.kriging`), which includes a
discrepancy from the law that grows with the distance to the runs. Cells near the target can therefore be
worth more than many cheap cells far from it. A candidate reduces the variance at a target by c^2 / (v +
noise^2), where v is its variance and c their covariance given all runs so far (V-optimality; Atkinson, Donev
& Tobias 2007, Optimum Experimental Designs, ch. 10). Three greedy orders are compared: by gain per price, by
gain, and by gain for the first cell and then by gain per price. The order with the lowest final variance is
taken, so that cheap cells cannot exclude an expensive one (Leskovec et al. 2007, KDD, section 3: the gain is
at least half of (1 - 1/e) of the optimum).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orch_analysis.forecast.kriging import Kriging
from orch_analysis.laws.law import Array

PILOT = 0.05  # share of a budget that is spent before the first runs are known


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Candidates to run, in order: index, price when chosen, and mean variance at the targets afterwards.

    Variances are of the log value; `before` is the variance without any of the candidates.
    """

    chosen: tuple[int, ...]
    paid: tuple[float, ...]
    before: float
    variances: tuple[float, ...]

    @property
    def after(self) -> float:
        """The mean variance at the targets with all chosen candidates."""
        return self.variances[-1] if self.variances else self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunks:
    """Runs that share a trunk: candidates of one group and repetition pay for the longest trunk once.

    group: number of each candidate's trunk
    price: of each candidate's trunk, a part of the candidate's price
    runs:  repetitions of each candidate that are done
    """

    group: NDArray[np.int_]
    price: Array
    runs: NDArray[np.int_]


class MarginalCost:
    """The cost of each candidate as the next one, given the candidates that have been chosen."""

    def __init__(self, prices: Array, trunks: Trunks | None, most: int) -> None:
        self.prices, self.trunks = prices, trunks
        self.taken = np.zeros(prices.size, dtype=int) if trunks is None else trunks.runs.copy()
        groups = 0 if trunks is None else int(trunks.group.max(initial=0)) + 1
        self.reached = np.zeros((groups, int(self.taken.max(initial=0)) + most + 1))
        for index, done in enumerate(self.taken if trunks else ()):
            for run in range(done):
                self._reach(index, run)

    def due(self) -> Array:
        """Price [candidates] of each one as the next, in the unit of `prices`."""
        if self.trunks is None:
            return self.prices
        there = self.reached[self.trunks.group, self.taken]
        return np.asarray(self.prices - np.minimum(self.trunks.price, there))

    def add(self, index: int) -> None:
        """Count candidate `index` as chosen once more."""
        if self.trunks:
            self._reach(index, int(self.taken[index]))
            self.taken[index] += 1

    def _reach(self, index: int, run: int) -> None:
        assert self.trunks is not None
        at = int(self.trunks.group[index]), run
        self.reached[at] = max(self.reached[at], self.trunks.price[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Cells that may be run.

    x:       logs of the variables (m, d)
    prices:  of each, positive
    repeats: how often each may still be run (seeds)
    sd:      known standard deviation of a log value in addition to the common noise, such as that of a test
             set
    trunks:  the trunks that candidates share, which make a candidate cheaper after another one
    """

    x: Array
    prices: Array
    repeats: NDArray[np.int_]
    sd: float = 0.0
    trunks: Trunks | None = None


def choose(
    surface: Kriging, candidates: Candidates, targets: Array, *, budget: float, spend: float | None = None
) -> Choice:
    """The candidates to run for a forecast at `targets`, logs of the variables (t, d), planned for `budget`.

    spend: price after which the plan is cut, so that the rest can be chosen from new results; at least one
           candidate remains. The default is the whole budget.
    """
    plan = _Plan(surface, candidates, targets)
    plans = [plan.greedy(budget, alone=alone) for alone in (0, 1, int(candidates.repeats.sum()))]
    best = min(plans, key=lambda choice: choice.after)
    if spend is None or spend >= sum(best.paid):
        return best
    return plan.in_order(best.chosen, spend, least=1)


def simple_orders(
    surface: Kriging, candidates: Candidates, targets: Array, *, budget: float, seed: int = 0
) -> dict[str, float]:
    """Mean variance at the targets after `budget` is spent in random order, cheapest first or largest first.

    The random order is the median of 8. Every candidate is run once before any is repeated, and candidates
    that exceed the rest of the budget are skipped.
    """
    plan, prices = _Plan(surface, candidates, targets), candidates.prices
    generator = np.random.default_rng(seed)

    def after(keys: Array) -> float:
        turns = range(int(candidates.repeats.max(initial=0)))
        order = [i for turn in turns for i in np.argsort(keys, kind="stable") if candidates.repeats[i] > turn]
        return plan.in_order(order, budget).after

    draws = [after(generator.random(prices.size)) for _ in range(8)]
    return {
        "random": float(np.median(draws)),
        "cheapest first": after(prices),
        "largest first": after(-prices),
    }


class _Plan:
    """Variances at targets and candidates, and prices, as candidates are added one by one."""

    def __init__(self, surface: Kriging, candidates: Candidates, targets: Array) -> None:
        self.surface, self.candidates, self.targets = surface, candidates, len(targets)
        self.points = np.concatenate([targets, candidates.x]) - surface.centre
        self.noise = surface.noise**2 + candidates.sd**2
        self.explained = surface.whitened(self.points)
        prior = surface.prior_covariance(self.points[: self.targets], self.points)
        self.covariance = prior - self.explained[:, : self.targets].T @ self.explained
        self.restart()

    def restart(self) -> None:
        # rows' rows is the part of the prior covariance that done and chosen runs explain
        self.rows = self.explained
        self.variance = self.surface.prior_variance(self.points) - (self.rows**2).sum(axis=0)
        self.shared = self.covariance  # of the targets with all points (t, t + m)
        most = int(self.candidates.repeats.max(initial=0))
        self.bill = MarginalCost(self.candidates.prices, self.candidates.trunks, most)
        self.left = self.candidates.repeats.copy()
        self.chosen: list[int] = []
        self.paid: list[float] = []
        self.variances = [self.mean_variance()]

    def mean_variance(self) -> float:
        return float(np.maximum(self.variance[: self.targets], 0.0).mean())

    def affordable(self, budget: float) -> NDArray[np.bool_]:
        return np.asarray((self.left > 0) & (self.bill.due() <= budget - sum(self.paid)))

    def add(self, index: int) -> None:
        """Choose candidate `index`."""
        at = self.targets + index
        column = (
            self.surface.prior_covariance(self.points, self.points[[at]])[:, 0]
            - self.rows.T @ self.rows[:, at]
        )
        row = column / np.sqrt(max(self.variance[at], 0.0) + self.noise)
        self.rows = np.concatenate([self.rows, row[None]])
        self.variance = self.variance - row**2
        self.shared = self.shared - np.outer(row[: self.targets], row)
        self.chosen.append(index)
        self.paid.append(float(self.bill.due()[index]))
        self.bill.add(index)
        self.left[index] -= 1
        self.variances.append(self.mean_variance())

    def choice(self) -> Choice:
        return Choice(
            chosen=tuple(self.chosen), paid=tuple(self.paid),
            before=self.variances[0], variances=tuple(self.variances[1:]),
        )  # fmt: skip

    def greedy(self, budget: float, *, alone: int) -> Choice:
        """By gain alone for the first `alone` candidates, then by gain for price."""
        self.restart()
        while (able := self.affordable(budget)).any():
            spread = np.maximum(self.variance[self.targets :], 0.0) + self.noise
            gain = (self.shared[:, self.targets :] ** 2).sum(axis=0) / spread
            worth = gain if len(self.chosen) < alone else gain / self.bill.due()
            self.add(int(np.where(able, worth, -np.inf).argmax()))
        return self.choice()

    def in_order(self, order: Sequence[int], budget: float, *, least: int = 0) -> Choice:
        """Of an order, the first `least` candidates, and of the others those that fit into `budget`."""
        self.restart()
        for index in order:
            if len(self.chosen) < least or self.affordable(budget)[index]:
                self.add(index)
        return self.choice()
