"""Scaling laws: points in; fits with intervals, frontiers and reports out (numpy, scipy, polars; never torch).

`load_points` reads a table of points, `fit` and `auto` fit laws to it, `frontier` estimates compute-optimal sizes,
`correlate` relates slopes to factors of tasks, `load_study` gives a study as frames, and `report_points` and
`report_study` write a report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orch_analysis.fitting.estimates import Fit as Fit
    from orch_analysis.fitting.fit import fit as fit
    from orch_analysis.forecast.auto import auto as auto
    from orch_analysis.frontiers.approaches import of_table as frontier
    from orch_analysis.laws import LAWS as LAWS
    from orch_analysis.laws import Law as Law
    from orch_analysis.reports import report_points as report_points
    from orch_analysis.reports import report_study as report_study
    from orch_analysis.tables.points_file import read_points as load_points
    from orch_analysis.tables.study_tables import load_study as load_study
    from orch_analysis.tasks.correlation import correlate_all as correlate

    __all__ = ["correlate", "frontier", "load_points"]
else:
    from orch_core.lazy import public

    __all__, __getattr__, __dir__ = public(
        __name__,
        {
            "orch_analysis.fitting.estimates": "Fit",
            "orch_analysis.fitting.fit": "fit",
            "orch_analysis.forecast.auto": "auto",
            "orch_analysis.frontiers.approaches": "frontier=of_table",
            "orch_analysis.laws": "LAWS Law",
            "orch_analysis.reports": "report_points report_study",
            "orch_analysis.tables.points_file": "load_points=read_points",
            "orch_analysis.tables.study_tables": "load_study",
            "orch_analysis.tasks.correlation": "correlate=correlate_all",
        },
    )
