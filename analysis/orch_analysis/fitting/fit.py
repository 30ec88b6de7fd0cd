"""Fit a law to a table of points: `fit(law, table, FitOptions(value="loss")) -> Fit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import polars as pl
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from orch_analysis import laws
from orch_analysis.fitting import resampling
from orch_analysis.fitting.checks import misfit, profile
from orch_analysis.fitting.checks.verdict import bounded, outside_own_interval, verdict
from orch_analysis.fitting.estimates import Fit, Identifiability, Line
from orch_analysis.fitting.newton import MANY, Solution, begin, finish, minimise, solve
from orch_analysis.fitting.options import DEFAULTS, FitOptions
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.points import Dropped, Points
from orch_analysis.fitting.problem import Problem, build, evenly_spaced, params_of, part, predict
from orch_analysis.fitting.used_rows import usable
from orch_analysis.fitting.used_rows.selection import best, selected
from orch_analysis.fitting.used_rows.usable import Usable
from orch_analysis.fitting.used_rows.variables import resolved, with_derived
from orch_analysis.laws.law import Array, Law, Link
from orch_core.errors import OrchError

__all__ = ["Fit", "FitOptions", "Outcome", "fit"]

EFFICIENT = (
    1.345  # Huber's delta in units of the noise sd: 95% efficiency at the normal (Huber & Ronchetti 2009)
)
LEAST = 1e-5  # smallest automatic delta: exact data have no noise to scale it to
JACKKNIFE = (
    200  # parts left out in turn for the acceleration of BCa: one by one would cost n fits of n points
)
STARTS = 16  # independent global searches behind `Fit.start_agreement`


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is fitted, and how: the law along its variables, and options that name every column.

    loss, link: those that are used; group: which rows these are; unreadable: rows
    that could not even be read.
    """

    law: Law
    options: FitOptions
    loss: Literal["huber", "l2", "mse"]
    link: Link
    group: Mapping[str, str]
    unreadable: tuple[Dropped, ...]

    @property
    def closed_form(self) -> bool:
        """True when the fit is an ordinary regression line, with exact t intervals."""
        own = self.law.exactly_loglinear and self.loss == "l2" and self.options.interval in {"auto", "t"}
        return own and not self.options.cluster and not self.options.stderr


def fit(
    law: Law | str,
    table: pl.DataFrame | Points,
    options: FitOptions = DEFAULTS,
    *,
    group: Mapping[str, str] | None = None,
) -> Fit:
    """Estimate the parameters of `law` from the rows of `table`; `group` names what they have in common.

    law: a `Law`, the name of a published one, or the path of a Python file that sets LAW. Never raises for
    bad data: see `Fit.outcome` and `Fit.dropped`. Raises OrchError for a column or law that does not exist,
    and for a variable that is mapped and not used.
    """
    points = best(selected(table if isinstance(table, Points) else Points(frame=table), options), options)
    named = laws.get(law) if isinstance(law, str) else law
    request = _request(named, points, options, group or {})
    asked = request.options
    rows = usable.usable(
        request.law,
        with_derived(points.frame, asked),
        value=asked.quantity,
        x={name: asked.x[name] for name in request.law.x},
        link=request.link,
        extra=tuple(name for name in (asked.weights, asked.stderr) if name),
        cluster=asked.cluster,
    )
    blocked = usable.blocking_outcome(request.law, rows, asked.quantity)
    if blocked:
        return _result(request, rows, *blocked)
    with _blas().limit(limits=1), np.errstate(all="ignore"):  # starts far away overflow, and lose
        return _line(request, rows) if request.closed_form else _curve(request, rows)


@cache
def _blas() -> ThreadpoolController:
    """Numpy's matrix products: their bits depend on the number of threads, which sum in another order."""
    return ThreadpoolController().select(user_api="blas")


def _request(law: Law, points: Points, options: FitOptions, group: Mapping[str, str]) -> Request:
    law, options = resolved(law.fix(**options.fix) if options.fix else law, points.frame, options)
    if options.ceiling is not None and law.link != "log":
        msg = f"law {law.name} describes the metric itself, so it takes no ceiling"
        raise OrchError(msg, hint="leave the ceiling out, or choose a law of errors")
    loss = options.loss
    if loss == "auto":
        own = "l2" if law.exactly_loglinear else law.loss
        loss = own if options.huber_delta is None else "huber"
    return Request(
        law=law,
        options=options,
        loss=loss,
        link="linear" if loss == "mse" else law.link,
        group=group,
        unreadable=points.dropped,
    )


def _result(request: Request, rows: Usable, outcome: Outcome, message: str) -> Fit:
    """What is known before there are estimates."""
    dropped = (*rows.dropped, *request.unreadable)
    return Fit(
        law=request.law,
        options=request.options,
        group=dict(request.group),
        loss=request.loss,
        link=request.link,
        delta=request.options.huber_delta,
        n=rows.y.size,
        x_data={name: tuple(values.tolist()) for name, values in rows.x.items()},
        y_data=tuple(rows.y.tolist()),
        ranges={k: (float(v.min()), float(v.max())) for k, v in rows.x.items()} if rows.y.size else {},
        dropped=tuple(sorted(dropped, key=lambda item: item.row)),
        outcome=outcome,
        message=message,
        warnings=usable.data_warnings(request.law, rows, request.options.quantity),
        draws=np.zeros((0, len(request.law.free))),
    )


def _line(request: Request, rows: Usable) -> Fit:
    """Least squares of log value on log x, with exact t intervals (Draper & Smith 1998, ch. 1)."""
    from scipy.special import stdtrit

    law = request.law
    weight = _weights(request, rows)
    logs, target = np.log(rows.x[law.x[0]]), np.log(rows.y)
    total = float(weight.sum())
    center = float(weight @ logs / total)
    spread = float(weight @ (logs - center) ** 2)
    slope = float(weight @ ((logs - center) * target) / spread)
    level = float(weight @ target / total)
    residuals = level + slope * (logs - center) - target
    dof = rows.y.size - 2
    sd = float(np.sqrt(weight @ residuals**2 / dof))
    quantile = float(stdtrit(dof, 0.5 + request.options.level / 2))
    intercept = level - slope * center
    half_slope = quantile * sd / np.sqrt(spread)
    half_level = quantile * sd * np.sqrt(1.0 / total + center**2 / spread)
    coefficient, exponent = law.params
    message = f"{rows.y.size} points, least squares in logs, t intervals"
    root = np.sqrt(weight)
    design = np.stack([root, root * (logs - center)], axis=1)
    found = replace(
        _result(request, rows, Outcome.OK, message),
        estimates={coefficient: float(np.exp(intercept)), exponent: slope},
        intervals={
            coefficient: (float(np.exp(intercept - half_level)), float(np.exp(intercept + half_level))),
            exponent: (float(slope - half_slope), float(slope + half_slope)),
        },
        interval="t", objective=0.5 * float(weight @ residuals**2), residuals=tuple(map(float, residuals)),
        sd=sd, line=Line(center=center, spread=spread, weight=total, sd=sd, dof=dof),
    )  # fmt: skip
    tested = misfit.lack_of_fit(root * residuals, design, {law.x[0]: logs}, root=root)
    return misfit.with_misfit(found, tested)


def _weights(request: Request, rows: Usable) -> Array:
    return rows.extra[request.options.weights] if request.options.weights else np.ones_like(rows.y)


def _curve(request: Request, rows: Usable) -> Fit:
    law, options = request.law, request.options
    problem = build(law, rows.x, rows.y, request.link)
    weight = _weights(request, rows)
    best, delta = _point(problem, weight, request)
    theta, objective = best.theta[0], float(best.objective[0])
    if not np.isfinite(objective):
        message = f"no start of {law.name} converged; check the units of the columns, or use another law"
        return _result(request, rows, Outcome.NOT_CONVERGED, message)
    residuals = predict(problem, best.theta)[0] - problem.target
    kind = _kind(request, rows)
    drawn: dict[str, Any] = {}
    known: dict[str, Identifiability] = {}
    if options.bootstrap:
        draws, intervals = _intervals(request, rows, problem, best, weight, delta, kind)
        drawn = {"draws": draws, "intervals": intervals, "interval": kind}
        around = profile.Profile(
            problem=problem, theta=theta, objective=objective, minima=best.minima, weights=weight, delta=delta
        )
        known = profile.identifiability(around, options.level)
    outcome, message = verdict(problem, theta, known)
    estimates = {name: float(value[0]) for name, value in params_of(problem, best.theta).items()}
    doubts = _doubts(request, rows, problem, residuals, best)
    beyond = outside_own_interval(problem, theta, estimates, drawn.get("intervals", {}))
    result = _result(request, rows, outcome, message)
    tested = misfit.of_curve(problem, theta, residuals, weight, delta, rows.clusters)
    return misfit.with_misfit(replace(
        result, estimates=estimates, objective=objective, residuals=tuple(map(float, residuals)),
        sd=_noise(residuals, len(law.free)), delta=delta if request.loss == "huber" else None,
        start_agreement=float(best.start_agreement[0]), identifiability=known,
        at_bound=bounded(problem, theta), warnings=(*result.warnings, *doubts, *beyond), **drawn,
    ), tested)  # fmt: skip


def _kind(request: Request, rows: Usable) -> resampling.Kind:
    if request.options.interval != "auto":
        return request.options.interval
    if request.options.stderr:
        return "parametric"
    units = rows.y.size if rows.clusters is None else np.unique(rows.clusters).size
    return "percentile" if units - len(request.law.free) >= resampling.MANY else "t"


def _intervals(
    request: Request,
    rows: Usable,
    problem: Problem,
    best: Solution,
    weight: Array,
    delta: float,
    kind: resampling.Kind,
) -> tuple[Array, dict[str, tuple[float, float]]]:
    """Refit every replicate from its own global search; draws of the free parameters and their intervals."""
    stderr = rows.extra[request.options.stderr] if request.options.stderr else None
    data = resampling.replicates(
        problem,
        best.theta[0],
        weight,
        kind,
        request.options.bootstrap,
        request.options.seed,
        clusters=rows.clusters,
        stderr=stderr,
    )
    starts = 1 if problem.terms or len(best.minima) == 1 or len(problem.law.free) > profile.FEW else 3

    def refit(target: Array, weights: Array) -> Array:
        found = solve(
            problem, target, weights, delta,
            starts=starts, seed=request.options.seed, precise=False, basins=best.minima,
        )  # fmt: skip
        return _values(problem, found.theta)

    draws = refit(data.target, data.weights)
    if kind != "bca":
        named = enumerate(problem.law.free)
        return draws, {
            name: resampling.percentile(draws[:, i], request.options.level, kind) for i, name in named
        }
    jackknife = refit(problem.target, _parts_left_out(rows) * weight)
    estimate = _values(problem, best.theta)[0]
    return draws, {
        name: resampling.bca(draws[:, i], float(estimate[i]), jackknife[:, i], request.options.level)
        for i, name in enumerate(problem.law.free)
    }


def _parts_left_out(rows: Usable) -> Array:
    """Weights [parts, n] of 0 for each part in turn, of rows or of whole clusters."""
    own = np.arange(rows.y.size)
    units = own if rows.clusters is None else np.unique(rows.clusters, return_inverse=True)[1]
    parts = units % JACKKNIFE
    return np.asarray(parts[None] != np.unique(parts)[:, None], dtype=np.float64)


def _values(problem: Problem, theta: Array) -> Array:
    named = params_of(problem, theta)
    return np.stack([named[name] for name in problem.law.free], axis=1)


def _noise(residuals: Array, p: int) -> float:
    """Robust sd of the residuals: 1.4826 times their median size, for the n - p degrees of freedom left."""
    n = residuals.size
    return float(1.4826 * np.median(np.abs(residuals)) * np.sqrt(n / max(n - p, 1)))


def _point(problem: Problem, weight: Array, request: Request) -> tuple[Solution, float]:
    """The point fit and its final delta; an automatic one is refined three times from the residuals."""
    rows, target = weight[None, :], problem.target[None, :]
    given = request.options.huber_delta
    delta = float("inf") if request.loss != "huber" or given is None else given
    at = evenly_spaced(problem.x, MANY)  # of many points a part shows where the minima are
    few = problem if at.size == problem.y.size else part(problem, at)
    theta, objective = begin(few, target[:, at], rows[:, at], starts=STARTS, seed=request.options.seed)
    if request.loss == "huber" and given is None:
        best = theta[[objective.argmin()]]
        for _ in range(3):
            best, _ = minimise(problem, best, target, rows, delta, tolerance=1e-5, exact=False)
            residuals = predict(problem, best)[0] - problem.target
            delta = max(EFFICIENT * _noise(np.nan_to_num(residuals), len(request.law.free)), LEAST)
    found = finish(few, theta, target[:, at], rows[:, at], delta, starts=STARTS)
    if few is problem or not np.isfinite(found.objective[0]):
        return found, delta
    whole = finish(problem, found.minima, target, rows, delta, starts=len(found.minima))
    return replace(whole, start_agreement=found.start_agreement), delta


def _doubts(
    request: Request, rows: Usable, problem: Problem, residuals: Array, best: Solution
) -> tuple[str, ...]:
    out = []
    if len(best.minima) > 1:
        count = len(best.minima) - 1
        share = f"{best.start_agreement[0]:.0%} of {STARTS} independent starts reached the optimum"
        out.append(
            f"the objective has {count} or more other minima within 5% of the best ({share}), see "
            "identifiability"
        )
    elif best.start_agreement[0] < 0.5:
        share = f"only {best.start_agreement[0]:.0%} of {STARTS} independent starts"
        out.append(f"{share} reached the optimum to 1e-8: it lies in a flat valley, see identifiability")
    fewest = 2.0 / (1.0 - request.options.level)
    if 0 < request.options.bootstrap < round(fewest):
        out.append(
            f"{request.options.bootstrap} bootstraps do not show the ends of a "
            f"{100 * request.options.level:.10g}% interval: draw at least {fewest:.0f}"
        )
    if rows.clusters is not None and np.unique(rows.clusters).size == 1:
        out.append(f"all rows are one unit of {request.options.cluster}: intervals take them as independent")
    if request.options.stderr:
        known = rows.extra[request.options.stderr] / np.abs(problem.scale)
        excess = float(
            np.sqrt(np.mean((residuals / known) ** 2) * rows.y.size / (rows.y.size - len(request.law.free)))
        )
        if excess > 1.5:
            cause = f"residuals are {excess:.1f} times the standard errors given in {request.options.stderr}"
            out.append(
                f"{cause}: they hold noise that those do not (seeds, lack of fit), so intervals are too "
                "narrow"
            )
    return tuple(out)
