"""The published scaling laws, by name; `load("my_law.py")` reads a user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType

import numpy as np

from orch_analysis.law import POSITIVE, Array, Law, Power, Term, Values, load, sum_of_terms
from orch_core.errors import OrchError

__all__ = ["LAWS", "Law", "get", "load"]

INF = float("inf")
EXPONENT = (0.0, 5.0)
ANY = (-INF, INF)


def _powers(name: str, terms: tuple[Term, ...], **about: object) -> Law:
    exponents = {power.exponent: EXPONENT for term in terms for power in term.powers}
    names = [term.coefficient for term in terms] + list(exponents)
    variables = tuple(dict.fromkeys(power.variable for term in terms for power in term.powers))
    settings: dict[str, object] = {"bounds": exponents, "params": tuple(names), "x": variables} | about
    return Law(
        name=name,
        f=sum_of_terms(terms),
        linear=tuple(term.coefficient for term in terms),
        terms=terms,
        **settings,  # type: ignore[arg-type]
    )


def _offset(E: str, A: str, exponent: str, variable: str = "params") -> tuple[Term, ...]:
    return (Term(coefficient=E), Term(coefficient=A, powers=(Power(variable=variable, exponent=exponent),)))


POWER = _powers(
    "power",
    (Term(coefficient="A", powers=(Power(variable="params", exponent="slope", sign=1.0),)),),
    formula="value = A * params^slope",
    bounds={"slope": (-5.0, 5.0)},
    units={"A": "value at params = 1", "slope": "d log(value) / d log(params)"},
    source="log-log line; the slopes of BioVFM-21M (arXiv:2501.14685) and of Hestness et al. 2017 (arXiv:1712.00409)",
)
POWER_OFFSET = _powers(
    "power_offset",
    _offset("E", "A", "alpha"),
    formula="value = E + A / params^alpha",
    units={"E": "value", "A": "value at params = 1 above E", "alpha": "1"},
    source="Henighan et al. 2020 (arXiv:2010.14701), eq. 1.1: irreducible error plus a power law",
)
M2 = _powers(
    "m2",
    _offset("eps_inf", "beta", "c", "samples"),
    formula="error = eps_inf + beta * samples^-c",
    units={"eps_inf": "error", "beta": "error at samples = 1 above eps_inf", "c": "1"},
    source="Alabdulmohsin, Neyshabur, Zhai 2022 (arXiv:2209.06640), M2, with c > 0",
)
CHINCHILLA = _powers(
    "chinchilla",
    (
        Term(coefficient="E"),
        Term(coefficient="A", powers=(Power(variable="params", exponent="alpha"),)),
        Term(coefficient="B", powers=(Power(variable="samples", exponent="beta"),)),
    ),
    formula="loss = E + A / params^alpha + B / samples^beta",
    units={"E": "loss", "A": "loss at params = 1", "B": "loss at samples = 1", "alpha": "1", "beta": "1"},
    source="Hoffmann et al. 2022 (arXiv:2203.15556), eq. 2; Besiroglu et al. 2024 (arXiv:2404.10102)",
)
GADRE = _powers(
    "gadre",
    (
        Term(coefficient="E"),
        Term(coefficient="a", powers=(Power(variable="params", exponent="eta"),)),
        Term(coefficient="b", powers=(Power(variable="samples", exponent="eta", scale=6.0**0.5),)),
    ),
    formula="loss = E + a / params^eta + b / (sqrt(6) * samples)^eta",
    units={"E": "loss", "a": "loss at params = 1", "b": "loss at sqrt(6) samples = 1", "eta": "1"},
    source="Gadre et al. 2024 (arXiv:2403.08540), eq. 4, with C = 6 N D and M = D / N written out in N and D",
)


def _log_span(x: Array, points: int, outside: float = 0.0) -> Array:
    lo, hi = float(np.log(x.min())), float(np.log(x.max()))
    margin = outside * (hi - lo)
    return np.asarray(np.exp(np.linspace(lo - margin, hi + margin, points)))


def _product(**axes: Array) -> Values:
    grids = np.meshgrid(*axes.values(), indexing="ij")
    return {name: grid.ravel() for name, grid in zip(axes, grids, strict=True)}


def _kaplan(x: Values, p: Values) -> Array:
    first = p["alpha_N"] / p["alpha_D"] * (np.log(p["N_c"]) - np.log(x["params"]))
    second = np.log(p["D_c"]) - np.log(x["samples"])
    return np.asarray(np.exp(p["alpha_D"] * np.logaddexp(first, second)))


def _kaplan_starts(x: Values, y: Array) -> Values:
    """Candidates: for each pair of exponents, `y^(1/alpha_D)` is linear in N^-r and D^-1 (r = alpha_N / alpha_D)."""
    rows: list[tuple[float, float, float, float]] = []
    for alpha_D in np.geomspace(0.02, 1.5, 16):
        for ratio in np.geomspace(0.15, 6.0, 16):
            target = np.exp(np.log(y / y.max()) / alpha_D)
            basis = (
                np.stack([np.exp(-ratio * np.log(x["params"])), 1.0 / x["samples"]], axis=1) / target[:, None]
            )
            scale = basis.max(axis=0)
            u, v = np.maximum(np.linalg.lstsq(basis / scale, np.ones(y.size))[0], 1e-8) / scale
            log_top = np.log(y.max()) / alpha_D
            log_N, log_D = (np.log(u) + log_top) / ratio, np.log(v) + log_top
            if max(abs(log_N), abs(log_D)) < 300.0:
                rows.append((np.exp(log_N), np.exp(log_D), ratio * alpha_D, alpha_D))
    return dict(zip(KAPLAN.params, np.array(rows).T, strict=True))


KAPLAN = Law(
    name="kaplan",
    formula="loss = ((N_c / params)^(alpha_N / alpha_D) + D_c / samples)^alpha_D",
    params=("N_c", "D_c", "alpha_N", "alpha_D"),
    x=("params", "samples"),
    f=_kaplan,
    bounds={"alpha_N": (1e-3, 5.0), "alpha_D": (1e-3, 5.0)},
    units={"N_c": "parameters", "D_c": "samples", "alpha_N": "1", "alpha_D": "1"},
    starts=_kaplan_starts,
    source="Kaplan et al. 2020 (arXiv:2001.08361), eq. 1.5",
)


def _m4(x: Values, p: Values) -> Array:
    """Solve (e - eps_inf) / (eps_0 - e)^alpha = beta * x^-c for e by Newton steps on t = logit of e in its range."""
    log_right = np.log(p["beta"]) - p["c"] * np.log(x["samples"])
    span = np.maximum(p["eps_0"] - p["eps_inf"], 1e-12)
    right = log_right - (1.0 - p["alpha"]) * np.log(span)
    alpha = p["alpha"]
    # With s = (e - eps_inf) / span and t = logit(s): log s - alpha log(1 - s) = right, increasing in t.
    t = np.where(right < 0, right, right / alpha)
    for _ in range(8):
        softplus = np.logaddexp(0.0, t)
        s = np.exp(t - softplus)
        t = t - (t - softplus + alpha * softplus - right) / (1.0 - s + alpha * s)
    return np.asarray(p["eps_inf"] + span * np.exp(t - np.logaddexp(0.0, t)))


def _m4_starts(x: Values, y: Array) -> Values:
    """Candidates: given both levels and alpha, log((e - eps_inf) / (eps_0 - e)^alpha) is a line in log x."""
    rows: list[tuple[float, float, float, float, float]] = []
    logs = np.log(x["samples"])
    for low in y.min() * np.array([0.02, 0.3, 0.6, 0.8, 0.9, 0.97]):
        for top in y.max() + (y.max() - y.min()) * np.array([0.02, 0.1, 0.5, 2.0, 10.0]):
            for alpha in (0.25, 0.5, 1.0, 2.0, 4.0):
                left = np.log(y - low) - alpha * np.log(top - y)
                slope, level = np.polyfit(logs, left, 1)
                rows.append((low, top, alpha, np.exp(np.clip(level, -300, 300)), max(-slope, 0.01)))
    return dict(zip(M4.params, np.array(rows).T, strict=True))


M4 = Law(
    name="m4",
    formula="(error - eps_inf) / (eps_0 - error)^alpha = beta * samples^-c",
    params=("eps_inf", "eps_0", "alpha", "beta", "c"),
    x=("samples",),
    f=_m4,
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
)


def _bnsl(breaks: int) -> Law:
    numbers = range(1, breaks + 1)
    shape = ("c0", *(f"{kind}{i}" for i in numbers for kind in ("c", "d", "f")))

    def f(x: Values, p: Values) -> Array:
        logs = np.log(x["samples"])
        power = -p["c0"] * logs
        for i in numbers:
            width = p[f"f{i}"]
            power = power - p[f"c{i}"] * width * np.logaddexp(0.0, (logs - np.log(p[f"d{i}"])) / width)
        return np.asarray(p["a"] + p["b"] * np.exp(power))

    def starts(x: Values, _y: Array) -> Values:
        if breaks == 1:
            return _product(
                c0=np.array([-0.1, 0.02, 0.1, 0.3, 0.7]),
                c1=np.array([-0.5, -0.1, 0.1, 0.3, 0.7, 1.5]),
                d1=_log_span(x["samples"], 7),
                f1=np.array([0.1, 0.4, 1.5]),
            )
        both = _product(
            c0=np.array([-0.05, 0.05, 0.3]),
            c1=np.array([-0.3, 0.15, 0.6]),
            c2=np.array([-0.3, 0.15, 0.6]),
            d1=_log_span(x["samples"], 5),
            d2=_log_span(x["samples"], 5),
            f1=np.array([0.2, 1.0]),
        )
        keep = both["d1"] < both["d2"]
        return {name: both[name if name != "f2" else "f1"][keep] for name in shape}

    bounds = {"a": POSITIVE, "b": POSITIVE, "c0": (-3.0, 5.0)}
    for i in numbers:
        bounds |= {f"c{i}": (-5.0, 5.0), f"d{i}": POSITIVE, f"f{i}": (0.02, 10.0)}
    product = " * ".join(f"(1 + (samples/d{i})^(1/f{i}))^(-c{i}*f{i})" for i in numbers)
    return Law(
        name=f"bnsl{breaks}",
        formula=f"value = a + b * samples^-c0 * {product}",
        params=("a", "b", *shape),
        x=("samples",),
        f=f,
        bounds=bounds,
        units={"a": "value", "b": "value", **{f"d{i}": "samples at break" for i in numbers}},
        linear=("a", "b"),
        starts=starts,
        source="Caballero et al. 2023 (arXiv:2210.14891), eq. 1",
    )


def _data_constrained(x: Values, p: Values) -> Array:
    U_D, D, N = x["unique_samples"], x["samples"], x["params"]
    log_G = (np.log(p["alpha"] * p["A"]) - np.log(p["beta"] * p["B"])) / (p["alpha"] + p["beta"])
    # Parameters that are compute-optimal for the unique data, G (U_D G)^(beta/alpha): Hoffmann et al., eq. 4.
    best_N = np.exp(log_G * (1.0 + p["beta"] / p["alpha"]) + p["beta"] / p["alpha"] * np.log(U_D))
    U_N = np.minimum(N, best_N)
    repeat_D = np.maximum(D / U_D - 1.0, 0.0)
    repeat_N = np.maximum(N / U_N - 1.0, 0.0)
    effective_D = U_D * (1.0 - p["R_D"] * np.expm1(-repeat_D / p["R_D"]))
    effective_N = U_N * (1.0 - p["R_N"] * np.expm1(-repeat_N / p["R_N"]))
    return np.asarray(p["E"] + p["A"] * effective_N ** -p["alpha"] + p["B"] * effective_D ** -p["beta"])


def _repeats(_x: Values, _y: Array) -> Values:
    return _product(R_D=np.geomspace(0.3, 3000.0, 24), R_N=np.geomspace(0.1, 1000.0, 24))


def _data_constrained_starts(x: Values, y: Array) -> Values:
    """Candidates: with no excess parameters, E, A and B are linear given the exponents and R_D."""
    rows: list[tuple[float, ...]] = []
    U_D, repeats = x["unique_samples"], np.maximum(x["samples"] / x["unique_samples"] - 1.0, 0.0)
    for alpha in (0.1, 0.2, 0.35, 0.6, 1.0):
        for beta in (0.1, 0.2, 0.35, 0.6, 1.0):
            for R_D in (1.0, 5.0, 20.0, 100.0):
                effective = U_D * (1.0 - R_D * np.expm1(-repeats / R_D))
                basis = (
                    np.stack([np.ones_like(y), x["params"] ** -alpha, effective**-beta], axis=1) / y[:, None]
                )
                scale = basis.max(axis=0)
                E, A, B = np.maximum(np.linalg.lstsq(basis / scale, np.ones(y.size))[0], 1e-3) / scale
                rows += [(E, A, B, alpha, beta, R_D, R_N) for R_N in (1.0, 5.0, 50.0)]
    return dict(zip(DATA_CONSTRAINED_FULL.params, np.array(rows).T, strict=True))


DATA_CONSTRAINED_FULL = Law(
    name="data_constrained_full",
    formula="loss = E + A / N'^alpha + B / D'^beta, D' = U_D (1 + R_D (1 - exp(-(samples/U_D - 1) / R_D))), "
    "N' = U_N (1 + R_N (1 - exp(-(params/U_N - 1) / R_N))), U_D = unique_samples, U_N = min(params, optimal for U_D)",
    params=("E", "A", "B", "alpha", "beta", "R_D", "R_N"),
    x=("params", "samples", "unique_samples"),
    f=_data_constrained,
    bounds={"alpha": (0.02, 3.0), "beta": (0.02, 3.0)},
    units={
        "E": "loss",
        "R_D": "repetitions until data value has decayed to 1/e",
        "R_N": "the same for parameters",
    },
    starts=_data_constrained_starts,
    source="Muennighoff et al. 2023 (arXiv:2305.16264), eq. 5-7",
)

DATA_CONSTRAINED = replace(
    DATA_CONSTRAINED_FULL.fix(
        E=float(np.exp(0.6254804)),
        A=float(np.exp(6.255414)),
        B=float(np.exp(7.3049974)),
        alpha=0.3526596,
        beta=0.3526596,
    ),
    name="data_constrained",
    starts=_repeats,
    source="Muennighoff et al. 2023 (arXiv:2305.16264), eq. 5-7; E, A, B, alpha = beta are the paper's, "
    "only R_D and R_N are fitted (data_constrained_full fits all seven)",
)


def _sigmoid(x: Values, p: Values) -> Array:
    return np.asarray(
        p["floor"] + p["gain"] / (1.0 + np.exp(np.clip(p["k"] * (x["loss"] - p["loss_mid"]), -500, 500)))
    )


def _sigmoid_starts(x: Values, _y: Array) -> Values:
    lo, hi = float(x["loss"].min()), float(x["loss"].max())
    span = max(hi - lo, 1e-9)
    return _product(loss_mid=np.linspace(lo - span, hi + span, 25), k=np.geomspace(0.3, 60.0, 20) / span)


SIGMOID = Law(
    name="sigmoid",
    formula="metric = floor + gain / (1 + exp(k * (loss - loss_mid)))",
    params=("floor", "gain", "k", "loss_mid"),
    x=("loss",),
    f=_sigmoid,
    bounds={"floor": ANY, "gain": ANY, "loss_mid": ANY},
    units={"floor": "metric at high loss", "gain": "metric at low loss above floor", "k": "1 / loss"},
    link="linear",
    linear=("floor", "gain"),
    starts=_sigmoid_starts,
    source="two-step downstream prediction: Grattafiori et al. 2024 (arXiv:2407.21783), sec. 3.2.1; "
    "Bhagia et al. 2024 (arXiv:2412.04403), eq. 3",
)


def _gadre_error(x: Values, p: Values) -> Array:
    return np.asarray(p["eps"] - p["k"] * np.exp(-p["gamma"] * x["loss"]))


GADRE_ERROR = Law(
    name="gadre_error",
    formula="error = eps - k * exp(-gamma * loss)",
    params=("eps", "k", "gamma"),
    x=("loss",),
    f=_gadre_error,
    units={"eps": "error at high loss", "k": "error", "gamma": "1 / loss"},
    link="linear",
    linear=("eps", "k"),
    starts=lambda x, _y: {"gamma": np.geomspace(0.02, 50.0, 200) / max(float(np.ptp(x["loss"])), 1e-9)},
    source="Gadre et al. 2024 (arXiv:2403.08540), eq. 5",
)


def _bounded_error(x: Values, p: Values, chance: Array) -> Array:
    solved = 1.0 / (1.0 + np.exp(p["alpha"] * (np.log(x["params"]) - np.log(p["x_half"]))))
    return np.asarray(p["E"] + (chance - p["E"]) * solved)


def _bounded_starts(x: Values, _y: Array) -> Values:
    return _product(x_half=_log_span(x["params"], 24, outside=2.0), alpha=np.geomspace(0.03, 4.0, 24))


def _bounded(name: str, chance: Callable[[Values], Array], **about: object) -> Law:
    settings: dict[str, object] = {
        "x": ("params",),
        "bounds": {"E": (0.0, 1.0), "alpha": (0.0, 10.0)},
    } | about
    return Law(
        name=name,
        params=("E", "x_half", "alpha"),
        f=lambda x, p: np.asarray(1.0 - _bounded_error(x, p, chance(x))),
        units={"E": "error at infinite size", "x_half": "size at which half the gap is closed", "alpha": "1"},
        link="log_error",
        linear=("E",),
        starts=_bounded_starts,
        **settings,  # type: ignore[arg-type]
    )


BOUNDED = (
    "M4 with alpha = 1 (Alabdulmohsin et al. 2022, arXiv:2209.06640) in the error 1 - value, "
    "its error at no data fixed at chance: "
)
AUC = _bounded(
    "auc",
    lambda _x: np.asarray(0.5),
    formula="auc = 1 - E - (0.5 - E) / (1 + (params / x_half)^alpha)",
    bounds={"E": (0.0, 0.5), "alpha": (0.0, 10.0)},
    source=BOUNDED + "0.5",
)
ACCURACY = _bounded(
    "accuracy",
    lambda x: np.asarray(1.0 - 1.0 / x["classes"]),
    formula="accuracy = 1 - E - (1 - 1/classes - E) / (1 + (params / x_half)^alpha)",
    x=("params", "classes"),
    source=BOUNDED + "1 - 1/classes",
)

LAWS: Mapping[str, Law] = MappingProxyType(
    {
        law.name: law
        for law in (
            POWER,
            POWER_OFFSET,
            M2,
            M4,
            _bnsl(1),
            _bnsl(2),
            KAPLAN,
            CHINCHILLA,
            DATA_CONSTRAINED,
            DATA_CONSTRAINED_FULL,
            GADRE,
            GADRE_ERROR,
            SIGMOID,
            AUC,
            ACCURACY,
        )
    }
)


def get(name: str) -> Law:
    """A law by its name, or by the path of a file that defines one; raises OrchError for neither."""
    if name in LAWS:
        return LAWS[name]
    if name.endswith(".py"):
        return load(name)
    close = get_close_matches(name, LAWS, n=1)
    msg = f"unknown law {name!r}; known: {', '.join(LAWS)}"
    raise OrchError(
        msg, hint=f"did you mean {close[0]!r}?" if close else "or give the path of a file that sets LAW"
    )
