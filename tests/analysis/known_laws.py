"""Parameters of every law, and scales at which they can be found again."""

from __future__ import annotations

import numpy as np

from orch_analysis.laws import LAWS

TRUTH = {
    "power": {"A": 3.0, "slope": -0.2},
    "power_offset": {"E": 0.3, "A": 20.0, "alpha": 0.25},
    "m2": {"eps_inf": 0.2, "beta": 30.0, "c": 0.4},
    "m4": {"eps_inf": 0.1, "eps_0": 0.95, "alpha": 0.7, "beta": 3e3, "c": 0.6},
    "bnsl1": {"a": 0.1, "b": 5.0, "c0": 0.15, "c1": 0.3, "d1": 3e6, "f1": 0.5},
    "kaplan": {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
    "chinchilla": {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37},
    "data_constrained": {"R_D": 15.0, "R_N": 5.0},
    "gadre": {"E": 1.8, "a": 166.0, "b": 367.0, "eta": 0.27},
    "gadre_error": {"eps": 0.857, "k": 2.2, "gamma": 0.71},
    "sigmoid": {"floor": 0.25, "gain": 0.6, "k": 4.0, "loss_mid": 2.6},
    "auc": {"E": 0.02, "x_half": 3e5, "alpha": 0.5},
    "accuracy": {"E": 0.1, "x_half": 3e6, "alpha": 0.4},
}


def scales(name: str, n: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    joint = name in {"kaplan", "chinchilla", "gadre"}
    unique = 10 ** rng.uniform(8, 10, n)
    repeated = name.startswith("data")
    every = {
        "params": 10 ** rng.uniform(7 if repeated else 6, 9, n),
        "samples": unique * 10 ** rng.uniform(0, 2, n) if repeated else 10 ** rng.uniform(8.5 if joint else 5, 11 if joint else 8.5, n),
        "unique_samples": unique,
        "loss": rng.uniform(1.8, 4, n),
        "classes": np.full(n, 8.0),
    }  # fmt: skip
    return {variable: every[variable] for variable in LAWS[name].x}
