"""Reports: one self-contained page, with its figures, tables and laws beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.points import Points


def report(source: Points | str | Path, fits: Sequence[Fit] = (), *, out: str | Path | None = None) -> Path:
    """Write a report and return its page: of `fits` to a table of points, or of the study in a folder.

    out: the folder of the report; `report` in the study, or `laws` here, by default. Raises OrchError where there is no
    fit or no study, and for a folder that cannot be written.
    """
    if isinstance(source, Points):
        from orch_analysis.reports.points_report import report_points

        return report_points(source, fits, Path(out or "laws"))
    from orch_analysis.reports.study_report import report_study

    return report_study(Path(source), None if out is None else Path(out))
