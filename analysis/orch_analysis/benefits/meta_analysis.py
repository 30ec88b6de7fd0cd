"""Random-effects meta-analysis and meta-regression of estimates with known standard errors.

The model is effect_i = x_i' beta + u_i + e_i with u_i ~ N(0, tau^2) between tasks and e_i ~ N(0, se_i^2).
tau^2 is estimated by restricted maximum likelihood (Viechtbauer 2005, J. Educ. Behav. Stat. 30:261), by
Fisher scoring. Standard errors of beta are those of Knapp and Hartung (2003, Stat. Med. 22:2693) with the
scale never below 1 (the modification of Rover, Knapp and Friede 2015, BMC Med. Res. Methodol. 15:99), with t
quantiles of k - p degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROUNDS, TOLERANCE = 200, 1e-10  # of Fisher scoring; relative to the effects' variance


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaRegression:
    """Coefficients of k effects on p columns, and the heterogeneity that the columns do not explain.

    beta, se, lo, hi [p]: coefficients, standard errors and interval; p [p]: two-sided p of zero.
    tau:                  standard deviation of the true effects around x' beta
    i2:                   share (0 to 1) of the effects' variance that is heterogeneity
                          (Higgins and Thompson 2002)
    q, q_p:               Cochran's Q of residual heterogeneity, and its p from chi-square
                          with k - p degrees of freedom
    shrunken [k]:         best linear unbiased predictions of the true effects (Raudenbush and Bryk 1985)
    shrunken_se [k]:      their standard errors; the uncertainty of beta is included, that of tau is not
    """

    beta: Floats
    se: Floats
    lo: Floats
    hi: Floats
    p: Floats
    tau: float
    i2: float
    q: float
    q_p: float
    dof: int
    shrunken: Floats
    shrunken_se: Floats
    level: float

    def prediction(self, x: Sequence[float] | Floats) -> tuple[float, float]:
        """The interval of the true effect of a new task with the columns x [p].

        x' beta +- t(k - p) sqrt(tau^2 + var(x' beta)), as in Higgins, Thompson and
        Spiegelhalter 2009; one column only.
        """
        from scipy.special import stdtrit

        if self.beta.size > 1:
            message = "a prediction interval is given for a mean without moderators only"
            raise ValueError(message)
        center = float(np.dot(x, self.beta))
        half = float(stdtrit(self.dof, 0.5 + self.level / 2)) * float(np.hypot(self.tau, self.se[0] * x[0]))
        return center - half, center + half


def meta_regression(
    effects: Sequence[float] | Floats,
    errors: Sequence[float] | Floats,
    design: Floats | None = None,
    *,
    level: float = 0.95,
) -> MetaRegression:
    """Regress effects [k] with standard errors [k] on a design [k, p] (default: their mean alone).

    Raises ValueError if k <= p, if a standard error is not positive, or if the design's columns are
    collinear.
    """
    from scipy.special import chdtrc, stdtr, stdtrit

    y, v = np.asarray(effects, np.float64), np.asarray(errors, np.float64) ** 2
    x = np.ones((y.size, 1)) if design is None else np.asarray(design, np.float64)
    k, p = x.shape
    if k <= p or not (v > 0).all() or np.linalg.matrix_rank(x) < p:
        message = f"{k} effects with positive standard errors do not determine {p} coefficients"
        raise ValueError(message)
    tau2 = _reml(y, v, x)
    weights = 1 / (v + tau2)
    covariance = np.linalg.inv((x.T * weights) @ x)
    beta = covariance @ (x.T @ (weights * y))
    residual = y - x @ beta
    scale = max(1.0, float(residual @ (weights * residual)) / (k - p))
    se = np.sqrt(np.diag(covariance) * scale)
    quantile = float(stdtrit(k - p, 0.5 + level / 2))
    fixed = _projection(1 / v, x)
    q = max(0.0, float(y @ fixed @ y))
    typical = (k - p) / float(np.trace(fixed))  # the within-task variance of Higgins and Thompson
    shrink = tau2 / (v + tau2)
    leverage = np.einsum("ij,jk,ik->i", x, covariance, x)
    return MetaRegression(
        beta=beta,
        se=se,
        lo=beta - quantile * se,
        hi=beta + quantile * se,
        p=2 * stdtr(k - p, -np.abs(beta) / se),
        tau=float(np.sqrt(tau2)),
        i2=tau2 / (tau2 + typical),
        q=q,
        q_p=float(chdtrc(k - p, q)),
        dof=k - p,
        shrunken=x @ beta + shrink * residual,
        shrunken_se=np.sqrt(shrink * v + (1 - shrink) ** 2 * leverage),
        level=level,
    )


def between_variance(effects: Floats, errors: Floats) -> float:
    """tau^2 of effects [k] with standard errors [k] around their mean."""
    return _reml(effects, errors**2, np.ones((effects.size, 1)))


def _projection(weights: Floats, x: Floats) -> Floats:
    """W - W X (X' W X)^-1 X' W [k, k]."""
    weighted = x * weights[:, None]
    return np.diag(weights) - weighted @ np.linalg.inv(x.T @ weighted) @ weighted.T


def _reml(y: Floats, v: Floats, x: Floats) -> float:
    """The restricted-likelihood estimate of tau^2, at least 0.

    Fisher scoring from the method-of-moments value; a step that overshoots zero stops there (Viechtbauer
    2005).
    """
    spread = float(np.var(y)) + float(v.mean())
    tau2 = max(0.0, float(np.var(y, ddof=1)) - float(v.mean()))
    for _ in range(ROUNDS):
        w = 1 / (v + tau2)
        weighted = x * w[:, None]
        inverse = np.linalg.inv(x.T @ weighted)
        squares = inverse @ (weighted.T @ weighted)
        cubes = inverse @ ((weighted * w[:, None]).T @ weighted)
        py = w * (y - x @ (inverse @ (weighted.T @ y)))
        trace = float(w.sum()) - float(np.trace(squares))  # of P = W - W X (X'WX)^-1 X'W
        trace_of_square = float(w @ w) - 2 * float(np.trace(cubes)) + float(np.sum(squares * squares.T))
        step = (float(py @ py) - trace) / trace_of_square
        new = max(0.0, tau2 + step)
        if abs(new - tau2) <= TOLERANCE * spread:
            return new
        tau2 = new
    return tau2
