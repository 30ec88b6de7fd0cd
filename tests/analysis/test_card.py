"""Provenance cards: complete, and enough to repeat the fit bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from orch_analysis import card, lawsfile
from orch_analysis.fit import Fit
from orch_analysis.table import Points, read_points
from orch_core.errors import OrchError


@pytest.fixture
def points(tmp_path: Path) -> Points:
    rng = np.random.default_rng(5)
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, 5), np.geomspace(1e9, 1e11, 4)))
    loss = (1.8 + 480 * N**-0.35 + 2100 * D**-0.37) * np.exp(0.01 * rng.standard_normal(20))
    table = pl.DataFrame({"N": N, "D": D, "loss": loss, "set": ["x", "y"] * 10, "run": np.arange(20) // 2})
    table.write_csv(tmp_path / "points.csv")
    return read_points(tmp_path / "points.csv", mapping={})


@pytest.mark.parametrize(
    ("law", "x", "more"),
    [
        ("chinchilla", {"params": "N", "samples": "D"}, {"delta": 1e-3}),
        ("chinchilla", {"params": "N", "samples": "D"}, {"cluster": "run"}),
        ("power_offset", {"params": "N"}, {"group_by": ["set"], "loss": "l2"}),
        ("power", {"compute": "D"}, {}),
    ],
)
def test_refitting_from_the_written_card_gives_the_same_bits(
    points: Points, tmp_path: Path, law: str, x: dict[str, str], more: dict[str, object]
) -> None:
    found = lawsfile.fit_points(points, law=law, value="loss", x=x, bootstrap=40, seed=3, **more)  # type: ignore[arg-type]
    lawsfile.write(found, tmp_path / "out", {"source": points.source, "sha256": points.sha256})
    for number, item in enumerate(found):
        assert isinstance(item, Fit)
        written = json.loads((tmp_path / "out" / "cards" / f"card-{number}.json").read_text(encoding="utf-8"))
        again = card.refit(written, points)
        assert again.estimates == item.estimates
        assert again.intervals == item.intervals
        assert np.array_equal(again.draws, item.draws)


def test_another_table_is_refused(points: Points, tmp_path: Path) -> None:
    found = lawsfile.fit_points(points, law="power", value="loss", x={"params": "N"})[0]
    assert isinstance(found, Fit)
    made = card.make(found, {"sha256": points.sha256})
    other = read_points(points.frame.drop("_row")[:-1], mapping={})
    with pytest.raises(OrchError, match="not the table of the card"):
        card.refit(made, other)


def test_the_card_answers_the_checklist(points: Points) -> None:
    """Form, setup, data and fitting of (Mis)Fitting (arXiv:2502.18969); what nobody told is said to be not stated."""
    found = lawsfile.fit_points(
        points, law="chinchilla", value="loss", x={"params": "N", "samples": "D"}, bootstrap=40
    )[0]
    assert isinstance(found, Fit)
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
    assert (fitting["starts"], fitting["agreement"], fitting["seed"]) == (16, 1.0, 0)
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
