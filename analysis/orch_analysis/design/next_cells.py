"""Which cells to run next: those that shrink the error of a forecast at the target most for their price.

The design minimises the forecast's own variance (`orch_analysis.forecast.kriging`), in which a law may be wrong: the
discrepancy leaves a doubt that grows with the distance to the runs, so cells near the target are worth their price and
many cheap ones far from it are not. A candidate takes c^2 / (v + noise^2) off the variance at a target, v being its
variance and c their covariance given all runs so far (V-optimality; Atkinson, Donev & Tobias 2007, Optimum Experimental
Designs, ch. 10). Greedy by gain for price, by gain alone, or by gain alone for the first cell only, whichever ends lower: so that one dear
cell is not shut out by cheap ones (Leskovec et al. 2007, KDD, section 3: at least half of the optimum's (1 - 1/e)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orch_analysis.forecast.kriging import Kriging
from orch_analysis.laws.law import Array

PILOT = 0.05  # share of a budget that is spent before anything is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Candidates to run, in order: their index, their price then, and the mean variance at the targets after each.

    Variances are of the log value; `before` is without any of them.
    """

    chosen: tuple[int, ...]
    paid: tuple[float, ...]
    before: float
    variances: tuple[float, ...]

    @property
    def after(self) -> float:
        """The mean variance at the targets with all of them."""
        return self.variances[-1] if self.variances else self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunks:
    """Runs that share their beginning: candidates of one group and repetition train up to the longest trunk once.

    group: a number per candidate, equal where the trunk is; price: of each candidate's trunk, a part of its price
    runs:  repetitions of each candidate that are done
    """

    group: NDArray[np.int_]
    price: Array
    runs: NDArray[np.int_]


class MarginalCost:
    """What each candidate costs next, given what has been chosen."""

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
    sd:      known standard deviation of a log value beside the common noise, such as that of a task's test set
    trunks:  what candidates share, so that one costs less after another
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

    spend: what to spend before the next choice: of the plan for the whole budget, the candidates that come first, and
           at least one; all by default
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
    """Mean variance at the targets after `budget` on cells in random order (median of 8), cheapest or largest first.

    Every candidate comes once before any comes again, and what does not fit is left out.
    """
    plan, generator, prices = (
        _Plan(surface, candidates, targets),
        np.random.default_rng(seed),
        candidates.prices,
    )

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
        # rows' rows is the part of the prior covariance that the runs, done and chosen, explain
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
