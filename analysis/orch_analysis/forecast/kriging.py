"""A power law and what it misses: universal kriging of runs in the logs of their variables.

ln y = ln law(x) + discrepancy(ln x) + noise, as Kennedy & O'Hagan (2001, J. R. Stat. Soc. B 63:425-464, eq.
5) model a simulator that is not exact. The law is E + sum over variables of A x^-a. The discrepancy is a
Gaussian process with the Matern-5/2 correlation (Rasmussen & Williams 2006, Gaussian Processes for Machine
Learning, eq. 4.17 and 2.42), so the variance of a prediction grows with its distance to the runs, which is
where a law that holds only nearby goes wrong.

Priors are log-normal and wide. Exponents: median .35 (Besiroglu et al. 2024, arXiv:2404.10102, table 1: .348
and .366), within a factor 2.7 in 95%. Discrepancy: median 3% of the value, a range of e^6 (400x) in a
variable; noise: .3%, about what losses vary over seeds (Porian et al. 2024, arXiv:2406.19146). The widths and
the range were chosen on the tables of `tests/data/laws` (`tests/bench/bench_joint.py`).

The law cannot be exact and the discrepancy need not be stationary, so the standard deviation is scaled by
what it was worth on the largest runs (`calibration`): on those tables the 90% band then covers 96 to 100% of
the runs held back at two thirds of the width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orch_analysis.laws.law import Array

EXPONENT = (np.log(0.35), 0.5)  # mean and sd of the log
TERM_SD = 1.5  # of the log of each term of the law at the centre of the runs
FLOOR_SHARE, TERM_SHARE = -0.7, -1.5  # mean log of E, and of each term there, against the mean value: .5, .22
RANGE = (np.log(6.0), 0.7)
SIZE = (np.log(0.03), 1.0)
NOISE = (np.log(0.003), 1.5)
ROUNDS, STEPS = 3, 24  # alternations of law and discrepancy; Gauss-Newton steps in each
TOLERANCE = 1e-7
MOST = 500  # runs that enter; the cost grows with their cube
CUTS = (2.0, 4.0, 8.0)  # the band is checked on the runs beyond 1/cut of the largest compute
LEAST = 12  # runs that are left to such a check, at least; with fewer the factor is mostly chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Kriging:
    """The law and its discrepancy, estimated from `n` runs in `d` variables.

    x, y:    logs of the variables (n, d), less `centre` (d,), and logs of the values (n,)
    sd:      known standard deviation of each log value (n,), 0 where the common noise is all there is
    theta:   ln E, ln A of each variable at the centre, ln a of each variable (2 d + 1,)
    mean:    of theta's prior; its standard deviations are `prior_sd(d)`
    ranges:  of the discrepancy in each variable's log (d,); size, noise: standard deviations in the log value
    """

    x: Array
    y: Array
    sd: Array
    centre: Array
    theta: Array
    mean: Array
    ranges: Array
    size: float
    noise: float

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the log value, without noise, at logs `at` (m, d)."""
        points = at - self.centre
        whitened = self.whitened(points)
        residual = self.y - _law(self.theta, self.x) + _slopes(self.theta, self.x) @ (self.theta - self.mean)
        centre = _law(self.theta, points) - _slopes(self.theta, points) @ (self.theta - self.mean)
        mean = centre + whitened.T @ self._solve(residual[:, None])[:, 0]
        variance = self.prior_variance(points) - (whitened**2).sum(axis=0)
        return mean, np.sqrt(np.maximum(variance, 0.0))

    def law(self, at: Array) -> Array:
        """Log value (m,) of the law alone at logs `at` (m, d)."""
        return _law(self.theta, at - self.centre)

    def whitened(self, points: Array) -> Array:
        """W (n, m) with W'W the part of the prior covariance at centred `points` that the runs explain."""
        return self._solve(self.prior_covariance(self.x, points))

    def prior_covariance(self, first: Array, second: Array) -> Array:
        """Covariance (m, k) of log values at two sets of centred points, before any run."""
        spread = prior_sd(self.x.shape[1])
        trends = [_slopes(self.theta, points) * spread for points in (first, second)]
        return self.size**2 * _correlation(first, second, self.ranges) + trends[0] @ trends[1].T

    def prior_variance(self, points: Array) -> Array:
        """Variance (m,) of log values at centred points before any run."""
        trend = _slopes(self.theta, points) * prior_sd(self.x.shape[1])
        return np.asarray(self.size**2 + (trend**2).sum(axis=1))

    def _solve(self, right: Array) -> Array:
        covariance = self.prior_covariance(self.x, self.x) + np.diag(self.noise**2 + self.sd**2)
        return np.asarray(np.linalg.solve(np.linalg.cholesky(covariance), right))


def krige(x: Array, y: Array, sd: Array | None = None) -> Kriging:
    """Estimate law and discrepancy from logs of the variables `x` (n, d) and of the values `y` (n,), n >= 1.

    sd: known standard deviations of `y` (n,) beside the common noise. Of more than `MOST` runs, half are
    those of most compute (the largest sum of logs), half are spread evenly over the others.
    """
    known = np.zeros(len(y)) if sd is None else sd
    kept = _thinned(x) if len(y) > MOST else slice(None)
    found = _with_runs(prior(x.mean(axis=0)), x[kept], y[kept], known[kept])
    for _ in range(ROUNDS):
        found = _with_discrepancy(_with_law(found))
    return _with_law(found)


def calibration(x: Array, y: Array, sd: Array | None = None) -> float:
    """Factor on standard deviations of `krige(x, y, sd)`: the rms of standardised errors on the largest runs.

    The runs beyond a half, a quarter and an eighth of the largest compute are forecast from the others. Each
    such turn counts once, and so does a factor of 1, the model's.
    """
    known = np.zeros(len(y)) if sd is None else sd
    compute, squares = x.sum(axis=1), [1.0]
    for cut in CUTS:
        small = compute <= compute.max() - np.log(cut)
        if small.sum() < LEAST:
            break
        found = krige(x[small], y[small], known[small])
        mean, spread = found.predict(x[~small])
        variance = spread**2 + found.noise**2 + known[~small] ** 2
        squares.append(float(((mean - y[~small]) ** 2 / variance).mean()))
    return float(np.sqrt(np.mean(squares)))


def prior(centre: Array) -> Kriging:
    """What holds before any run, about `centre`, logs of the variables (d,); predictions have no level."""
    d, none = len(centre), np.zeros(0)
    mean = np.array([FLOOR_SHARE] + [TERM_SHARE] * d + [EXPONENT[0]] * d)
    return Kriging(
        x=np.zeros((0, d)), y=none, sd=none, centre=centre, theta=mean, mean=mean,
        ranges=np.full(d, np.exp(RANGE[0])), size=float(np.exp(SIZE[0])), noise=float(np.exp(NOISE[0])),
    )  # fmt: skip


def prior_sd(variables: int) -> Array:
    """Standard deviations of theta's prior (2 d + 1,)."""
    return np.array([TERM_SD] * (variables + 1) + [EXPONENT[1]] * variables)


def _with_runs(before: Kriging, x: Array, y: Array, sd: Array) -> Kriging:
    d = x.shape[1]
    mean = before.mean + np.where(np.arange(2 * d + 1) <= d, y.mean(), 0.0)
    return replace(before, x=x - before.centre, y=y, sd=sd, mean=mean, theta=mean)


def _thinned(x: Array) -> NDArray[np.intp]:
    order = np.argsort(x.sum(axis=1), kind="stable")
    end, others = order[-(MOST // 2) :], order[: -(MOST // 2)]
    spread = others[np.linspace(0, others.size - 1, MOST - end.size).round().astype(int)]
    return np.sort(np.concatenate([end, spread]))


def _law(theta: Array, x: Array) -> Array:
    """Log of the law (n,) at centred logs x (n, d)."""
    return np.asarray(np.logaddexp.reduce(_terms(theta, x), axis=1))


def _terms(theta: Array, x: Array) -> Array:
    d = x.shape[1]
    powers = theta[1 : d + 1] - np.exp(theta[d + 1 :]) * x
    return np.concatenate([np.full((len(x), 1), theta[0]), powers], axis=1)


def _slopes(theta: Array, x: Array) -> Array:
    """Derivatives of the log law by theta (n, 2 d + 1): shares s_j of the terms, and -s_j a_j x_j."""
    terms = _terms(theta, x)
    shares = np.exp(terms - np.logaddexp.reduce(terms, axis=1)[:, None])
    exponents = np.exp(theta[x.shape[1] + 1 :])
    return np.concatenate([shares, -shares[:, 1:] * exponents * x], axis=1)


def _correlation(first: Array, second: Array, ranges: Array) -> Array:
    scaled = _scaled(((first[:, None] - second[None]) ** 2) / ranges**2)
    return np.asarray((1 + scaled + scaled**2 / 3) * np.exp(-scaled))


def _scaled(squares: Array) -> Array:
    return np.asarray(np.sqrt(5 * squares.sum(axis=-1)))


def _with_law(state: Kriging) -> Kriging:
    """Theta of the highest posterior, the discrepancy held: damped Gauss-Newton on whitened residuals."""
    d = state.x.shape[1]
    covariance = state.size**2 * _correlation(state.x, state.x, state.ranges) + np.diag(
        state.noise**2 + state.sd**2
    )
    factor, spread = np.linalg.cholesky(covariance), prior_sd(d)

    def residuals(theta: Array) -> Array:
        misfit = np.linalg.solve(factor, state.y - _law(theta, state.x))
        return np.concatenate([misfit, (state.mean - theta) / spread])

    theta, damping = state.theta, 1e-3
    left = residuals(theta)
    for _ in range(STEPS):
        slopes = np.concatenate([np.linalg.solve(factor, _slopes(theta, state.x)), np.diag(1 / spread)])
        curvature, pull = slopes.T @ slopes, slopes.T @ left
        step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), pull)
        ahead = residuals(theta + step)
        gain = float(left @ left - ahead @ ahead)
        damping *= 0.2 if gain > 0 else 8.0
        if gain > 0:
            theta, left = theta + step, ahead
        if 0 < gain < TOLERANCE or damping > 1e8:
            break
    return replace(state, theta=theta)


def _with_discrepancy(state: Kriging) -> Kriging:
    """Ranges, size and noise of the highest posterior, the law linear about theta and integrated out."""
    from scipy.optimize import minimize

    d = state.x.shape[1]
    trend = _slopes(state.theta, state.x)
    residual = state.y - _law(state.theta, state.x) + trend @ (state.theta - state.mean)
    trend = trend * prior_sd(d)
    fixed = trend @ trend.T + np.diag(state.sd**2)
    squares = (state.x[:, None] - state.x[None]) ** 2
    centres, spreads = np.array([RANGE] * d + [SIZE, NOISE]).T

    def objective(logs: Array) -> tuple[float, Array]:
        """Minus the log posterior, and its gradient (Rasmussen & Williams 2006, eq. 5.8 and 5.9)."""
        parts = squares * np.exp(-2 * logs[:d])
        scaled = _scaled(parts)
        decay = np.exp(2 * logs[d] - scaled)
        own = (1 + scaled + scaled**2 / 3) * decay
        factor = np.linalg.cholesky(own + fixed + np.exp(2 * logs[d + 1]) * np.eye(len(residual)))
        inverse = np.linalg.inv(factor)
        precision = inverse.T @ inverse
        weights = precision @ residual
        pull = np.outer(weights, weights) - precision
        bent = pull * (5 / 3) * (1 + scaled) * decay
        gradient = [0.5 * float((bent * parts[..., j]).sum()) for j in range(d)]
        gradient += [float((pull * own).sum()), float(np.trace(pull) * np.exp(2 * logs[d + 1]))]
        away = (logs - centres) / spreads
        value = (
            0.5 * float(residual @ weights) + float(np.log(np.diag(factor)).sum()) + 0.5 * float(away @ away)
        )
        return value, away / spreads - np.array(gradient)

    start = np.log([*state.ranges, state.size, state.noise])
    bounds = [(c - 4 * s, c + 4 * s) for c, s in zip(centres, spreads, strict=True)]
    logs = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}).x
    return replace(
        state, ranges=np.exp(logs[:d]), size=float(np.exp(logs[d])), noise=float(np.exp(logs[d + 1]))
    )
