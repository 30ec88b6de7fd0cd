"""Scaling benefits: the published study's, and simulated studies of 12 tasks with null and planted factors."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_lawsfile import SCHEMA, violations

import orch_analysis as oa
from orch_analysis.benefits.moderators import specification_curve
from orch_analysis.benefits.pooled import benefit_analysis
from orch_analysis.benefits.task_benefits import task_benefits
from orch_analysis.reports.blocks.benefit_section import benefit_answers, surviving
from orch_analysis.tables.points_file import load_points

PUBLISHED = Path(__file__).parents[2] / "experiments" / "published" / "biovfm.csv"
FACTORS = ("n_total", "classes", "classes_binary", "headroom")
SIZES = np.array([5.49e6, 21.59e6, 85.65e6, 303.1e6])


@pytest.fixture(scope="module")
def published():
    table = pl.read_csv(PUBLISHED)
    keep = [pl.col(name).first() for name in FACTORS[:-1]]
    headroom = 1 - pl.col("auc").sort_by("params_encoder").first()
    factors = table.group_by("task", "algorithm").agg(*keep, headroom=headroom)
    return benefit_analysis(table, ["params_encoder", "params"], factors, FACTORS)


def row(table, **wanted):
    found = table.filter(*(pl.col(key) == value for key, value in wanted.items()))
    assert found.height == 1
    return found.row(0, named=True)


@pytest.mark.parametrize(
    ("algorithm", "benefit", "mean", "lo", "hi"),
    [
        ("dinov2", "log_auc", 0.0053, 0.0017, 0.0089),
        ("mae", "log_auc", 0.0101, 0.0034, 0.0169),
        ("dinov2", "log_error", 0.142, 0.062, 0.223),
        ("mae", "log_error", 0.224, 0.099, 0.348),
    ],
)
def test_the_published_study_pays_on_average(published, algorithm, benefit, mean, lo, hi):
    """Numbers of an independent meta-regression of the 96 published points, made before this code."""
    found = row(published.pooled, algorithm=algorithm, benefit=benefit, axis="params_encoder")
    digits = 4 if benefit == "log_auc" else 3
    assert [round(found[name], digits) for name in ("mean", "lo", "hi")] == [mean, lo, hi]
    assert found["tasks"] == 12
    assert 0.84 <= found["i2"] <= 0.99


def test_the_sign_of_headroom_depends_on_the_definition_and_no_published_factor_survives(published):
    """The same independent analysis: +.0054 per sd [.0039, .0070] in log AUC, -.056 [-.113, .002] in log error."""
    wanted = {"algorithm": "dinov2", "axis": "params_encoder", "factor": "headroom"}
    up, down = (row(published.moderators, benefit=name, **wanted) for name in ("log_auc", "log_error"))
    assert (up["per_sd"], up["lo"], up["hi"]) == pytest.approx((0.0054, 0.0039, 0.0070), abs=6e-5)
    assert (down["per_sd"], down["lo"], down["hi"]) == pytest.approx((-0.056, -0.113, 0.002), abs=6e-4)
    assert surviving(published.specifications) == []
    answer = benefit_answers(published, "params_encoder")[1]
    assert answer.claim.startswith("No factor moderates")
    assert "The sign of headroom changes with the definition of the benefit" in answer.claim


def test_the_report_of_the_published_study_has_its_benefits(tmp_path):
    points = load_points(PUBLISHED)
    options = oa.FitOptions(value="auc", x={"params": "params"})
    page = oa.report(points, oa.fit_groups("power", points, options, by=["task", "algorithm"]), out=tmp_path)
    content = json.loads((tmp_path / "laws.json").read_text())
    assert violations(content, SCHEMA) == []
    entries = [one for one in content["benefits"] if one["axis"] == "params_encoder"]
    assert len(entries) == 6
    assert {one["factor"] for one in entries[0]["moderators"]} >= {"headroom", "n_total", "classes_binary"}
    text = page.read_text()
    assert "Scaling benefits over tasks" in text
    assert "scores rise with params_encoder for dinov2 and mae" in text
    assert (tmp_path / "figures" / "specifications.svg").exists()


def study(rng, *, effect=0.0, noise=0.08, between=0.05):
    """AUCs of 12 tasks, two algorithms, four sizes: benefits in log error of .15 + effect x factor + a task's own."""
    factor, own = rng.standard_normal(12), between * rng.standard_normal(12)
    rows = []
    for task in range(12):
        start = rng.uniform(0.8, 0.97)
        for algorithm in ("one", "two"):
            slope = 0.15 + effect * factor[task] + own[task] + 0.02 * rng.standard_normal()
            logs = -np.log(1 - start) + slope * np.log(SIZES / SIZES[0]) + noise * rng.standard_normal(4)
            for size, value in zip(SIZES, 1 - np.exp(-logs), strict=True):
                rows.append(
                    {"task": f"t{task:02}", "algorithm": algorithm, "params_encoder": size, "auc": value}
                )
    factors = pl.DataFrame({"task": [f"t{task:02}" for task in range(12)], "factor": factor})
    return pl.DataFrame(rows), factors


def joint_p(rng, **given):
    scores, factors = study(rng, **given)
    benefits = task_benefits(scores, ["params_encoder"]).filter(pl.col("benefit") == "log_error")
    return specification_curve(benefits, factors, ["factor"])[0]["p_joint"][0]


def test_the_joint_test_of_a_factor_that_does_nothing_is_exact():
    """The share of p below .05 over 100 studies, with a binomial tolerance of 2.6 standard errors."""
    rng = np.random.default_rng(1)
    rejected = sum(joint_p(rng) < 0.05 for _ in range(100)) / 100
    assert rejected <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 100)


def test_a_planted_factor_is_found():
    rng = np.random.default_rng(2)
    assert sum(joint_p(rng, effect=0.1) < 0.05 for _ in range(20)) >= 18


def test_a_benefit_is_the_slope_that_was_planted():
    scores, _ = study(np.random.default_rng(3), noise=1e-6, between=0.0)
    found = task_benefits(scores, ["params_encoder"]).filter(pl.col("benefit") == "log_error")
    assert found["effect"].mean() == pytest.approx(0.15, abs=0.02)
    assert (found["per_doubling"] / found["effect"]).to_list() == pytest.approx([np.log(2)] * 24)


def test_a_line_without_scatter_has_the_test_sets_error():
    table = pl.DataFrame(
        {"task": "a", "params_encoder": SIZES, "auc": [0.8, 0.84, 0.86, 0.9], "auc_se": [0.02] * 4}
    )
    found = row(task_benefits(table, ["params_encoder"]), benefit="log_auc", net=False)
    logs = np.log(SIZES) - np.log(SIZES).mean()
    expected = np.sqrt(sum((logs / (logs @ logs)) ** 2 * (0.02 / table["auc"].to_numpy()) ** 2))
    assert found["se"] == pytest.approx(expected, rel=1e-9)
    assert found["se"] > (found["hi"] - found["effect"]) / 4.302653 * 0.999


@pytest.mark.parametrize(
    "left", ["one task", "two sizes", "a constant factor", "a missing factor", "no score"]
)
def test_what_cannot_be_analysed_is_left_out(left):
    scores, factors = study(np.random.default_rng(4))
    if left == "one task":
        scores = scores.filter(pl.col("task") == "t00")
    elif left == "two sizes":
        scores = scores.filter(pl.col("params_encoder").is_in(SIZES[:2].tolist()))
    elif left == "a constant factor":
        factors = factors.with_columns(factor=pl.lit(1.0))
    elif left == "a missing factor":
        factors = factors.with_columns(factor=pl.lit(None, pl.Float64))
    else:
        scores = scores.rename({"auc": "loss"})
    found = benefit_analysis(scores, ["params_encoder"], factors, ["factor"])
    assert found.moderators.is_empty()
    assert found.specifications.is_empty()
    assert found.pooled.is_empty() == (left in {"one task", "two sizes", "no score"})
    assert benefit_answers(found, "params_encoder") == [] or left.endswith("factor")
