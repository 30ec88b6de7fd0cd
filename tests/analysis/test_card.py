"""Provenance cards: complete, and enough to repeat the fit bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from orch_analysis.fitting.fit import FitOptions
from orch_analysis.forecast.auto import AutoFit
from orch_analysis.forecast.groups import fit_groups
from orch_analysis.saved import card, laws_json
from orch_analysis.tables.points_file import Points, load_points
from orch_core.errors import OrchError

AGAIN = """
import hashlib, json
from orch_analysis.saved import card
from orch_analysis.tables.points_file import load_points
found = card.refit(json.load(open("out/cards/card-0.json")), load_points("points.csv"))
print(found.estimates, hashlib.sha256(found.draws.tobytes()).hexdigest())
"""


@pytest.fixture
def points(tmp_path: Path) -> Points:
    rng = np.random.default_rng(5)
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, 5), np.geomspace(1e9, 1e11, 4)))
    loss = (1.8 + 480 * N**-0.35 + 2100 * D**-0.37) * np.exp(0.01 * rng.standard_normal(20))
    table = pl.DataFrame({"N": N, "D": D, "loss": loss, "set": ["x", "y"] * 10, "run": np.arange(20) // 2})
    table.write_csv(tmp_path / "points.csv")
    return load_points(tmp_path / "points.csv")


@pytest.mark.parametrize(
    ("law", "x", "more"),
    [
        ("chinchilla", {"params": "N", "samples": "D"}, {"huber_delta": 1e-3}),
        ("chinchilla", {"params": "N", "samples": "D"}, {"cluster": "run"}),
        ("power_offset", {"params": "N"}, {"loss": "l2"}),
        ("power", {"compute": "D"}, {}),
        ("power", {"params": "N"}, {"ceiling": 9.0}),
    ],
)
def test_refitting_from_the_written_card_gives_the_same_bits(
    points: Points, tmp_path: Path, law: str, x: dict[str, str], more: dict[str, object]
) -> None:
    by = ["set"] if law == "power_offset" else []
    found = fit_groups(law, points, FitOptions(value="loss", x=x, bootstrap=40, seed=3, **more), by=by)  # type: ignore[arg-type]
    laws_json.write(found, tmp_path / "out", {"source": points.source, "sha256": points.sha256})
    for number, item in enumerate(found):
        written = json.loads((tmp_path / "out" / "cards" / f"card-{number}.json").read_text(encoding="utf-8"))
        again = card.refit(written, points)
        assert again == item
        assert np.array_equal(again.draws, item.draws)


def test_a_form_that_auto_chose_below_a_ceiling_is_refitted_from_its_card(points: Points) -> None:
    table = points.frame.drop("_row").with_columns(score=1 - pl.col("loss") / 10, loss=None)
    points = load_points(table)
    (found,) = fit_groups("auto", points, FitOptions(value="score", x={"params": "N"}, bootstrap=40))
    assert isinstance(found, AutoFit)
    assert found.value == "1 - score"
    again = card.refit(card.make(found, {"sha256": points.sha256}), points)
    assert again.estimates == found.estimates
    assert np.array_equal(again.draws, found.draws)


def test_another_process_with_more_threads_refits_the_same_bits(tmp_path: Path) -> None:
    """Enough points and draws for a matrix product to be shared by threads, which then add up in another order."""
    rng = np.random.default_rng(5)
    N, D = np.exp(rng.uniform(np.log([1e7, 1e9]), np.log([1e10, 1e11]), (240, 2))).T
    loss = (1.8 + 480 * N**-0.35 + 2100 * D**-0.37) * np.exp(0.01 * rng.standard_normal(240))
    pl.DataFrame({"N": N, "D": D, "loss": loss}).write_csv(tmp_path / "points.csv")
    points = load_points(tmp_path / "points.csv")
    (tmp_path / "again.py").write_text(AGAIN, encoding="utf-8")
    found = fit_groups(
        "chinchilla", points, FitOptions(value="loss", x={"params": "N", "samples": "D"}, bootstrap=300)
    )
    laws_json.write(found, tmp_path / "out", {"source": points.source, "sha256": points.sha256})
    said = []
    for threads in ("1", "4"):
        settings = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), threads)
        done = subprocess.run(
            [sys.executable, "again.py"], cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        said.append(done.stdout)
    written = json.loads((tmp_path / "out" / "laws.json").read_text(encoding="utf-8"))["fits"][0]
    draws = np.load(tmp_path / "out" / "draws.npz")["0"]
    own = hashlib.sha256(draws.tobytes()).hexdigest()
    assert said == [f"{written['estimates']} {own}\n"] * 2


def test_another_table_is_refused(points: Points, tmp_path: Path) -> None:
    found = fit_groups("power", points, FitOptions(value="loss", x={"params": "N"}))[0]
    made = card.make(found, {"sha256": points.sha256})
    other = load_points(points.frame.drop("_row")[:-1])
    with pytest.raises(OrchError, match="not the table of the card"):
        card.refit(made, other)


def test_the_card_answers_the_checklist(points: Points) -> None:
    """Form, setup, data and fitting of (Mis)Fitting (arXiv:2502.18969); what nobody told is said to be not stated."""
    found = fit_groups(
        "chinchilla", points, FitOptions(value="loss", x={"params": "N", "samples": "D"}, bootstrap=40)
    )[0]
    told = {
        "counting": {"params": "encoder only, no embedding"},
        "filters": "loss < 5",
        "command": "orch fit-laws ...",
    }
    made = card.make(found, told)
    assert made["data"]["variables"]["params"]["counted"] == "encoder only, no embedding"
    assert made["data"]["variables"]["samples"]["column"] == "D"
    assert made["data"]["filters"] == "loss < 5"
    assert made["setup"] == "not stated"
    fitting = made["fitting"]
    assert (fitting["starts"], fitting["start_agreement"], fitting["options"]["seed"]) == (16, 1.0, 0)
    assert fitting["delta"] == found.delta
    assert set(made["versions"]) >= {"numpy", "scipy"}
    assert "params = 1e+10" in fitting["predicts_beyond"]
    page = card.markdown(made, found)
    for part in (
        "# chinchilla",
        "Outcome: **ok**",
        "| alpha |",
        "## Form",
        "## Setup",
        "## Data",
        "## Fitting",
    ):
        assert part in page
