"""The package's face: what a notebook imports, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import orch_analysis as oa
from orch_core.errors import OrchError

NAMES = ("load_points", "fit", "fit_groups", "auto", "predict", "frontier", "correlate", "load_study", "report",
         "load_laws", "Law", "LAWS", "Fit", "FitOptions", "Outcome", "Points", "AutoFit", "optimum")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_documented_and_not_a_module(name: str) -> None:
    value = getattr(oa, name)
    assert type(value).__name__ != "module"
    assert name in oa.__all__
    assert name == "LAWS" or value.__doc__


def test_importing_the_package_loads_no_numbers_and_functions_stay_functions() -> None:
    code = (
        "import sys, orch_analysis as oa\n"
        "assert not {'numpy', 'polars', 'scipy'} & set(sys.modules)\n"
        "import orch_analysis.reports, orch_analysis.frontiers.approaches, orch_analysis.fitting.fit\n"
        "from orch_analysis import fit, report, frontier\n"
        "assert all(map(callable, (fit, report, frontier, oa.fit, oa.report, oa.frontier)))\n"
        "assert not {'matplotlib', 'seaborn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_table_of_points_becomes_a_report_and_predictions(tmp_path: Path) -> None:
    x = np.geomspace(1e6, 1e9, 8)
    frame = pl.DataFrame(
        {"params": np.tile(x, 2), "task": ["a"] * 8 + ["b"] * 8, "auc": 1 - np.r_[x**-0.1, x**-0.2]}
    )
    points = oa.load_points(frame)
    fits = oa.fit_groups("power", points, oa.FitOptions(ceiling=1.0), by=["task"])
    assert [fit.estimates["slope"] for fit in fits] == pytest.approx([-0.1, -0.2])
    page = oa.report(points, fits, out=tmp_path / "laws")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert oa.load_laws(tmp_path / "laws") == fits
    predicted = oa.predict(tmp_path / "laws", params=[1e10, 1e11])
    assert predicted["task"].to_list() == ["a", "a", "b", "b"]
    assert predicted["value"].to_list() == pytest.approx([1e10**-0.1, 1e11**-0.1, 1e10**-0.2, 1e11**-0.2])
    with pytest.raises(OrchError, match="params is missing"):
        oa.predict(tmp_path / "laws", samples=1e10)
