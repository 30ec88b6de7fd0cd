"""What a converged fit is worth: parameters on a bound, not determined, or outside their own intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from orch_analysis.fitting.estimates import Identifiability
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.problem import Problem, predict
from orch_analysis.laws.law import Array

NOTHING = 1e-6  # a term that changes the law by less, in its link, is not there


def verdict(problem: Problem, theta: Array, known: Mapping[str, Identifiability]) -> tuple[Outcome, str]:
    """The outcome of a converged fit: whether a parameter is at its bound, or not determined by the data."""
    law, n = problem.law, problem.y.size
    bound = bounded(problem, theta)
    open_ = [item.words for item in known.values() if not item.identified]
    if bound:
        names = " and ".join(bound)
        message = (
            f"{names} ended at the bound of the law: the points do not show it; "
            "use a law without it or add larger scales"
        )
        return Outcome.AT_BOUND, "; ".join([message, *open_])
    if open_:
        remedy = "add points at other scales, or use a law with fewer parameters"
        return Outcome.NOT_IDENTIFIED, f"{'; '.join(open_)}; {remedy}"
    return Outcome.OK, f"{n} points, all {len(law.free)} parameters determined" if known else f"{n} points"


def bounded(problem: Problem, theta: Array) -> tuple[str, ...]:
    """The parameters that ended at a bound of the law."""
    return tuple(name for k, name in enumerate(problem.law.free) if at_bound(problem, theta, k))


def at_bound(problem: Problem, theta: Array, k: int) -> bool:
    """On a finite bound, or a positive linear coefficient that has vanished: without it nothing changes."""
    law, name = problem.law, problem.law.free[k]
    if not problem.logs[k]:
        lower, upper = law.bound(name)
        edge = 1e-6 * max(1.0, abs(float(theta[k])))
        return bool(theta[k] <= lower + edge or theta[k] >= upper - edge)
    if name not in law.linear:
        return False
    without = theta.copy()
    without[k] = problem.lower[k]
    change = predict(problem, np.stack([theta, without]))
    return bool(np.max(np.abs(change[0] - change[1])) < NOTHING)


def outside_own_interval(
    problem: Problem,
    theta: Array,
    estimates: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
) -> tuple[str, ...]:
    """A warning for estimates that lie outside their intervals, because refits of the draws end elsewhere."""
    outside = [
        name
        for k, name in enumerate(problem.law.free)
        if name in intervals
        for value, (lo, hi) in [(estimates[name], intervals[name])]
        if max(lo - value, value - hi) > 1e-3 * abs(value)
        and not (at_bound(problem, theta, k) and lo < NOTHING * max(hi, NOTHING))
    ]
    if not outside:
        return ()
    lies = "lies outside its interval" if len(outside) == 1 else "lie outside their intervals"
    warning = (
        f"the estimate of {' and '.join(outside)} {lies}, because fits to redrawn data end elsewhere: "
        "rely on neither the estimate nor the interval"
    )
    return (warning,)
