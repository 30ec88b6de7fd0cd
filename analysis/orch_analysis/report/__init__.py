"""Reports: one self-contained page, with its figures, tables and laws beside it."""

from orch_analysis.report.points import report_points
from orch_analysis.report.study import fit_study

__all__ = ["fit_study", "report_points"]
