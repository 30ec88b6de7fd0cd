"""An MLflow experiment as a table of points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orch.tracking.track.connection import connect, explained, runs
from orch.tracking.track.writers import KEY
from orch_core.errors import OrchError
from orch_core.formatting import without_credentials

if TYPE_CHECKING:
    import polars as pl
    from mlflow.entities import Run


def read_points(uri: str, experiment: str) -> pl.DataFrame:
    """An MLflow experiment as a table: one row per (run, task), numbers as floats.

    Columns are `cell`, `name`, `task`, the params, the metrics, and for metrics named `<score>/<task>` the
    score. A run without such metrics gives one row with `task` empty. Runs that are not finished are left
    out. Raises OrchError if the store or the experiment does not exist.
    """
    import polars as pl

    with explained(uri):
        client = connect(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = ", ".join(sorted(entry.name for entry in client.search_experiments())) or "none"
            message = f"{without_credentials(uri)} has no experiment {experiment!r}"
            raise OrchError(message, hint=f"experiments there: {names}")
        finished = [run for run in runs(client, found.experiment_id) if run.info.status == "FINISHED"]
    rows = [row for run in finished if run.data.tags.get("orch.kind") != "analysis" for row in _rows(run)]
    keys = dict.fromkeys(key for row in rows for key in row)
    return pl.DataFrame({key: _column([row.get(key) for row in rows]) for key in keys})


def _rows(run: Run) -> Iterator[dict[str, object]]:
    shared: dict[str, object] = {
        "cell": run.data.tags.get(KEY, run.info.run_id),
        "name": run.info.run_name,
        "task": "",
        **{key: _number(value) for key, value in run.data.params.items()},
    }
    scores: dict[str, dict[str, float]] = {}
    for key, value in run.data.metrics.items():
        score, slash, task = key.partition("/")
        if not slash:
            shared[key] = value
        elif score not in {"cost", "curve"}:
            scores.setdefault(task, {})[score] = value
    yield from ({**shared, "task": task, **values} for task, values in scores.items())
    if not scores:
        yield shared


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _column(values: list[object]) -> pl.Series:
    """Floats where every value is a number, else text; an empty place stays empty."""
    import polars as pl

    if all(value is None or isinstance(value, float) for value in values):
        return pl.Series(values, dtype=pl.Float64)
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)
