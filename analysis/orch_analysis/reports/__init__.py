"""Reports: one self-contained page, with its figures, tables and laws beside it."""

from orch_analysis.reports.points_report import report_points
from orch_analysis.reports.study_report import report_study

__all__ = ["report_points", "report_study"]
