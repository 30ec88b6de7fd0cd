"""`report_points` writes the report of fits to a table of points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.points import Points
from orch_analysis.reports import points_figures
from orch_analysis.reports.blocks import fit_tables
from orch_analysis.reports.blocks.page_figures import draw_all
from orch_analysis.reports.page import render, writing
from orch_analysis.reports.points_findings import PointsFindings, points_findings
from orch_analysis.reports.points_page import points_page
from orch_analysis.saved import laws_json
from orch_analysis.tables import export
from orch_analysis.tasks.slopes import slope_table
from orch_core.errors import OrchError
from orch_core.files import write_atomic


def report_points(
    points: Points,
    fits: Sequence[Fit],
    out: Path,
    *,
    command: str = "orch_analysis.report",
    factors: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """Write the report of fits to a table of points into `out`; return the path of the page.

    points, fits: results of `load_points` and `fit_groups`. factors: columns to correlate the slopes with;
                  without any, every numeric column with one value per `task` (or `dataset`). Power laws
    along `params` or `params_encoder` are repeated along the other of the two if the table has it: a law's x
    axis is a choice, and the page shows its effect. Writes report.html, figures, tables, laws.json and cards;
    the same points give the same bytes. Raises OrchError if there is no fit, for an unknown factor, and if
    the folder cannot be written.
    """
    if not fits:
        message = f"{points.source}: cannot write a report without a fit"
        raise OrchError(message, hint="give the results of `fit` or `fit_groups` to these points")
    numbers = points_findings(points, fits, factors, seed)
    with writing(out) as folder:
        drawn = draw_all(points_figures.FIGURES, numbers, folder / "figures")
        page = points_page(numbers, drawn, _save_tables(numbers, folder / "tables"), command)
        benefits = numbers.benefits.to_json() if numbers.benefits else ()
        laws_json.write(fits, folder, _provenance(points, command), benefits)
        write_atomic(folder / "report.html", render(page))
    return out / "report.html"


def save_fits(
    points: Points, fits: Sequence[Fit], out: Path, *, command: str, factors: Sequence[str] = ()
) -> None:
    """Save fits in `out/laws.json`, with their report if a law was fitted.

    Raises OrchError as `report_points` does.
    """
    if any(fit.estimates for fit in fits):
        report_points(points, fits, out, command=command, factors=factors, seed=fits[0].options.seed)
        return
    with writing(
        out
    ) as folder:  # the report of an earlier table, which would contradict these outcomes, goes
        laws_json.write(fits, folder, _provenance(points, command))


def _provenance(points: Points, command: str) -> dict[str, str]:
    return {"source": points.source, "sha256": points.sha256, "command": command}


def _save_tables(found: PointsFindings, folder: Path) -> dict[str, tuple[str, ...]]:
    frames = {
        "points": found.frame,
        "fits": fit_tables.fit_table(found.fits),
        "slopes": slope_table([row for rows in found.axes.values() for row in rows]),
        "correlations": found.correlations,
        **(found.benefits.tables() if found.benefits else {}),
    }
    return {name: export.save(frame, folder, name) for name, frame in frames.items() if frame.height}
