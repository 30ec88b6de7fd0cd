"""`report_study`: from a study folder to a report with everything it rests on beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from orch_analysis.fitting.fit import Fit
from orch_analysis.reports.page import render
from orch_analysis.reports.page_tables import fit_table
from orch_analysis.reports.study_findings import Findings, findings
from orch_analysis.saved import laws_json
from orch_analysis.tables import export
from orch_analysis.tasks import slopes
from orch_core.errors import OrchError
from orch_core.files import write_atomic
from orch_core.study.folder import open_study


def report_study(root: Path, out: Path | None = None, *, bootstrap: int = 1000, seed: int = 0) -> Path:
    """Fit and report the study at `root` into `out` (its folder `report` by default); returns the page's path.

    bootstrap: resamples for the intervals of the joint laws (power laws have exact ones).
    Writes report.html, figures/*.{svg,png,pdf}, tables/*.{csv,parquet,tex}, laws.json and the fits' cards. The same records give the
    same bytes. Raises OrchError where there is no study, nothing is finished, or the folder cannot be written.
    """
    from orch_analysis.reports import page_figures
    from orch_analysis.reports.study_page import study_page

    study = open_study(root)
    found = findings(study, bootstrap=bootstrap, seed=seed)
    folder = out or study.root / "report"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = page_figures.of_study(found, folder / "figures")
        page = study_page(found, drawn, _save_tables(found, folder / "tables"))
        laws_json.write(_fits(found), folder, _provenance(found))
        write_atomic(folder / "report.html", render(page))
    except OSError as error:
        message = f"cannot write the report into {folder}: {error.strerror or error}"
        raise OrchError(message, hint="free some disk, or choose a writable folder with --out") from error
    return folder / "report.html"


def _save_tables(found: Findings, folder: Path) -> dict[str, tuple[str, ...]]:
    frames = {
        "pretraining": found.results.pretraining,
        "scores": found.scored,
        "slopes": slopes.slope_table([*found.loss, *found.probes]),
        "joint": fit_table(found.joint),
        "factors": found.grouped,
        "correlations": pl.concat(
            [frame.with_columns(value=pl.lit(value)) for value, frame in found.correlations.items()]
        ),
        "ledger": found.results.ledger,
        "curves": found.curves,
    }
    return {name: export.save(frame, folder, name) for name, frame in frames.items()}


def _fits(found: Findings) -> list[Fit]:
    return [*found.joint, *(row.fit for row in (*found.loss, *found.probes))]


def _provenance(found: Findings) -> dict[str, Any]:
    """What the cards of the fits say of their data."""
    return {
        "source": f"records of the study {found.study.name}, blake2b {found.results.digest}",
        "filters": "finished cells; along one axis, values stand at the geometric mean of what `held` names",
        "counting": {
            "params_encoder": "parameters of the probed encoder, heads and decoders left out",
            "params": "parameters of the probed encoder, heads and decoders left out",
            "samples": "images shown in training, or distinct pretraining images: see the column",
            "flops_train": "analytic FLOPs of the whole training run",
        },
        "setup": "one record per run in the study's cells/, with its resolved config",
        "command": f"orch fit-laws {found.study.root.name}",
    }
