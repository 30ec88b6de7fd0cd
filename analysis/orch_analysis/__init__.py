"""Scaling laws: points in; fits with intervals, forecasts, frontiers and reports out.

    import orch_analysis as oa

    points = oa.load_points("points.csv")
    fit = oa.fit("chinchilla", points, oa.FitOptions(value="loss", x={"params": "N", "samples": "D"}))
    print(fit)                                      # a table: estimates, intervals, outcome, warnings
    fit.predict(params=[1e9, 1e10], samples=2e10)   # a polars frame with bands
    fit.plot()                                      # a matplotlib figure
    oa.report(points, [fit], out="points-laws")     # a page, with laws.json, cards, tables and figures

`fit_groups` fits every value of a column apart, `auto` chooses the law, `load_laws` and `predict` read
the folder of a report, `frontier` estimates compute-optimal sizes, `correlate` relates slopes to factors
of tasks, and `load_study` gives a study's runs, probes and curves as polars frames. Names are imported
when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orch_analysis.fitting.estimates import Fit as Fit
    from orch_analysis.fitting.fit import fit as fit
    from orch_analysis.fitting.options import FitOptions as FitOptions
    from orch_analysis.fitting.outcome import Outcome as Outcome
    from orch_analysis.fitting.points import Points as Points
    from orch_analysis.forecast.auto import AutoFit as AutoFit
    from orch_analysis.forecast.auto import auto as auto
    from orch_analysis.forecast.groups import fit_groups as fit_groups
    from orch_analysis.frontiers.approaches import frontier as frontier
    from orch_analysis.frontiers.approaches import optimum as optimum
    from orch_analysis.laws import LAWS as LAWS
    from orch_analysis.laws import Law as Law
    from orch_analysis.reports import report as report
    from orch_analysis.saved.laws_json import load_laws as load_laws
    from orch_analysis.saved.laws_json import predict as predict
    from orch_analysis.tables.points_file import load_points as load_points
    from orch_analysis.tables.study_tables import load_study as load_study
    from orch_analysis.tasks.correlation import correlate as correlate
else:
    from orch_core.lazy import public

    __all__, __getattr__, __dir__ = public(
        __name__,
        {
            "orch_analysis.fitting.estimates": "Fit",
            "orch_analysis.fitting.fit": "fit",
            "orch_analysis.fitting.options": "FitOptions",
            "orch_analysis.fitting.outcome": "Outcome",
            "orch_analysis.fitting.points": "Points",
            "orch_analysis.forecast.auto": "AutoFit auto",
            "orch_analysis.forecast.groups": "fit_groups",
            "orch_analysis.frontiers.approaches": "frontier optimum",
            "orch_analysis.laws": "LAWS Law",
            "orch_analysis.reports": "report",
            "orch_analysis.saved.laws_json": "load_laws predict",
            "orch_analysis.tables.points_file": "load_points",
            "orch_analysis.tables.study_tables": "load_study",
            "orch_analysis.tasks.correlation": "correlate",
        },
    )
