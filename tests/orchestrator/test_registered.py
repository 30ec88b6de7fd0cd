"""Forecasts on record: kept as they were made, and scored by the runs that finish after them alone."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from test_suggest import GRID, answer, planned  # noqa: F401 - planned is a fixture

from orch.cli import main
from orch.fit_laws import FitRequest, fit_laws
from orch_analysis.fitting.options import FitOptions
from orch_analysis.saved.registered import FOLDER, scores
from orch_core.errors import OrchError

NAMES = {"params": "params_encoder", "samples": "samples_seen"}


def registered(study, row: dict) -> Path:
    words = [f"--{name}={row[column]}" for name, column in NAMES.items()]
    command = ["predict", str(study.root / "laws"), *words, "--register", "--json"]
    told = CliRunner().invoke(main, command, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return Path(json.loads(told.stdout)["registered"])


def test_a_forecast_is_kept_and_scored_by_runs_that_finish_later(planned):  # noqa: F811
    plan, study = planned
    frame = plan.frame.filter((pl.col("images") > 0) & (pl.col("recipe") == "mae@1"))
    first = frame.filter((pl.col("images") < 1e6) | (pl.col("model") == "f-w64-d6"))
    answer(study, first, axis="samples_seen")
    fit_laws(study.root, FitRequest(law="chinchilla"), FitOptions(bootstrap=50))
    largest = frame.filter(~pl.col("id").is_in(first["id"].to_list())).sort("hours_mid").row(-1, named=True)
    path, known = registered(study, largest), registered(study, first.row(0, named=True))
    document = json.loads(path.read_text())
    assert path.parent == study.root / FOLDER
    assert document["predictions"][0]["finished"] == []
    assert json.loads(known.read_text())["predictions"][0]["finished"] == [first.row(0, named=True)["id"]]
    assert scores(study) == []  # nothing has finished since, and what had finished is no test
    before = path.read_bytes()
    answer(study, frame.filter(pl.col("id") == largest["id"]), axis="samples_seen")
    (score,) = scores(study)
    loss = json.loads((study.cell_folder(largest["id"]) / "record.json").read_text())["values"][
        "heldout_loss"
    ]
    assert score.measured == pytest.approx(loss)
    assert score.error == pytest.approx(np.log(document["predictions"][0]["predicted"] / loss))
    assert score.inside == (score.lo <= loss <= score.hi)
    assert path.read_bytes() == before
    path.write_text(path.read_text().replace(str(score.predicted), str(loss)))
    with pytest.raises(OrchError, match="not what was registered"):
        scores(study)


def test_a_forecast_needs_a_study_and_a_law_that_predicts_there(tmp_path: Path):
    table = tmp_path / "points.csv"
    table.write_text("params,loss\n" + "".join(f"{n:g},{3 * n**-0.1}\n" for n in np.geomspace(1e6, 1e9, 8)))
    fit_laws(table, FitRequest(law="power", out=tmp_path / "laws"), FitOptions(bootstrap=50))
    told = CliRunner().invoke(main, ["predict", str(tmp_path / "laws"), "--params", "1e10", "--register"])
    assert told.exit_code == 2
    assert "study" in told.output
