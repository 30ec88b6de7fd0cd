"""Reports: one self-contained page, with its figures, tables and laws beside it."""

from orch_analysis.report.points_report import report_points
from orch_analysis.report.study_report import report_study

__all__ = ["report_points", "report_study"]
