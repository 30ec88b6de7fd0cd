"""Compute-optimal frontiers against published exponents and against optima known in closed form."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from orch_analysis.fitting.outcome import Outcome
from orch_analysis.frontiers import approaches, minimum

DATA = Path(__file__).parents[1] / "data" / "laws"

# Porian et al. 2024, bs_median_weighted exponents in their released summaries (Figure 1, Tables 1-2), with the
# seed noise their code applied: std .002 on RefinedWeb, .01 on OpenWebText2.
PORIAN = {
    "rw|base|long|kaplan|kaplan|train": 0.8353,
    "rw|base|long|kaplan|standard|val": 0.7065,
    "rw|base|short|kaplan|standard|val": 0.6020,
    "rw|base|short|chinchilla|standard|val": 0.5715,
    "rw|tuned|short|const|standard|val": 0.4969,
    "owt2|base|long|kaplan|kaplan|train": 0.8635,
    "owt2|base|long|kaplan|standard|val": 0.6985,
    "owt2|base|short|kaplan|standard|val": 0.6032,
    "owt2|base|short|chinchilla|standard|val": 0.5743,
    "owt2|tuned|short|const|standard|val": 0.5185,
}

# Besiroglu et al. 2024 (Epoch), the optimum of the log-Huber fit to 240 Chinchilla runs.
CHINCHILLA = {"E": 1.81721810, "A": 477.825868, "B": 2143.41736, "alpha": 0.3473105, "beta": 0.36717243}


@pytest.mark.parametrize("config", PORIAN)
def test_porian_exponents(config):
    name = "porian_isoflop_summary_df" + ("_owt2.csv" if config.startswith("owt2") else ".csv")
    points = pl.read_csv(DATA / name).filter(pl.col("config") == config)
    result = approaches.isoflop(
        *(points[column].to_numpy() for column in ("n", "flops", "loss")),
        method="akima", noise=0.01 if config.startswith("owt2") else 0.002,
    )  # fmt: skip
    assert result.outcome == "ok"
    assert result.a == pytest.approx(PORIAN[config], abs=0.004)
    assert result.a_interval[0] < PORIAN[config] < result.a_interval[1]


def loss(n, d, law=CHINCHILLA):
    return law["E"] + law["A"] / n ** law["alpha"] + law["B"] / d ** law["beta"]


def closed_form(c, law=CHINCHILLA):
    a = law["beta"] / (law["alpha"] + law["beta"])
    g = (law["alpha"] * law["A"] / (law["beta"] * law["B"])) ** (1 / (law["alpha"] + law["beta"]))
    return g * (c / 6) ** a


def exact():
    return approaches.parametric(
        CHINCHILLA, {k: np.array([v, v]) for k, v in CHINCHILLA.items()}, n=240, low=1e18, high=1e22
    )


def test_parametric_is_the_published_exponent_and_the_constrained_minimum():
    result = exact()
    assert result.a == pytest.approx(0.513, abs=0.001)  # Besiroglu et al. 2024, abstract of section 4
    best = approaches.optimum(result, 1e21)
    sizes = np.geomspace(best.params[0] / 3, best.params[0] * 3, 20001)
    assert best.params[0] == pytest.approx(sizes[loss(sizes, 1e21 / 6 / sizes).argmin()], rel=1e-3)
    assert 6 * best.params[0] * best.samples[0] == pytest.approx(1e21)


def grid(budgets=(1e18, 1e19, 1e20, 1e21), span=4.0, shift=1.0, sizes=9):
    c = np.repeat(budgets, sizes)
    n = closed_form(c) * shift * np.tile(np.geomspace(1 / span, span, sizes), len(budgets))
    return n, c, loss(n, c / 6 / n)


@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_isoflop_recovers_the_truth(method):
    result = approaches.isoflop(*grid(), method=method, noise=0.001)
    assert result.outcome == "ok"
    assert result.a == pytest.approx(
        CHINCHILLA["beta"] / (CHINCHILLA["alpha"] + CHINCHILLA["beta"]), abs=0.01
    )
    best = approaches.optimum(result, 1e20)
    assert best.params[1] < best.params[0] < best.params[2]
    assert best.params[0] == pytest.approx(closed_form(1e20), rel=0.1)


def test_isoflop_intervals_cover_the_truth():
    rng = np.random.default_rng(7)
    n, c, y = grid(span=5.0)
    truth = exact().a
    inside = 0
    for trial in range(60):
        noisy = y + 0.01 * rng.standard_normal(len(y))
        lo, hi = approaches.isoflop(n, c, noisy, noise=0.01, bootstrap=300, seed=trial).a_interval
        inside += lo <= truth <= hi
    assert inside >= 53  # binomial(60, .95) falls below 53 in 1 of 100


def test_every_kind_of_bad_curve_has_its_outcome():
    n, _, y = grid(budgets=(1e20,), span=4.0)
    star = closed_form(1e20)

    def outcome(keep, **options):
        return minimum.minimum(n[keep], y[keep], flops=1e20, noise=1e-4, **options)

    assert outcome(n > 0).outcome == "ok"
    low = outcome(n > star * 1.1)
    assert low.outcome == "unbounded"
    assert "smaller models" in low.message
    assert "larger models" in outcome(n < star / 1.1).message
    assert outcome(n > star / 1.5, method="akima").outcome == "off_centre"
    assert outcome(n > star * 2).outcome == "too_few_points"
    wide, _, high = grid(budgets=(1e20,), span=1000.0, sizes=15)
    steep = minimum.minimum(
        wide, np.where(wide < star, high + 0.5 * np.log(star / wide), high), flops=1e20, noise=1e-4
    )
    assert steep.outcome == "asymmetric"
    assert "akima" in steep.message
    hill = minimum.minimum(n, 10 - y, flops=1e20, noise=1e-4)
    assert hill.outcome == "unbounded"
    assert np.isnan(hill.params)


def test_two_minima_are_no_line():
    result = approaches.isoflop(*grid(budgets=(1e18, 1e20)), noise=1e-4)
    assert result.outcome == "too_few_minima"
    assert np.isnan(result.a)
    assert "two would always fit" in result.message


def test_envelope_finds_the_optimal_sizes_of_crossing_curves():
    sizes = np.geomspace(1e7, 3e10, 30)
    runs, n, c, y = [], [], [], []
    for size in sizes:
        spent = np.geomspace(1e16, 1e23, 80)
        runs += [f"{size:g}"] * 80
        n.append(np.full(80, size))
        c.append(spent)
        y.append(loss(size, spent / 6 / size))
    result = approaches.envelope(runs, *(np.concatenate(v) for v in (n, c, y)), bootstrap=200)
    assert result.outcome == "ok"
    assert result.a == pytest.approx(exact().a, abs=0.02)
    assert result.a_interval[0] < exact().a < result.a_interval[1]
    assert approaches.disagreements([result, exact()], 1e21) == ()


def test_envelope_without_checkpoints_says_so():
    n, c, y = grid()
    result = approaches.envelope(list(range(len(n))), n, c, y)
    assert result.outcome == "too_few_curves"
    assert "checkpoints" in result.message


def test_disagreement_names_both_approaches():
    other = approaches.parametric(
        CHINCHILLA | {"A": 4000.0}, {k: np.array([v, v]) for k, v in (CHINCHILLA | {"A": 4000.0}).items()},
        n=9, low=1e18, high=1e22,
    )  # fmt: skip
    (sentence,) = approaches.disagreements([exact(), other], 1e21)
    assert "parametric" in sentence
    assert "disagree at 1e+21" in sentence


@pytest.mark.parametrize(("flops", "horizon"), [(1e20, 0.01), (1e21, 0.1)])
def test_the_optimum_agrees_with_the_closed_form(flops: float, horizon: float):
    best = approaches.optimum(exact(), flops)
    assert best.flops == flops
    assert best.params[0] == pytest.approx(closed_form(flops), rel=1e-9)
    assert best.params[0] * best.samples[0] * 6 == pytest.approx(flops)
    assert best.horizon == pytest.approx(horizon)


def test_chinchilla_points_give_the_published_exponent():
    """Besiroglu et al. 2024: a = .513, 80% interval .051 wide, on 240 of the 245 points read off Chinchilla's figure."""
    table = pl.read_csv(DATA / "epoch_chinchilla_svg_extracted_data.csv").sort("loss").head(240)
    envelope, curves, law = approaches.frontier(
        table, value="loss", params="Model Size", flops="Training FLOP", bootstrap=300
    )
    assert law.outcome == "ok"
    assert law.a == pytest.approx(0.513, abs=0.005)
    lo, hi = np.quantile(law.draws[:, 1], [0.1, 0.9])
    assert hi - lo == pytest.approx(0.051, rel=0.25)
    assert envelope.outcome == "too_few_curves"
    assert curves.outcome in {"ok", "too_few_minima"}


def test_a_table_of_curves_gives_three_approaches_that_agree_with_the_truth():
    sizes = np.geomspace(1e7, 3e9, 16)
    rows = [
        {
            "cell": f"{size:.3g}",
            "N": size,
            "D": spent / 12 / size,
            "C": spent,
            "L": float(loss(size, spent / 12 / size)),
        }
        for size in sizes
        for spent in np.geomspace(1e17, 1e21, 30)
    ]
    table = pl.DataFrame(rows)
    names = {"value": "L", "params": "N", "samples": "D", "flops": "C"}
    envelope, _, law = approaches.frontier(table, **names, run="cell", bootstrap=200)
    assert envelope.factor == pytest.approx(12)
    assert envelope.a == pytest.approx(exact().a, abs=0.03)
    assert law.outcome in {"one_scale", "too_few_points", "ok"}
    _, curves, law = approaches.frontier(table, **names, bootstrap=200)
    for found in (curves, law):
        assert found.outcome == "ok"
        best = approaches.optimum(found, 1e20)
        assert best.params[0] == pytest.approx(float(closed_form(1e20 / 2)), rel=0.1)  # 12 N D, not 6


def test_a_table_without_samples_or_flops_is_refused():
    from orch_core.errors import OrchError

    table = pl.DataFrame({"N": [1.0], "L": [2.0]})
    with pytest.raises(OrchError, match="samples or the FLOPs"):
        approaches.frontier(table, value="L", params="N")
    with pytest.raises(OrchError, match="no column"):
        approaches.frontier(table, value="L", params="N", flops="flop")


def test_runs_at_one_ratio_of_data_to_size_share_out_no_budget():
    n = np.geomspace(1e6, 1e9, 12)
    loss = 1.8 + 400 / n**0.34 + 400 / (20 * n) ** 0.34
    table = pl.DataFrame({"N": n, "D": 20 * n, "loss": loss})
    parametric = approaches.frontier(table, value="loss", params="N", samples="D", bootstrap=20)[2]
    assert parametric.outcome == "one_direction"
    assert np.isnan(parametric.a)


def test_an_exponent_outside_its_range_is_no_result():
    """Curves whose best size grows faster than compute: N* ~ C^1.43 would mean fewer samples for a larger budget."""
    sizes, flops = np.geomspace(1e6, 1e8, 9), np.geomspace(1e12, 2e13, 40)
    runs, params, spent = np.repeat(np.arange(9), 40), np.repeat(sizes, 40), np.tile(flops, 9)
    best = 1e6 * (spent / 1e12) ** 1.43
    losses = 2 + 0.05 * np.log(params / best) ** 2 - 0.01 * np.log(spent / 1e12)
    found = approaches.envelope(runs.tolist(), params, spent, losses)
    assert found.outcome is Outcome.EXPONENT_OUTSIDE
    assert "a larger budget would mean a smaller model or less data" in found.message
    assert np.isnan(found.a)
