"""Fit a law to a table of points: `fit(law, table, value="loss") -> Fit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import polars as pl
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from orch_analysis import laws
from orch_analysis.fitting import profile, resampling, usable
from orch_analysis.fitting.estimates import Band, Dropped, Fit, Identifiability, Line, Prediction
from orch_analysis.fitting.newton import Solution, begin, finish, minimise, solve
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.problem import Problem, build, params_of, predict
from orch_analysis.fitting.usable import Usable
from orch_analysis.fitting.verdict import outside_own_interval, verdict
from orch_analysis.laws.law import Array, Law, Link
from orch_core.errors import OrchError

__all__ = ["Band", "Dropped", "Fit", "Identifiability", "Outcome", "Prediction", "fit"]

Loss = Literal["auto", "huber", "l2", "mse"]
Interval = Literal["auto", "percentile", "bca", "t"]
EFFICIENT = (
    1.345  # Huber's delta in units of the noise sd: 95% efficiency at the normal (Huber & Ronchetti 2009)
)
LEAST = 1e-5  # smallest automatic delta: exact data have no noise to scale it to
JACKKNIFE = (
    200  # parts left out in turn for the acceleration of BCa: one by one would cost n fits of n points
)
STARTS = 16  # independent global searches behind the certificate of the point fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The arguments of `fit`, checked; what a card needs to repeat it."""

    law: Law
    value: str
    x: Mapping[str, str | float]
    loss: Literal["huber", "l2", "mse"]
    link: Link
    delta: float | None
    weights: str | None
    stderr: str | None
    bootstrap: int
    cluster: str | None
    interval: Interval
    level: float
    seed: int
    group: Mapping[str, str]

    @property
    def closed_form(self) -> bool:
        """True when the fit is an ordinary regression line, with exact t intervals."""
        own = self.law.exactly_loglinear and self.loss == "l2" and self.interval in {"auto", "t"}
        return own and not self.cluster and not self.stderr


def fit(
    law: Law | str,
    table: pl.DataFrame,
    *,
    value: str,
    x: Mapping[str, str | float] | None = None,
    loss: Loss = "auto",
    delta: float | Literal["auto"] = "auto",
    weights: str | None = None,
    stderr: str | None = None,
    bootstrap: int = 1000,
    cluster: str | None = None,
    interval: Interval = "auto",
    level: float = 0.95,
    seed: int = 0,
    group: Mapping[str, str] | None = None,
) -> Fit:
    """Estimate the parameters of `law` from the rows of `table`.

    `x` maps each variable of the law to a column, or to a number that holds for all rows; by default columns carry
    the variables' names. loss "huber" and "l2" act on residuals in the law's link (relative errors for "log"),
    "mse" on the value itself; "auto" is least squares for a single power law, where t intervals are exact, else what
    the law was published with, Huber as a rule; a given delta asks for Huber. delta "auto" is 1.345 times the noise's robust standard deviation. `weights` and `stderr` name
    columns: weights multiply the loss of a row, standard errors (of the value) replace resampling by draws from
    known noise. `cluster` names the column of units resampled as a whole (a run, a seed).

    Never raises for bad data: see `Fit.outcome` and `Fit.dropped`. Raises OrchError for a column or law that does
    not exist.
    """
    request = _request(
        law=laws.get(law) if isinstance(law, str) else law,
        value=value, x=x, loss=loss, delta=delta, weights=weights, stderr=stderr, bootstrap=bootstrap,
        cluster=cluster, interval=interval, level=level, seed=seed, group=group or {},
    )  # fmt: skip
    extra = tuple(name for name in (weights, stderr) if name)
    if request.x.get("compute") == usable.COMPUTE:
        table = usable.with_compute(table, dict(x or {"params": "params", "samples": "samples"}))
    rows = usable.usable(
        request.law, table, value=value, x=request.x, link=request.link, extra=extra, cluster=cluster
    )
    blocked = usable.blocking_outcome(request.law, rows, value)
    if blocked:
        return _without_estimates(request, rows, *blocked)
    with _blas().limit(limits=1), np.errstate(all="ignore"):  # starts far away overflow, and lose
        return _line(request, rows) if request.closed_form else _curve(request, rows)


@cache
def _blas() -> ThreadpoolController:
    """Numpy's matrix products: several threads sum in another order, so the bits would depend on their number."""
    return ThreadpoolController().select(user_api="blas")


def _request(
    *,
    law: Law,
    value: str,
    x: Mapping[str, str | float] | None,
    loss: Loss,
    delta: float | Literal["auto"],
    level: float,
    bootstrap: int,
    **rest: object,
) -> Request:
    if x is not None and len(x) == 1 == len(law.x):
        law = law.along(next(iter(x)))
    mapping: dict[str, str | float] = dict(x) if x is not None else {name: name for name in law.x}
    if "compute" in law.x and "compute" not in mapping and {"params", "samples"} <= set(mapping):
        mapping["compute"] = usable.COMPUTE
    missing = [name for name in law.x if name not in mapping]
    if missing:
        msg = f"law {law.name} needs {', '.join(law.x)}; no column is given for {', '.join(missing)}"
        raise OrchError(msg, hint=f"map it: --map {missing[0]}=COLUMN")
    if delta != "auto" and not delta > 0:
        msg = f"Huber's delta must be positive, got {delta}"
        raise OrchError(msg, hint='use "auto" to scale it to the noise')
    if not 0 < level < 1 or bootstrap < 0:
        msg = f"level must be between 0 and 1 and bootstrap not negative, got {level} and {bootstrap}"
        raise OrchError(msg, hint="level=0.95, bootstrap=1000")
    if rest["stderr"] and rest["cluster"]:
        msg = "stderr and cluster cannot be given together: known errors take the place of resampling"
        raise OrchError(msg, hint="leave out stderr to let clusters show the noise")
    if loss == "auto":
        own = "l2" if law.exactly_loglinear else law.loss
        loss = own if delta == "auto" else "huber"
    return Request(
        law=law, value=value, x={name: mapping[name] for name in law.x}, loss=loss,
        link="linear" if loss == "mse" else law.link, delta=None if delta == "auto" else float(delta),
        bootstrap=bootstrap, level=level, **rest,  # type: ignore[arg-type]
    )  # fmt: skip


def _without_estimates(request: Request, rows: Usable, outcome: Outcome, message: str) -> Fit:
    return _fit(request, rows, outcome=outcome, message=message)


def _fit(request: Request, rows: Usable, *, outcome: Outcome, message: str, **found: object) -> Fit:
    free = len(request.law.free)
    blank: dict[str, object] = {
        "estimates": {}, "intervals": {}, "interval": "none", "objective": None, "residuals": (), "sd": None,
        "certificate": None, "identifiability": {}, "draws": np.zeros((0, free)), "delta": request.delta,
        "warnings": usable.data_warnings(request.law, rows, request.value),
    }  # fmt: skip
    return Fit(
        law=request.law, group=dict(request.group), value=request.value, x=dict(request.x), loss=request.loss,
        link=request.link, level=request.level, n=rows.y.size, dropped=rows.dropped, outcome=outcome,
        message=message, bootstrap=request.bootstrap, seed=request.seed,
        ranges={k: (float(v.min()), float(v.max())) for k, v in rows.x.items()} if rows.y.size else {},
        settings={
            "weights": request.weights, "stderr": request.stderr, "cluster": request.cluster,
            "delta": "auto" if request.delta is None else request.delta, "interval": request.interval,
        },
        **(blank | found),  # type: ignore[arg-type]
    )  # fmt: skip


def _line(request: Request, rows: Usable) -> Fit:
    """Least squares of log value on log x, with exact t intervals (Student's line, Draper & Smith 1998, ch. 1)."""
    from scipy.special import stdtrit

    law = request.law
    weight = rows.extra[request.weights] if request.weights else np.ones_like(rows.y)
    logs, target = np.log(rows.x[law.x[0]]), np.log(rows.y)
    total = float(weight.sum())
    center = float(weight @ logs / total)
    spread = float(weight @ (logs - center) ** 2)
    slope = float(weight @ ((logs - center) * target) / spread)
    level = float(weight @ target / total)
    residuals = level + slope * (logs - center) - target
    dof = rows.y.size - 2
    sd = float(np.sqrt(weight @ residuals**2 / dof))
    quantile = float(stdtrit(dof, 0.5 + request.level / 2))
    intercept = level - slope * center
    half_slope = quantile * sd / np.sqrt(spread)
    half_level = quantile * sd * np.sqrt(1.0 / total + center**2 / spread)
    coefficient, exponent = law.params
    return _fit(
        request, rows, outcome=Outcome.OK, message=f"{rows.y.size} points, least squares in logs, t intervals",
        estimates={coefficient: float(np.exp(intercept)), exponent: slope},
        intervals={
            coefficient: (float(np.exp(intercept - half_level)), float(np.exp(intercept + half_level))),
            exponent: (float(slope - half_slope), float(slope + half_slope)),
        },
        interval="t", objective=0.5 * float(weight @ residuals**2), residuals=tuple(map(float, residuals)), sd=sd,
        line=Line(center=center, spread=spread, weight=total, sd=sd, dof=dof),
    )  # fmt: skip


def _curve(request: Request, rows: Usable) -> Fit:
    law = request.law
    problem = build(law, rows.x, rows.y, request.link)
    weight = rows.extra[request.weights] if request.weights else np.ones_like(rows.y)
    best, delta = _point(problem, weight, request)
    theta, objective = best.theta[0], float(best.objective[0])
    if not np.isfinite(objective):
        remedy = "check the units of the columns, or use another law"
        return _fit(
            request,
            rows,
            outcome=Outcome.NOT_CONVERGED,
            message=f"no start of {law.name} converged; {remedy}",
        )
    residuals = predict(problem, best.theta)[0] - problem.target
    kind = _kind(request, rows)
    draws = np.zeros((0, len(law.free)))
    intervals: dict[str, tuple[float, float]] = {}
    known: dict[str, Identifiability] = {}
    if request.bootstrap:
        draws, intervals = _intervals(request, rows, problem, best, weight, delta, kind)
        around = profile.Profile(
            problem=problem, theta=theta, objective=objective, minima=best.minima, weights=weight, delta=delta
        )
        known = profile.identifiability(around)
    sd = _noise(residuals, len(law.free))
    outcome, message = verdict(problem, theta, known)
    estimates = {name: float(value[0]) for name, value in params_of(problem, best.theta).items()}
    return _fit(
        request, rows, outcome=outcome, message=message, estimates=estimates,
        intervals=intervals, interval=kind if request.bootstrap else "none", objective=objective,
        residuals=tuple(map(float, residuals)), sd=sd, delta=delta if request.loss == "huber" else None,
        certificate=float(best.agreement[0]), draws=draws, identifiability=known,
        warnings=usable.data_warnings(law, rows, request.value) + _doubts(request, rows, problem, residuals, best)
        + outside_own_interval(problem, theta, estimates, intervals),
    )  # fmt: skip


def _kind(request: Request, rows: Usable) -> resampling.Kind:
    if request.interval != "auto":
        return request.interval
    if request.stderr:
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
    """Refit every replicate, each from its own global search; draws of the free parameters and their intervals."""
    stderr = rows.extra[request.stderr] if request.stderr else None
    data = resampling.replicates(
        problem,
        best.theta[0],
        weight,
        kind,
        request.bootstrap,
        request.seed,
        clusters=rows.clusters,
        stderr=stderr,
    )
    starts = 1 if problem.terms or len(best.minima) == 1 or len(problem.law.free) > profile.FEW else 3

    def refit(target: Array, weights: Array) -> Array:
        found = solve(
            problem, target, weights, delta, starts=starts, seed=request.seed, precise=False, basins=best.minima
        )  # fmt: skip
        return _values(problem, found.theta)

    draws = refit(data.target, data.weights)
    if kind != "bca":
        named = enumerate(problem.law.free)
        return draws, {name: resampling.percentile(draws[:, i], request.level, kind) for i, name in named}
    jackknife = refit(problem.target, _parts_left_out(rows) * weight)
    estimate = _values(problem, best.theta)[0]
    return draws, {
        name: resampling.bca(draws[:, i], float(estimate[i]), jackknife[:, i], request.level)
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
    """The point fit and the delta it ended with; an automatic delta is refined three times from the residuals."""
    rows, target = weight[None, :], problem.target[None, :]
    delta = float("inf") if request.loss != "huber" or request.delta is None else request.delta
    theta, objective = begin(problem, target, rows, starts=STARTS, seed=request.seed)
    if request.loss == "huber" and request.delta is None:
        best = theta[[objective.argmin()]]
        for _ in range(3):
            best, _ = minimise(problem, best, target, rows, delta, tolerance=1e-5, exact=False)
            residuals = predict(problem, best)[0] - problem.target
            delta = max(EFFICIENT * _noise(np.nan_to_num(residuals), len(request.law.free)), LEAST)
    return finish(problem, theta, target, rows, delta, starts=STARTS), delta


def _doubts(
    request: Request, rows: Usable, problem: Problem, residuals: Array, best: Solution
) -> tuple[str, ...]:
    out = []
    if len(best.minima) > 1:
        count = len(best.minima) - 1
        share = f"{best.agreement[0]:.0%} of {STARTS} independent starts reached the optimum"
        out.append(
            f"the objective has {count} or more other minima within 5% of the best ({share}), see identifiability"
        )
    elif best.agreement[0] < 0.5:
        share = f"only {best.agreement[0]:.0%} of {STARTS} independent starts"
        out.append(f"{share} reached the optimum to 1e-8: it lies in a flat valley, see identifiability")
    fewest = 2.0 / (1.0 - request.level)
    if 0 < request.bootstrap < round(fewest):
        out.append(
            f"{request.bootstrap} bootstraps do not show the ends of a {100 * request.level:.10g}% interval: "
            f"draw at least {fewest:.0f}"
        )
    if rows.clusters is not None and np.unique(rows.clusters).size == 1:
        out.append(f"all rows are one unit of {request.cluster}: intervals take them as independent")
    if request.stderr:
        known = rows.extra[request.stderr] / np.abs(problem.scale)
        excess = float(
            np.sqrt(np.mean((residuals / known) ** 2) * rows.y.size / (rows.y.size - len(request.law.free)))
        )
        if excess > 1.5:
            cause = f"residuals are {excess:.1f} times the standard errors given in {request.stderr}"
            out.append(
                f"{cause}: they hold noise that those do not (seeds, lack of fit), so intervals are too narrow"
            )
    return tuple(out)
