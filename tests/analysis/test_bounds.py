"""A value with known bounds is predicted within them, or refused beyond the data with the remedy."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from orch_analysis.fitting.checks.bounds import bounds_of
from orch_analysis.fitting.fit import FitOptions, fit
from orch_analysis.forecast.auto import auto
from orch_analysis.forecast.groups import fit_groups
from orch_analysis.tables.points_file import load_points

BIOVFM = Path(__file__).parents[2] / "experiments" / "published" / "biovfm.csv"
FAR = [1e6, 1e9, 1e12]


@pytest.mark.parametrize(
    ("name", "values", "bounds"),
    [
        ("auc", [0.7, 0.9], (0, 1)),
        ("val_acc1", [70.0, 80.0], (0, 100)),
        ("Test Accuracy (%)", [0.7, 0.8], (0, 1)),
        ("top-5", [99.0], (0, 100)),
        ("mIoU", [0.4], (0, 1)),
        ("accuracy", [120.0], None),
        ("recall", [-0.1], None),
        ("loss", [0.7], None),
        ("mace", [0.7], None),
    ],
)
def test_bounds_follow_from_the_name_and_the_values(name, values, bounds):
    assert bounds_of(name, values) == bounds


@pytest.mark.parametrize("law", ["power", "auc", "m4", "auto"])
@pytest.mark.parametrize("ceiling", [None, 1.0])
def test_no_prediction_of_a_published_auc_and_no_band_leaves_its_bounds(law, ceiling):
    if law == "auc" and ceiling:
        return
    points = load_points(BIOVFM)
    options = FitOptions(
        value="auc", x={"samples" if law == "m4" else "params": "params"}, ceiling=ceiling, bootstrap=50
    )
    for found in fit_groups(law, points, options, by=("task", "algorithm")):
        if found.estimates:
            rows = found.predict(**dict.fromkeys(found.law.x, FAR))
            for column in ("value", "lo", "hi"):
                assert rows[column].drop_nulls().is_between(0, 1).all()


def test_a_power_law_of_accuracy_is_refused_beyond_the_data_alone():
    x = np.geomspace(1e6, 1e9, 8)
    for top in (1, 100):
        table = pl.DataFrame({"params": x, "accuracy": top * (1 - 3 * x**-0.3)})
        found = fit("power", table, FitOptions(value="accuracy", x={"params": "params"}))
        rows = found.predict(params=[1e8, 4e9])
        assert rows["value"].is_null().to_list() == [False, True]
        assert rows["lo"].is_null().to_list() == [False, True]
        assert f"--ceiling {top}" in rows["note"][1]
        errors = fit("power", table, FitOptions(value="accuracy", x={"params": "params"}, ceiling=float(top)))
        assert 0 < errors.predict(params=4e9)["value"][0] < top


def test_the_forecast_of_auto_stays_below_its_ceiling_and_above_zero():
    x = np.geomspace(1e6, 1e9, 12)
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(12))
    found = auto(
        pl.DataFrame({"params": x, "acc": 1 - 5 * x**-0.3 * noise}), FitOptions(value="acc", bootstrap=0)
    )
    rows = found.predict(params=[1e10, 1e13])
    assert (rows["hi"] <= 1).all()
    assert (rows["lo"] >= 0).all()
    assert rows["value"].null_count() == 0
