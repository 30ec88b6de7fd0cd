"""Laws of bounded metrics: downstream error and score from loss, AUC and accuracy up to a ceiling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from orch_analysis.laws.curve import log_span
from orch_analysis.laws.law import Array, Law, Values, product

ANY = (-float("inf"), float("inf"))


def _sigmoid(x: Values, p: Values) -> Array:
    return np.asarray(
        p["floor"] + p["gain"] / (1.0 + np.exp(np.clip(p["k"] * (x["loss"] - p["loss_mid"]), -500, 500)))
    )


def _sigmoid_starts(x: Values, _y: Array) -> Values:
    lo, hi = float(x["loss"].min()), float(x["loss"].max())
    span = max(hi - lo, 1e-9)
    return product(loss_mid=np.linspace(lo - span, hi + span, 25), k=np.geomspace(0.3, 60.0, 20) / span)


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
    bounded=True,
    source="two-step downstream prediction: Grattafiori et al. 2024 (arXiv:2407.21783), sec. 3.2.1; "
    "Bhagia et al. 2024 (arXiv:2412.04403), eq. 3",
)


def _gadre_error(x: Values, p: Values) -> Array:
    return np.asarray(p["eps"] - p["k"] * np.exp(-p["gamma"] * x["loss"]))


def _gadre_starts(x: Values, _y: Array) -> Values:
    return {"gamma": np.geomspace(0.02, 50.0, 200) / max(float(np.ptp(x["loss"])), 1e-9)}


GADRE_ERROR = Law(
    name="gadre_error",
    formula="error = eps - k * exp(-gamma * loss)",
    params=("eps", "k", "gamma"),
    x=("loss",),
    f=_gadre_error,
    units={"eps": "error at high loss", "k": "error", "gamma": "1 / loss"},
    link="linear",
    linear=("eps", "k"),
    loss="mse",
    starts=_gadre_starts,
    source="Gadre et al. 2024 (arXiv:2403.08540), eq. 5",
)


def _bounded_value(chance: Callable[[Values], Array], x: Values, p: Values) -> Array:
    missed = 1.0 / (1.0 + np.exp(p["alpha"] * (np.log(x["params"]) - np.log(p["x_half"]))))
    return np.asarray(1.0 - (p["E"] + (chance(x) - p["E"]) * missed))


def _half(_x: Values) -> Array:
    return np.asarray(0.5)


def _guess(x: Values) -> Array:
    return np.asarray(1.0 - 1.0 / x["classes"])


def _bounded_starts(x: Values, _y: Array) -> Values:
    return product(x_half=log_span(x["params"], 24, outside=2.0), alpha=np.geomspace(0.03, 4.0, 24))


def _bounded(name: str, chance: Callable[[Values], Array], **about: Any) -> Law:
    settings: dict[str, Any] = {
        "x": ("params",),
        "bounds": {"E": (0.0, 1.0), "alpha": (0.0, 10.0)},
    } | about
    return Law(
        name=name,
        params=("E", "x_half", "alpha"),
        f=partial(_bounded_value, chance),
        units={"E": "error at infinite size", "x_half": "size at which half the gap is closed", "alpha": "1"},
        link="log_error",
        linear=("E",),
        bounded=True,
        starts=_bounded_starts,
        **settings,
    )


BOUNDED = (
    "M4 with alpha = 1 (Alabdulmohsin et al. 2022, arXiv:2209.06640) in the error 1 - value, "
    "its error at no data fixed at chance: "
)
AUC = _bounded(
    "auc",
    _half,
    formula="auc = 1 - E - (0.5 - E) / (1 + (params / x_half)^alpha)",
    bounds={"E": (0.0, 0.5), "alpha": (0.0, 10.0)},
    source=BOUNDED + "0.5",
)
ACCURACY = _bounded(
    "accuracy",
    _guess,
    formula="accuracy = 1 - E - (1 - 1/classes - E) / (1 + (params / x_half)^alpha)",
    x=("params", "classes"),
    source=BOUNDED + "1 - 1/classes",
)
