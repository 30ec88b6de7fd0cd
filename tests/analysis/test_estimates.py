"""A fit as a value: saved and read back, pickled, printed, drawn and asked for predictions."""

from __future__ import annotations

import json
import pickle

import numpy as np
import polars as pl
import pytest
from known_laws import TRUTH, scales

from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.fit import FitOptions, Outcome, fit
from orch_analysis.fitting.plain import from_plain, to_plain
from orch_analysis.laws import LAWS
from orch_core.errors import OrchError


def fitted(name: str, **options: object) -> Fit:
    """The law at its own points with 1% noise."""
    law, x = LAWS[name], scales(name, 14)
    value = law.value(x, TRUTH[name])
    noise = 0.01 * np.random.default_rng(0).standard_normal(14)
    value = 1 - (1 - value) * np.exp(noise) if law.link == "log_error" else value * np.exp(noise)
    return fit(law, pl.DataFrame(x | {"y": value}), FitOptions(value="y", **{"bootstrap": 25, **options}))


@pytest.mark.parametrize("name", TRUTH)
def test_every_law_is_saved_and_read_back_and_pickled_as_it_was(name: str) -> None:
    found = fitted(name)
    text = json.dumps(found.to_json(), allow_nan=False)
    for again in (Fit.from_json(json.loads(text)), pickle.loads(pickle.dumps(found))):
        assert again == found
        assert np.array_equal(again.draws, found.draws, equal_nan=True)
        point = {variable: float(values[3]) for variable, values in scales(name, 14).items()}
        assert again.predict(**point).equals(found.predict(**point))


def test_options_and_outcomes_survive_too() -> None:
    table = pl.DataFrame({"params": [1e6] * 8, "y": np.arange(1.0, 9.0), "w": [1.0] * 8})
    options = FitOptions(value="y", weights="w", ceiling=9.5, huber_delta=0.1, level=0.8)
    found = fit("power", table, options)
    assert found.outcome is Outcome.ONE_SCALE
    assert Fit.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert from_plain(FitOptions, to_plain(options)) == options


def test_numbers_that_json_does_not_have_come_back() -> None:
    kind = tuple[float, ...]
    assert to_plain((1.0, np.inf, -np.inf)) == [1.0, "inf", "-inf"]
    again = from_plain(kind, to_plain((1.0, np.inf, np.nan)))
    assert again[:2] == (1.0, np.inf)
    assert np.isnan(again[2])
    with pytest.raises(ValueError, match="not one of"):
        from_plain(FitOptions, {"loss": "huge"})


def test_a_fit_prints_as_a_table() -> None:
    found = fitted("chinchilla")
    text = found.summary()
    assert str(found) == text
    for name, value in found.estimates.items():
        assert any(line.startswith(name) and f"{value:.5g}" in line for line in text.splitlines())
    assert "14 points" in text
    assert LAWS["chinchilla"].formula in text
    assert len(repr(found)) < 200
    assert found._repr_html_().count("<tr>") == 6


def test_predictions_are_a_frame_whatever_way_they_are_asked_for() -> None:
    table = pl.DataFrame(scales("chinchilla", 14)).rename({"params": "N", "samples": "D"})
    value = LAWS["chinchilla"].value(
        {"params": table["N"].to_numpy(), "samples": table["D"].to_numpy()}, TRUTH["chinchilla"]
    )
    options = FitOptions(value="loss", x={"params": "N", "samples": "D"}, bootstrap=30)
    found = fit("chinchilla", table.with_columns(loss=value), options)
    asked = pl.DataFrame({"N": [1e8, 1e9], "D": [1e11, 1e11], "run": ["a", "b"]})
    by_column = found.predict(asked)
    assert by_column.equals(found.predict(params=[1e8, 1e9], samples=1e11))
    assert by_column.equals(found.predict(asked.rename({"N": "params", "D": "samples"})))
    assert by_column.columns == [
        "params", "samples", "quantity", "predictor", "value", "lo", "hi", "band", "extrapolation", "note",
    ]  # fmt: skip
    assert by_column["value"].to_list() == pytest.approx(
        LAWS["chinchilla"]
        .value({"params": np.array([1e8, 1e9]), "samples": np.array([1e11, 1e11])}, TRUTH["chinchilla"])
        .tolist(),
        rel=1e-4,
    )
    with pytest.raises(OrchError, match="must be positive"):
        found.predict(params=[1e8, -1.0], samples=1e11)
    nothing = fit(
        "chinchilla", table.with_columns(loss=value), FitOptions(value="loss", x=options.x, bootstrap=0)
    )
    assert nothing.predict(asked)["lo"].null_count() == 2


def test_a_ceiling_fits_what_the_metric_lacks_to_it() -> None:
    x = np.geomspace(1e6, 1e9, 8)
    table = pl.DataFrame({"params": x, "auc": 1 - 3 * x**-0.3})
    found = fit("power", table, FitOptions(ceiling=1.0))
    assert found.value == "1 - auc"
    assert found.estimates["slope"] == pytest.approx(-0.3)
    assert found.predict(params=1e10)["quantity"][0] == "1 - auc"
    with pytest.raises(OrchError, match="takes no ceiling"):
        fit("auc", table, FitOptions(ceiling=1.0))


@pytest.mark.parametrize("name", ["power", "power_offset", "chinchilla"])
def test_a_fit_draws_its_points_and_its_law(name: str) -> None:
    figure = fitted(name).plot()
    (axes,) = figure.axes
    (cloud,) = (item for item in axes.collections if type(item).__name__ == "PathCollection")
    assert len(cloud.get_offsets()) == 14
    assert axes.get_ylabel().startswith("y")


def test_what_is_mapped_and_not_used_is_an_error() -> None:
    table = pl.DataFrame({"N": [1e6, 1e7, 1e8], "D": [1e8, 1e8, 1e9], "loss": [3.0, 2.0, 1.5]})
    with pytest.raises(OrchError, match="power does not use samples"):
        fit("power", table, FitOptions(x={"params": "N", "samples": "D"}))
    with pytest.raises(OrchError, match="does not use flops"):
        fit("chinchilla", table, FitOptions(x={"params": "N", "samples": "D", "flops": "N"}))
    by_compute = fit(LAWS["power"].along("compute"), table, FitOptions(x={"params": "N", "samples": "D"}))
    assert by_compute.ranges["compute"] == pytest.approx((6e14, 6e17))
