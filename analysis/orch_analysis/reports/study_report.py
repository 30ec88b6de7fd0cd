"""`report_study` writes the report of a study with its tables, figures and laws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from orch_analysis.reports import study_figures
from orch_analysis.reports.blocks.fit_tables import fit_table
from orch_analysis.reports.blocks.page_figures import draw_all
from orch_analysis.reports.page import render, writing
from orch_analysis.reports.study_findings import StudyFindings, study_findings
from orch_analysis.reports.study_page import study_page
from orch_analysis.saved import laws_json
from orch_analysis.tables import export
from orch_analysis.tasks.across_protocols import protocol_table
from orch_analysis.tasks.contrasts import contrast_table
from orch_analysis.tasks.slopes import slope_table
from orch_core.files import write_atomic
from orch_core.study.folder import open_study


def report_study(
    root: Path,
    out: Path | None = None,
    *,
    factors: Sequence[str] = (),
    bootstrap: int = 1000,
    seed: int = 0,
) -> Path:
    """Fit the study at `root`, write its report into `out` (by default its folder `report`), return the page.

    factors: task factors to correlate the slopes with, all by default; bootstrap: resamples for the intervals
    of the joint laws (those of power laws are exact). Writes report.html, figures/*.{svg,png,pdf},
    tables/*.{csv,parquet,tex}, laws.json and the fits' cards. The same records give the same bytes. Raises
    OrchError if there is no study, if no cell is finished, for an unknown factor, and if `out` cannot be
    written.
    """
    study = open_study(root)
    found = study_findings(study, factors=factors, bootstrap=bootstrap, seed=seed)
    place = out or study.report
    with writing(place) as folder:
        drawn = draw_all(study_figures.FIGURES, found, folder / "figures")
        page = study_page(found, drawn, _save_tables(found, folder / "tables"))
        fits = [*found.joint, *(row.fit for row in (*found.loss, *found.probes))]
        laws_json.write(fits, folder, _provenance(found), found.benefits.to_json())
        write_atomic(folder / "report.html", render(page))
    return place / "report.html"


def _save_tables(found: StudyFindings, folder: Path) -> dict[str, tuple[str, ...]]:
    frames = {
        "pretraining": found.results.pretraining,
        "scores": found.scored,
        "slopes": slope_table([*found.loss, *found.probes]),
        "joint": fit_table(found.joint),
        "contrasts": contrast_table(found.contrasts),
        "protocols": protocol_table(found.protocols),
        "factors": found.grouped,
        "correlations": pl.concat(
            [frame.with_columns(value=pl.lit(value)) for value, frame in found.correlations.items()]
        ),
        **found.benefits.tables(),
        "ledger": found.results.ledger,
        "curves": found.curves,
    }
    return {name: export.save(frame, folder, name) for name, frame in frames.items()}


def _provenance(found: StudyFindings) -> dict[str, Any]:
    """The origin of the data, for the cards of the fits."""
    return {
        "source": f"records of the study {found.study.name}, blake2b {found.results.digest}",
        "filters": "finished cells; along one axis, values are taken at the geometric mean of the quantities "
        "in `held`",
        "counting": {
            "params_encoder": "parameters of the probed encoder, without heads and decoders",
            "params": "parameters of the probed encoder, without heads and decoders",
            "samples": "images shown in training, or distinct pretraining images: see the column",
            "flops_train": "analytic FLOPs of the whole training run",
        },
        "setup": "one record per run in the study's cells/, with its resolved config",
        "command": f"orch fit-laws {found.study.root.name}",
    }
