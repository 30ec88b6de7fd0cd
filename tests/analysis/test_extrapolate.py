"""Forecasts: exact on laws that are exact, better than fixed forms on published curves, honest in their bands."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from orch_analysis.forecast.one_variable import forecast
from orch_core.errors import OrchError

DEV = Path(__file__).parents[1] / "data" / "extrapolation" / "dev.csv"
PILOTS = np.geomspace(1e6, 3.2e7, 6)


def law(x, limit=0.1, size=40.0, exponent=0.3):
    return limit + size * np.asarray(x, float) ** -exponent


def curves():
    """Alabdulmohsin et al. 2022, development half: (domain, scales, errors, scales ahead, errors ahead)."""
    table = pl.read_csv(DEV).unique(maintain_order=True).sort("Seen Examples")
    for (domain, _, _), rows in table.group_by("Domain", "Task", "Model", maintain_order=True):
        parts = [rows.filter(pl.col("Training") == flag) for flag in (1, 0)]
        yield domain, *(part[name].to_numpy() for part in parts for name in ("Seen Examples", "Loss"))


def pilots(x, y, count=6, span=32):
    """As many points as a study has: the nearest to a geometric grid that ends at the last point."""
    picked = sorted({int(np.abs(np.log(x / q)).argmin()) for q in np.geomspace(x[-1] / span, x[-1], count)})
    return x[picked], y[picked]


def rmsle(predicted, measured):
    return float(np.sqrt(np.mean(np.log(np.asarray(predicted) / measured) ** 2)))


@pytest.mark.parametrize("exponent", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("limit", [0.0, 0.1])
def test_an_exact_law_is_extrapolated_exactly(limit, exponent):
    size = 40.0 * 1e6 ** (exponent - 0.3)
    ahead = np.array([1e8, 3.2e8])
    found = forecast(PILOTS, law(PILOTS, limit, size, exponent), ahead)
    assert np.allclose(found.value, law(ahead, limit, size, exponent), rtol=1e-3)
    assert sum(found.weights.values()) == pytest.approx(1)


def test_beats_the_fixed_form_on_published_curves():
    """M2 by least squares on ln y, the fixed form of the paper, against the forecast; the split is the paper's."""
    ours, fixed, inside, widths = defaultdict(list), defaultdict(list), [], []
    for domain, x, y, ahead, truth in curves():
        found = forecast(x, y, ahead)
        ours[domain].append(rmsle(found.value, truth))
        u, logs = np.log(x / x[-1]), np.log(y)

        def residual(p, u=u, logs=logs):
            return np.logaddexp(p[0], p[1] - p[2] * u) - logs

        best = least_squares(residual, [logs[-1] - 1, logs[-1], 0.3]).x
        fixed[domain].append(np.sqrt(np.mean(residual(best, np.log(ahead / x[-1]), np.log(truth)) ** 2)))
        inside.append(np.mean((np.array(found.lo) <= truth) & (truth <= np.array(found.hi))))
        widths.append(np.median(np.log(np.array(found.hi) / found.lo)))
    assert np.mean(ours["IC"]) < 0.024  # 0.0349 for the authors' M4, 0.0337 for BNSL on these 36 curves
    assert np.mean(ours["IC"]) < 0.5 * np.mean(fixed["IC"])
    assert np.mean(ours["NMT"] + ours["LM"] + ours["BB"]) < 0.0135  # 0.0144 for M4
    assert 0.88 <= np.mean(inside) <= 0.98
    assert np.median(widths) < 0.1


def test_six_pilots_reach_four_times_ahead():
    errors = []
    for domain, x, y, ahead, truth in curves():
        keep = x <= ahead[-1] / 4
        if domain == "IC":
            errors.append(rmsle(forecast(*pilots(x[keep], y[keep]), ahead).value, truth))
    assert np.mean(errors) < 0.037  # 0.069 for M4, 0.053 for BNSL


def test_bands_cover_new_runs():
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(120):
        limit, exponent, noise = rng.uniform(0, 0.3), rng.uniform(0.1, 0.5), rng.choice([0.005, 0.02])
        size = 1e6**exponent * (1 - limit)
        ahead = PILOTS[-1] * rng.uniform(2, 8)
        y = law(PILOTS, limit, size, exponent) * np.exp(noise * rng.standard_normal(6))
        found = forecast(PILOTS, y, [ahead])
        new = law(ahead, limit, size, exponent) * np.exp(noise * rng.standard_normal())
        inside.append(found.lo[0] <= new <= found.hi[0])
    assert np.mean(inside) >= 0.85


def test_bands_grow_with_the_horizon_and_nest_with_the_level():
    found = forecast(PILOTS, law(PILOTS), PILOTS[-1] * np.array([1.5, 3.0, 10.0, 30.0]))
    widths = np.log(np.array(found.hi) / found.lo)
    assert (np.diff(widths) > 0).all()
    inner, outer = (forecast(PILOTS, law(PILOTS), [1e9], level=level) for level in (0.5, 0.95))
    assert outer.lo[0] < inner.lo[0] < inner.value[0] < inner.hi[0] < outer.hi[0]


def test_noise_without_a_trend_is_not_extrapolated():
    rng = np.random.default_rng(3)
    misses = []
    for _ in range(40):
        y = 0.5 * np.exp(0.02 * rng.standard_normal(8))
        found = forecast(np.geomspace(1e6, 1e8, 8), y, [1e9])
        misses.append(abs(np.log(found.value[0] / 0.5)))
        assert found.lo[0] < 0.5 < found.hi[0] or misses[-1] < 0.15
    assert np.median(misses) < 0.03


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.floats(0.05, 0.95), min_size=4, max_size=9, unique=True),
    st.floats(1e-3, 1e3),
    st.floats(1e-2, 1e2),
    st.randoms(use_true_random=False),
)
def test_units_and_order_do_not_matter(values, unit, scale, shuffler):
    x = np.geomspace(1e5, 1e7, len(values))
    y = np.array(sorted(values, reverse=True))
    order = list(range(len(values)))
    shuffler.shuffle(order)
    plain = forecast(x, y, [3e7])
    other = forecast(unit * x[order], scale * y[order], [unit * 3e7])
    assert np.allclose(np.array(other.value) / scale, plain.value, rtol=1e-6)
    assert np.allclose(np.array(other.hi) / scale, plain.hi, rtol=1e-6)


def test_same_points_same_bits():
    first, second = (forecast(PILOTS, law(PILOTS), [1e8, 1e9]) for _ in range(2))
    assert first == second


def test_a_growing_metric_is_forecast_below_its_ceiling():
    error = forecast(PILOTS, law(PILOTS), [1e9])
    auc = forecast(PILOTS, 1 - law(PILOTS), [1e9], ceiling=1.0)
    assert auc.value[0] == pytest.approx(1 - error.value[0], rel=1e-9)
    assert auc.lo[0] == pytest.approx(1 - error.hi[0], rel=1e-9)
    assert auc.lo[0] < auc.value[0] < auc.hi[0] < 1
    assert any("ceiling" in warning for warning in forecast(PILOTS, 1 - law(PILOTS), [1e9]).warnings)


def test_repeated_scales_count_as_their_geometric_mean():
    x = np.repeat(PILOTS, 2)
    y = law(x) * np.tile([0.98, 1 / 0.98], 6)
    assert np.allclose(forecast(x, y, [1e9]).value, forecast(PILOTS, law(PILOTS), [1e9]).value, rtol=1e-9)


def test_long_curves_are_thinned_not_refused():
    x = np.geomspace(1e5, 1e8, 5000)
    found = forecast(x, law(x), [3e8])
    assert found.n == 5000
    assert found.value[0] == pytest.approx(law(3e8), rel=0.01)


def test_warnings_name_what_is_odd():
    reach = forecast(PILOTS, law(PILOTS), [PILOTS[-1] * 40])
    assert "40 times" in reach.warnings[0]
    assert forecast(PILOTS, law(PILOTS), [PILOTS[-1] * 4]).warnings == ()
    x = np.geomspace(1e4, 1e8, 12)
    bending = forecast(x, np.exp(-((np.log(x / 1e4) / 6) ** 2)), [3e8])
    assert any("accelerates" in warning for warning in bending.warnings)
    x = np.geomspace(1e4, 1e8, 40)
    hump = law(x) * (1 + 0.5 * np.exp(-((np.log(x / 1e6)) ** 2)))
    assert any("not monotone" in warning for warning in forecast(x, hump, [3e8]).warnings)


def test_bad_points_are_left_out_by_reason_and_too_few_is_an_outcome():
    x = [1e6, 2e6, 4e6, 8e6, 0.0, -1.0, 1e7, np.nan, np.inf, 2e7]
    y = [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, np.nan, 0.5, 0.5, -0.1]
    found = forecast(x, y, [1e8])
    assert found.n == 4
    assert found.dropped == {"not a finite number": 3, "scale not positive": 2, "value not positive": 1}
    for few in ([], [1e6], [1e6, 2e6, 2e6]):
        nothing = forecast(few, [0.5] * len(few), [1e8])
        assert nothing.outcome == "too_few_points"
        assert "train more sizes" in nothing.message
        assert np.isnan(nothing.value).all()
    below = forecast(PILOTS, law(PILOTS), [1e3, 1e9])
    assert np.isnan(below.value[0])
    assert np.isfinite(below.value[1])
    assert "below the smallest" in below.warnings[-1]
    flat = forecast([1, 2, 4], [0.5, 0.5, 0.5], [8])
    assert flat.value[0] == pytest.approx(0.5, rel=0.01)


def test_wrong_arguments_say_what_is_wrong():
    with pytest.raises(OrchError, match="3 scales but 2 values"):
        forecast([1, 2, 3], [1, 2], [4])
    with pytest.raises(OrchError, match="positive"):
        forecast([1, 2, 3], [3, 2, 1], [0])
    with pytest.raises(OrchError, match="level"):
        forecast([1, 2, 3], [3, 2, 1], [4], level=90)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(1e-3, 1e15), st.sampled_from([0.0, -1.0, float("nan"), float("inf")])),
            st.one_of(st.floats(1e-9, 1e3), st.sampled_from([0.3, 0.0, -1.0, float("nan")])),
        ),
        max_size=8,
    )
)
def test_any_points_give_an_ordered_band_or_an_outcome(pairs):
    x, y = [p[0] for p in pairs], [p[1] for p in pairs]
    found = forecast(x, y, [1e16])
    if found.outcome == "ok":
        assert 0 < found.lo[0] <= found.value[0] <= found.hi[0] < np.inf
    else:
        assert np.isnan([*found.value, *found.lo, *found.hi]).all()
        assert found.message
    assert found.n + sum(found.dropped.values()) == len(pairs)
