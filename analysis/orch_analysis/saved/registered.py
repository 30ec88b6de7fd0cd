"""Forecasts on record: predictions made before the runs, kept in the study and scored when they finish.

A forecast is a file in the study's folder `forecasts`, named by its time and the hash of its text. No file
there is ever overwritten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from orch_analysis.fitting.estimates import Fit
from orch_analysis.saved import laws_json
from orch_analysis.tables.study_tables import Results, read_results
from orch_core.errors import OrchError
from orch_core.files import dumps, publish_once
from orch_core.provenance import code_state
from orch_core.study.folder import Study

FOLDER = "forecasts"
NEAR = 0.01  # relative distance in every variable within which a run is at the scale that was forecast
NAMES = {"params": "params_encoder", "samples": "samples_seen", "unique_samples": "images"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A registered prediction beside the runs that finished after it.

    measured: geometric mean of `runs` runs; error: ln(predicted / measured); inside:
    whether it lies in the band
    """

    file: str
    registered: str
    law: str
    group: Mapping[str, str]
    value: str
    at: Mapping[str, float]
    predicted: float
    lo: float | None
    hi: float | None
    measured: float
    runs: int
    error: float
    inside: bool


def register(study: Study, folder: Path, at: Mapping[str, float], *, trust: bool = False) -> Path:
    """Write what the laws of `folder` predict at `at` into the study; the file.

    Bands are those of one more run. It names the hash of the laws, the data that they were fitted to and the
    code's commit, and the runs at that scale that have finished already, which are no test. Raises OrchError
    if no law predicts there, or the file cannot be written.
    """
    text = (
        (folder / laws_json.FILE).read_text(encoding="utf-8") if (folder / laws_json.FILE).is_file() else ""
    )
    found = [one for one in laws_json.load_laws(folder, trust=trust) if one.estimates]
    results = read_results(study, planned_only=False)
    predictions = [_predicted(one, at) for one in found if set(one.law.x) <= set(at)]
    if not predictions:
        message = f"no law of {folder} can be evaluated at {', '.join(at)}"
        raise OrchError(message, hint="give every variable of a law")
    document: dict[str, Any] = {
        "schema_version": 1,
        "registered": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": study.name,
        "at": dict(at),
        "predictions": [one | {"finished": _runs(results, one, at)["cell"].to_list()} for one in predictions],
        "laws_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "data": results.digest,
        "code": code_state(),
    }
    content = dumps(document)
    stamp = document["registered"][:19].replace(":", "").replace("-", "")
    path = study.root / FOLDER / f"{stamp}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        publish_once(path, content)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise OrchError(message, hint="make the study's folder writable") from error
    return path


def scores(study: Study) -> list[Score]:
    """Every registered prediction at whose scale runs have finished since, in the order of registration.

    Raises OrchError for a file whose text is not the one that was registered.
    """
    results, found = read_results(study, planned_only=False), []
    for path, document in _registered(study):
        for one in document["predictions"]:
            runs = _runs(results, one, document["at"]).filter(~pl.col("cell").is_in(one["finished"]))
            if not runs.height:
                continue
            measured = float(np.exp(np.log(runs[one["value"]].to_numpy()).mean()))
            inside = one["lo"] is not None and one["lo"] <= measured <= one["hi"]
            found.append(
                Score(
                    file=path.name, registered=document["registered"], at=document["at"], measured=measured,
                    runs=runs.height, error=float(np.log(one["predicted"] / measured)), inside=inside,
                    **{name: one[name] for name in ("law", "group", "value", "predicted", "lo", "hi")},
                )
            )  # fmt: skip
    return found


def _registered(study: Study) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((study.root / FOLDER).glob("*.json")):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:12] != path.stem.rpartition("-")[2]:
            message = f"{path} is not what was registered: its hash differs from the one in its name"
            raise OrchError(message, hint="restore the file, or move it out of the folder")
        yield path, json.loads(content)


def _predicted(fit: Fit, at: Mapping[str, float]) -> dict[str, Any]:
    point = pl.DataFrame({name: [at[name]] for name in fit.law.x})
    row = fit.predict(point, band="new").row(0, named=True)
    return {
        "law": fit.law.name,
        "group": dict(fit.group),
        "value": row["quantity"],
        "x": fit.x,
        "predicted": row["value"],
        "lo": row["lo"],
        "hi": row["hi"],
        "level": fit.level,
        "beyond": row["extrapolation"],
    }


def _runs(results: Results, prediction: Mapping[str, Any], at: Mapping[str, float]) -> pl.DataFrame:
    """Finished runs of a prediction's group at its scale."""
    group, value = prediction["group"], prediction["value"]
    frame = results.probes if "task" in group else results.pretraining
    frame = frame.with_columns(pl.col(column).alias(name) for name, column in NAMES.items())
    columns = {name: column for name, column in prediction["x"].items() if isinstance(column, str)}
    if not {value, *group, *columns.values()} <= set(frame.columns):
        return frame.clear()
    near = [(pl.col(column) / at[name] - 1).abs() <= NEAR for name, column in columns.items()]
    alike = [pl.col(name).cast(pl.String) == word for name, word in group.items()]
    return frame.filter(pl.col(value) > 0, *near, *alike)
