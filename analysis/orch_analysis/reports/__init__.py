"""Reports: one self-contained page, in a folder with its figures, tables and laws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.points import Points


def report(source: Points | str | Path, fits: Sequence[Fit] = (), *, out: str | Path | None = None) -> Path:
    """Write the report of `fits` to a table of points, or of the study in a folder; return its page.

    out: the folder of the report; the default is `report` in the study, or `laws` in the working directory.
    Raises OrchError if `fits` is empty, for a folder that is not a study, and if the report cannot be
    written.
    """
    if isinstance(source, Points):
        from orch_analysis.reports.points_report import report_points

        return report_points(source, fits, Path(out or "laws"))
    from orch_analysis.reports.study_report import report_study

    return report_study(Path(source), None if out is None else Path(out))
