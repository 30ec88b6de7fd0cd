"""Expected intervals of a law's parameters and predictions, computed before a grid has run.

If errors are independent and of known size, the inverse of the Fisher information J'J / sd^2 is a lower bound
of the variance of any unbiased estimate, where J contains the derivatives of the law in its link (Atkinson,
Donev & Tobias 2007, Optimum Experimental Designs, ch. 17). Least squares reaches the bound as errors shrink.
The module uses only numpy, because `orch plan` imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from orch_analysis.laws import LAWS
from orch_analysis.laws.law import Array, Law, Values

SPAN = 10.0  # below this ratio of largest to smallest a variable shows little of its exponent
CONFOUNDED = 0.95  # correlation of logs from which two variables cannot be separated in practice
BLIND = 1e-9  # singular values below this share of the largest are rounding
UNKNOWN = 50.0  # a half width beyond it (of an exponent, or a logarithm) is as good as unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumedLaw:
    """The law assumed for a plan: parameter values, and `noise`, the sd of one cell in the law's link."""

    law: Law
    params: Mapping[str, float]
    noise: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An expected interval around the assumed value; infinite if the design does not determine it."""

    value: float
    lo: float
    hi: float

    @property
    def half(self) -> float:
        """Half its width."""
        return (self.hi - self.lo) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The expected precision of a law from `n` cells at `scales` distinct points.

    parameters: by name; prediction: the law's value at the target, None without a target.
    """

    law: str
    n: int
    scales: int
    parameters: Mapping[str, Interval]
    prediction: Interval | None
    warnings: tuple[str, ...]


def expected(
    assumed_law: AssumedLaw, x: Values, *, target: Mapping[str, float] | None = None, level: float = 0.95
) -> Expected:
    """Expected intervals of the parameters and of the prediction at `target`, from cells at `x`.

    x: arrays of one length. Intervals use Student's t with n - p degrees of freedom, because the size of the
       error is estimated too. As in
    fits, the intervals of parameters that may be any positive number are computed in logs, those of exponents
    are not.
    """
    n, free = int(next(iter(x.values())).size), assumed_law.law.free
    scales = int(np.unique(np.stack(list(x.values()), axis=1), axis=0).shape[0])
    warnings = list(design_warnings(x))
    if scales < len(free) or n <= len(free):
        warnings.append(f"{n} cells at {scales} scales cannot determine the law's {len(free)} parameters")
    factor = covariance_factor(assumed_law, x)
    t = student(level, max(n - len(free), 1))
    parameters = {}
    for index, name in enumerate(free):
        spread = float(np.linalg.norm(factor[index]))
        parameters[name] = _interval(
            assumed_law.params[name], t * spread, logs=_in_logs(assumed_law.law, name), known=n > len(free)
        )
    scales_of_terms = {term.coefficient for term in assumed_law.law.terms if term.powers}
    weak = [name for name in free if name not in scales_of_terms and not _is_informative(parameters[name])]
    if weak:
        warnings.append(
            f"cannot estimate {', '.join(weak)}: the expected interval is wider than the value itself"
        )
    prediction = None
    if target is not None:
        point = {name: np.array([float(target[name])]) for name in assumed_law.law.x}
        spread = float(np.linalg.norm(jacobian(assumed_law, point) @ factor))
        value = float(assumed_law.law.value(point, assumed_law.params)[0])
        prediction = _interval(value, t * spread, logs=assumed_law.law.link == "log", known=n > len(free))
    return Expected(
        law=assumed_law.law.name,
        n=n,
        scales=scales,
        parameters=parameters,
        prediction=prediction,
        warnings=tuple(warnings),
    )


def _interval(value: float, half: float, *, logs: bool, known: bool) -> Interval:
    if not known or half > UNKNOWN:
        return Interval(value=value, lo=0.0 if logs else -np.inf, hi=np.inf)
    if logs:
        ratio = float(np.exp(half))
        return Interval(value=value, lo=value / ratio, hi=value * ratio)
    return Interval(value=value, lo=value - half, hi=value + half)


def _is_informative(interval: Interval) -> bool:
    return interval.half <= abs(interval.value)


def _in_logs(law: Law, name: str) -> bool:
    return not np.isfinite(law.bound(name)[1]) and law.bound(name)[0] == 0.0


def jacobian(assumed_law: AssumedLaw, x: Values) -> Array:
    """Derivatives of the law in its link, one row per point, one column per free parameter.

    Derivatives by parameters that may be any positive number are by their logs. Central differences of
    relative step 1e-5 have an error of order 1e-10.
    """
    law, step = assumed_law.law, 1e-5
    columns = []
    for name in law.free:
        value = assumed_law.params[name]
        width = step * max(abs(value), 1e-12)
        up, down = (_linked(law, x, {**assumed_law.params, name: value + side * width}) for side in (1, -1))
        slope = (up - down) / (2 * width)
        columns.append(slope * value if _in_logs(law, name) else slope)
    return np.stack(columns, axis=1)


def _linked(law: Law, x: Values, params: Mapping[str, float]) -> Array:
    value = law.value(x, params)
    if law.link == "log":
        return np.asarray(np.log(value))
    return np.asarray(np.log1p(-value)) if law.link == "log_error" else value


def covariance_factor(assumed_law: AssumedLaw, x: Values) -> Array:
    """A matrix F such that F F' is the covariance of the estimates; huge in undetermined directions."""
    matrix = jacobian(assumed_law, x) / assumed_law.noise
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    values = np.zeros(len(scale))
    triangle = np.linalg.qr(matrix / scale, mode="r")  # as singular, and small however many cells
    _, found, directions = np.linalg.svd(triangle)
    values[: len(found)] = found
    return np.asarray(directions.T / np.maximum(values, BLIND * values.max()) / scale[:, None])


def design_warnings(x: Values) -> tuple[str, ...]:
    """Sentences on the reasons why cells at `x` (arrays of one length) cannot determine an exponent."""
    words = []
    logs = {name: np.log(values) for name, values in x.items()}
    for name, values in logs.items():
        ratio = float(np.exp(np.ptp(values)))
        if ratio == 1.0:
            words.append(f"all cells have the same {name}; its exponent cannot be estimated")
        elif np.unique(values).size == 2:
            words.append(
                f"only two values of {name}: an exponent can be fitted, but the law's form cannot be tested"
            )
        elif ratio < SPAN:
            words.append(
                f"{name} spans only a factor of {ratio:.2g}: the interval of its exponent will be wide"
            )
    names = [name for name, values in logs.items() if np.ptp(values) > 0]
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            r = float(np.corrcoef(logs[first], logs[second])[0, 1])
            if abs(r) > CONFOUNDED:
                words.append(
                    f"{first} and {second} are correlated (r = {r:.2f}): their exponents are confounded"
                )
    return tuple(words)


def assumed(x: Values, *, noise: float = 0.01) -> AssumedLaw:
    """Chinchilla's law with published exponents, centred on the grid, for studies without a pilot.

    Exponents .348 and .366 are those of Besiroglu et al. 2024 (arXiv:2404.10102, table 1). At the geometric
    centre
    of the grid the loss is 1: half of it irreducible, a quarter each due to size and data. 1% noise is about
                               the sd
    of losses over seeds (Porian et al. 2024, arXiv:2406.19146, use 0.5% to 10%).
    """
    alpha, beta = 0.348, 0.366
    centre = {name: float(np.log(values).mean()) for name, values in x.items()}
    params = {
        "E": 0.5,
        "A": 0.25 * float(np.exp(alpha * centre["params"])),
        "B": 0.25 * float(np.exp(beta * centre["samples"])),
        "alpha": alpha,
        "beta": beta,
    }
    source = (
        "exponents .348, .366 (arXiv:2404.10102); assuming that half the loss is irreducible at the grid's "
        "centre"
    )
    return AssumedLaw(law=LAWS["chinchilla"], params=params, noise=noise, source=source)


def auc_standard_error(auc: float, positives: float, negatives: float) -> float:
    """Standard error of an AUC from the counts of its test set (Hanley & McNeil 1982, Radiology, eq. 2)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return float(np.sqrt(variance / (positives * negatives)))


def pooled_noise(values: Array, groups: Array) -> float | None:
    """Pooled sd of log `values` within groups of replicates (seeds of one cell); None without replicates."""
    logs, excess, dof = np.log(values), 0.0, 0
    for group in np.unique(groups):
        members = logs[groups == group]
        excess += float(((members - members.mean()) ** 2).sum())
        dof += members.size - 1
    return float(np.sqrt(excess / dof)) if dof else None


def student(level: float, dof: int) -> float:
    """Two-sided quantile of Student's t: exact for dof 1 and 2, else within 1% (0.1% from 5 on).

    Cornish-Fisher expansion of Abramowitz & Stegun 1964, 26.7.5.
    """
    p = 0.5 + level / 2
    if dof == 1:
        return float(np.tan(np.pi * (p - 0.5)))
    if dof == 2:
        return float((2 * p - 1) * np.sqrt(2 / (4 * p * (1 - p))))
    z = NormalDist().inv_cdf(p)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / dof + g2 / dof**2 + g3 / dof**3 + g4 / dof**4
