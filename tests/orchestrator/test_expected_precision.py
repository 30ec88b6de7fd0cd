"""What precision a plan promises: against a regression in numpy, and warnings for grids that cannot determine a law."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from orch.planning.planner import PlanOptions, plan_grid
from orch_analysis.design import expected
from orch_analysis.design.precision import expected_precision, read_target
from orch_core.errors import OrchError
from orch_core.study.draft import draft
from orch_core.study.plan import Plan

GRID = """\
study: telling
sources:
  ct: {path: ct.npz, modality: ct, images: 40000000}
tasks:
  many: {path: many.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 20000}
  few:  {path: few.npz,  kind: binary-class, classes: 2, train: 100, val: 10, test: 156}
mixes:
  all: [ct]
axes:
  model: [ViT-Ti, ViT-S, ViT-B, ViT-L]
  algorithm: [mae@1, random@1]
  images: {log_space: [2e5, 2e7, 5]}
  mix: all
  seed: [0, 1]
  resolution: 224
  patch: 16
  samples_seen: 50000000
training:
  batch: 2048
probes:
  tasks: [many, few]
"""


def plan_of(tmp_path: Path, *changes: tuple[str, str]) -> Plan:
    text = GRID
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "grid.yaml").write_text(text)
    return draft(tmp_path / "grid.yaml")[0]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_interval_of_a_tasks_slope_equals_that_of_a_regression(tmp_path: Path):
    plan = plan_of(tmp_path)
    (precision,) = expected_precision(plan)
    rows = plan.frame.filter(pl.col("algorithm") == "mae")
    x = np.stack(
        [np.ones(rows.height), *(np.log(rows[name].to_numpy()) for name in ("params_encoder", "images"))]
    ).T
    inverse = np.linalg.inv(x.T @ x)
    noise = expected.auc_standard_error(0.9, 78, 78) / 0.1  # half of 156 images positive
    t = stats.t.ppf(0.975, rows.height - 3)
    for half, variance in zip(precision.slopes["few"], np.diag(inverse)[1:], strict=True):
        assert half == pytest.approx(t * noise * np.sqrt(variance), rel=1e-3)
    assert precision.slopes["many"][0] < precision.slopes["few"][0] / 5


def test_controls_are_not_forecast_and_the_default_target_is_beyond_the_grid(tmp_path: Path):
    (precision,) = expected_precision(plan_of(tmp_path))
    assert (precision.recipe, precision.mix, precision.cells) == ("mae@1", "all", 40)
    assert precision.target["samples"] == pytest.approx(8e7)
    assert precision.target["params"] == pytest.approx(4 * 303.1e6, rel=1e-3)
    assert precision.loss.prediction is not None
    assert precision.loss.warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[ViT-Ti, ViT-S, ViT-B, ViT-L]", "[ViT-S]", "the same params"),
        ("images: {log_space: [2e5, 2e7, 5]}", "images: 200000", "the same samples"),
        (
            "images: {log_space: [2e5, 2e7, 5]}",
            "images: {log_space: [2e5, 4e5, 5]}",
            "samples spans only a factor of 2",
        ),
        ("samples_seen: 50000000", "epochs: 10", "data size and samples seen are correlated"),
        (
            "training:",
            (
                "exclude:\n  - model == 'ViT-Ti' and images != 200000\n  - model == 'ViT-S' and images != 632456\n"
                "  - model == 'ViT-B' and images != 2000000\n  - model == 'ViT-L' and images < 6000000\ntraining:"
            ),
            "confounded",
        ),
    ],
)
def test_a_grid_that_cannot_fit_a_law_is_explained(tmp_path: Path, old: str, new: str, words: str):
    (precision,) = expected_precision(plan_of(tmp_path, (old, new)))
    assert any(words in warning for warning in precision.loss.warnings), precision.loss.warnings


def test_the_plans_text_and_document_carry_it(tmp_path: Path):
    plan_of(tmp_path, ("[ViT-Ti, ViT-S, ViT-B, ViT-L]", "[ViT-S]"))
    made = plan_grid(tmp_path / "grid.yaml", None, PlanOptions(target={"params": 1e9, "samples": 1e8}))
    document, text = made.to_json(), made.text
    (told,) = document["precision"]
    assert told["target"] == {"params": 1e9, "samples": 1e8}
    assert told["parameters"]["alpha"]["hi"] is None
    assert told["parameters"]["beta"]["hi"] > told["parameters"]["beta"]["value"]
    assert "warning: mae@1 all: all cells have the same params" in text
    assert "not determined" in text
    assert "loss at params=1e+09, samples=1e+08" in text


@pytest.mark.parametrize(
    "text", ["", "params=1", "params=1,samples=-2", "params=a,samples=2", "params=1;samples=2"]
)
def test_a_target_that_is_none_is_refused(text: str):
    with pytest.raises(OrchError, match="cannot read the target"):
        read_target(text)


HEAVY = (
    "torch",
    "timm",
    "scipy",
    "statsmodels",
    "seaborn",
    "matplotlib",
    "mlflow",
    "optuna",
    "submitit",
    "sklearn",
)


def test_planning_imports_nothing_heavy(tmp_path: Path):
    plan_of(tmp_path)
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print(sorted(set(sys.modules) & set({HEAVY})), file=sys.stderr))\n"
        "from orch.cli import main\n"
        "main(['plan', 'grid.yaml', '--json'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr.strip() == "[]"
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert len(document["frame"]) == document["cells"] == 48
    assert document["precision"][0]["task_slopes"]["few"]["params"] > 0
