"""Laws of one size: power laws, M4 and broken power laws."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from orch_analysis.laws.law import POSITIVE, Array, Law, Power, Term, Values, product, sum_of_terms

EXPONENT = (0.0, 5.0)


def powers(name: str, terms: tuple[Term, ...], **about: Any) -> Law:
    """A law that is a sum of power-law terms: its parameters, bounds and function follow from them."""
    exponents = {power.exponent: EXPONENT for term in terms for power in term.powers}
    names = [term.coefficient for term in terms] + list(exponents)
    variables = tuple(dict.fromkeys(power.variable for term in terms for power in term.powers))
    settings: dict[str, Any] = {"bounds": exponents, "params": tuple(names), "x": variables} | about
    return Law(
        name=name,
        f=partial(sum_of_terms, terms),
        linear=tuple(term.coefficient for term in terms),
        terms=terms,
        **settings,
    )


def _offset(E: str, A: str, exponent: str, variable: str = "params") -> tuple[Term, ...]:
    return (Term(coefficient=E), Term(coefficient=A, powers=(Power(variable=variable, exponent=exponent),)))


POWER = powers(
    "power",
    (Term(coefficient="A", powers=(Power(variable="params", exponent="slope", sign=1.0),)),),
    formula="value = A * params^slope",
    bounds={"slope": (-5.0, 5.0)},
    units={"A": "value at params = 1", "slope": "d log(value) / d log(params)"},
    source="log-log line; the slopes of BioVFM-21M (Liu et al. 2025, arXiv:2505.09329) "
    "and of Hestness et al. 2017 (arXiv:1712.00409)",
    auto=True,
)
POWER_OFFSET = powers(
    "power_offset",
    _offset("E", "A", "alpha"),
    formula="value = E + A / params^alpha",
    units={"E": "value", "A": "value at params = 1 above E", "alpha": "1"},
    source="Henighan et al. 2020 (arXiv:2010.14701), eq. 1.1: irreducible error plus a power law",
    auto=True,
)
M2 = powers(
    "m2",
    _offset("eps_inf", "beta", "c", "samples"),
    formula="error = eps_inf + beta * samples^-c",
    units={"eps_inf": "error", "beta": "error at samples = 1 above eps_inf", "c": "1"},
    source="Alabdulmohsin, Neyshabur, Zhai 2022 (arXiv:2209.06640), M2, with c > 0",
)


def log_span(x: Array, points: int, outside: float = 0.0) -> Array:
    """Values spread evenly in the logarithm over the range of `x`, and a share `outside` beyond it."""
    lo, hi = float(np.log(x.min())), float(np.log(x.max()))
    margin = outside * (hi - lo)
    return np.asarray(np.exp(np.linspace(lo - margin, hi + margin, points)))


def _softplus(t: Array) -> tuple[Array, Array]:
    """log(1 + exp(t)) and its derivative, the logistic function, from one exponential."""
    small = np.exp(-np.abs(t))
    return np.maximum(t, 0.0) + np.log1p(small), np.where(t < 0.0, small, 1.0) / (1.0 + small)


def _m4_share(x: Values, p: Values) -> tuple[Array, Array, Array]:
    """Solve (e - eps_inf) / (eps_0 - e)^alpha = beta * x^-c: span, s = (e - eps_inf) / span and -log(1 - s).

    On t = logit(s): t + (alpha - 1) softplus(t) = log(beta) - c log(x) - (1 - alpha) log(span), convex or
    concave in t, so of the roots of its tangents at both ends and at zero the one nearest to the rest starts
    the search; three of Halley's steps reach 1e-14 for alpha in [0.02, 20].
    """
    alpha = p["alpha"]
    span = np.maximum(p["eps_0"] - p["eps_inf"], 1e-12)
    right = np.log(p["beta"]) - p["c"] * np.log(x["samples"]) - (1.0 - alpha) * np.log(span)
    far, middle = right / alpha, 2.0 * (right + (1.0 - alpha) * np.log(2.0)) / (1.0 + alpha)
    above = np.maximum(np.maximum(right, far), middle)
    t = np.where(alpha > 1.0, np.minimum(np.minimum(right, far), middle), above)
    for _ in range(3):
        softplus, s = _softplus(t)
        slope = 1.0 - s + alpha * s
        miss = (t - softplus + alpha * softplus - right) / slope
        t = t - miss / (1.0 - 0.5 * miss * (alpha - 1.0) * s * (1.0 - s) / slope)
    softplus, s = _softplus(t)
    return span, s, softplus


def _m4(x: Values, p: Values) -> Array:
    span, s, _ = _m4_share(x, p)
    return np.asarray(p["eps_inf"] + span * s)


def _m4_slopes(x: Values, p: Values) -> tuple[Array, Values]:
    """M4 and its derivatives, which follow from the implicit equation."""
    span, s, softplus = _m4_share(x, p)
    alpha = p["alpha"]
    moves = span * s * (1.0 - s) / (1.0 - s + alpha * s)  # d value / d log(beta)
    level = (alpha - 1.0) / span
    return p["eps_inf"] + span * s, {
        "eps_inf": 1.0 - s - moves * level,
        "eps_0": s + moves * level,
        "alpha": moves * (np.log(span) - softplus),
        "beta": moves / p["beta"],
        "c": -moves * np.log(x["samples"]),
    }


def _m4_starts(x: Values, y: Array) -> Values:
    """Candidates: given both levels and alpha, log((e - eps_inf) / (eps_0 - e)^alpha) is a line in log x."""
    logs = np.log(x["samples"])
    grid = product(
        low=y.min() * np.array([0.02, 0.3, 0.6, 0.8, 0.9, 0.97]),
        top=y.max() + (y.max() - y.min()) * np.array([0.02, 0.1, 0.5, 2.0, 10.0]),
        alpha=np.array([0.25, 0.5, 1.0, 2.0, 4.0]),
    )
    low, top, alpha = (grid[name][:, None] for name in ("low", "top", "alpha"))
    left = np.log(y - low) - alpha * np.log(top - y)
    away = logs - logs.mean()
    slope = left @ away / max(float(away @ away), 1e-300)
    level = left.mean(axis=1) - slope * logs.mean()
    rows = (
        grid["low"],
        grid["top"],
        grid["alpha"],
        np.exp(np.clip(level, -300, 300)),
        np.maximum(-slope, 0.01),
    )
    return dict(zip(M4.params, rows, strict=True))


M4 = Law(
    name="m4",
    formula="(error - eps_inf) / (eps_0 - error)^alpha = beta * samples^-c",
    params=("eps_inf", "eps_0", "alpha", "beta", "c"),
    x=("samples",),
    f=_m4,
    slopes=_m4_slopes,
    bounds={"alpha": (0.02, 20.0), "c": EXPONENT},
    units={
        "eps_inf": "error at infinite data",
        "eps_0": "error at no data",
        "alpha": "1",
        "beta": "1",
        "c": "1",
    },
    starts=_m4_starts,
    source="Alabdulmohsin, Neyshabur, Zhai 2022 (arXiv:2209.06640), M4, with c > 0",
    auto=True,
    bounded=True,
)


def _bnsl1_starts(x: Values, _y: Array) -> Values:
    return product(
        c0=np.array([-0.1, 0.02, 0.1, 0.3, 0.7]),
        c1=np.array([-0.5, -0.1, 0.1, 0.3, 0.7, 1.5]),
        d1=log_span(x["samples"], 7),
        f1=np.array([0.1, 0.4, 1.5]),
    )


def _bnsl2_starts(x: Values, _y: Array) -> Values:
    both = product(
        c0=np.array([-0.05, 0.05, 0.3]),
        c1=np.array([-0.3, 0.15, 0.6]),
        c2=np.array([-0.3, 0.15, 0.6]),
        d1=log_span(x["samples"], 5),
        d2=log_span(x["samples"], 5),
        f1=np.array([0.2, 1.0]),
    )
    keep = both["d1"] < both["d2"]
    names = ("c0", *(f"{kind}{i}" for i in (1, 2) for kind in ("c", "d", "f")))
    return {name: both[name if name != "f2" else "f1"][keep] for name in names}


def _bnsl(breaks: int, x: Values, p: Values) -> Array:
    logs = np.log(x["samples"])
    power = -p["c0"] * logs
    for i in range(1, breaks + 1):
        softplus, _ = _softplus((logs - np.log(p[f"d{i}"])) / p[f"f{i}"])
        power = power - p[f"c{i}"] * p[f"f{i}"] * softplus
    return np.asarray(p["a"] + p["b"] * np.exp(power))


def _bnsl_slopes(breaks: int, x: Values, p: Values) -> tuple[Array, Values]:
    logs = np.log(x["samples"])
    power, by_power = -p["c0"] * logs, {"c0": -logs}
    for i in range(1, breaks + 1):
        c, width = p[f"c{i}"], p[f"f{i}"]
        t = (logs - np.log(p[f"d{i}"])) / width
        softplus, share = _softplus(t)
        power = power - c * width * softplus
        by_power |= {
            f"c{i}": -width * softplus,
            f"d{i}": c * share / p[f"d{i}"],
            f"f{i}": c * (t * share - softplus),
        }
    falling = np.exp(power)
    term = p["b"] * falling
    value = p["a"] + term
    slopes = {"a": np.ones_like(value), "b": falling}
    return value, slopes | {name: term * slope for name, slope in by_power.items()}


def bnsl(breaks: int, **about: Any) -> Law:
    """The broken neural scaling law with a number of smooth breaks, at d_i samples with width f_i."""
    numbers = range(1, breaks + 1)
    bounds = {"a": POSITIVE, "b": POSITIVE, "c0": (-3.0, 5.0)}
    for i in numbers:
        bounds |= {f"c{i}": (-5.0, 5.0), f"d{i}": POSITIVE, f"f{i}": (0.02, 10.0)}
    factors = " * ".join(f"(1 + (samples/d{i})^(1/f{i}))^(-c{i}*f{i})" for i in numbers)
    return Law(
        name=f"bnsl{breaks}",
        formula=f"value = a + b * samples^-c0 * {factors}",
        params=("a", "b", "c0", *(f"{kind}{i}" for i in numbers for kind in ("c", "d", "f"))),
        x=("samples",),
        f=partial(_bnsl, breaks),
        slopes=partial(_bnsl_slopes, breaks),
        bounds=bounds,
        units={"a": "value", "b": "value", **{f"d{i}": "samples at break" for i in numbers}},
        linear=("a", "b"),
        source="Caballero et al. 2023 (arXiv:2210.14891), eq. 1",
        **about,
    )


BNSL1 = bnsl(1, starts=_bnsl1_starts, auto=True)
BNSL2 = bnsl(2, starts=_bnsl2_starts)
