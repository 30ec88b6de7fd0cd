"""Laws of model and data size together: Chinchilla, Gadre, Kaplan and data-constrained training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orch_analysis.laws.curve import powers
from orch_analysis.laws.law import Array, Law, Power, Term, Values, product

CHINCHILLA = powers(
    "chinchilla",
    (
        Term(coefficient="E"),
        Term(coefficient="A", powers=(Power(variable="params", exponent="alpha"),)),
        Term(coefficient="B", powers=(Power(variable="samples", exponent="beta"),)),
    ),
    formula="loss = E + A / params^alpha + B / samples^beta",
    units={"E": "loss", "A": "loss at params = 1", "B": "loss at samples = 1", "alpha": "1", "beta": "1"},
    source="Hoffmann et al. 2022 (arXiv:2203.15556), eq. 2; Besiroglu et al. 2024 (arXiv:2404.10102)",
    auto=True,
)
GADRE = powers(
    "gadre",
    (
        Term(coefficient="E"),
        Term(coefficient="a", powers=(Power(variable="params", exponent="eta"),)),
        Term(coefficient="b", powers=(Power(variable="samples", exponent="eta", scale=6.0**0.5),)),
    ),
    formula="loss = E + a / params^eta + b / (sqrt(6) * samples)^eta",
    units={"E": "loss", "a": "loss at params = 1", "b": "loss at sqrt(6) samples = 1", "eta": "1"},
    loss="mse",
    source="Gadre et al. 2024 (arXiv:2403.08540), eq. 4, with C = 6 N D and M = D / N written out in N and D",
    auto=True,
)


def _kaplan(x: Values, p: Values) -> Array:
    first = p["alpha_N"] / p["alpha_D"] * (np.log(p["N_c"]) - np.log(x["params"]))
    second = np.log(p["D_c"]) - np.log(x["samples"])
    return np.asarray(np.exp(p["alpha_D"] * np.logaddexp(first, second)))


def _kaplan_starts(x: Values, y: Array) -> Values:
    """Candidates: by pair of exponents, `y^(1/alpha_D)` is linear in N^-r and 1/D (r = alpha_N / alpha_D)."""
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
    auto=True,
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
    return product(R_D=np.geomspace(0.3, 3000.0, 24), R_N=np.geomspace(0.1, 1000.0, 24))


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
    "N' = U_N (1 + R_N (1 - exp(-(params/U_N - 1) / R_N))), U_D = unique_samples, "
    "U_N = min(params, optimal for U_D)",
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
