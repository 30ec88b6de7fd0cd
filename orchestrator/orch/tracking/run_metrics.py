"""The metrics of a run: the final values of a cell and its probes, and its thinned training curves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orch_core.study.curves import read_rows
from orch_core.study.record import Record
from orch_core.study.rows import numbers, task_labels

CURVE_POINTS = 100  # per metric and run: more take time and look the same; metrics.ndjson has them all
# Scores of a probe; the rest is in its record, an artifact: too many columns freeze MLflow's table of runs
# (mlflow issue 11927).
SCORES = ("auc", "auc_lo", "auc_hi", "auc_se", "accuracy")
CLOCK = frozenset({"step", "time", "samples_seen", "eta_seconds"})
LATEST = 4_102_444_800_000  # Unix milliseconds of the year 2100: a larger time is damage


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One value of a metric: `time` in Unix milliseconds, `step` in optimiser steps."""

    key: str
    value: float
    time: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Start and end of a run in Unix milliseconds, and its number of optimiser steps."""

    start: int
    end: int
    steps: int


def run_metrics(curves: Path, run: Record, probes: Sequence[Record], span: Span) -> Iterator[Metric]:
    """Final values, then curves, without values that are not finite: MLflow stores inf as 1.8e308, NaN as 0.

    A value without a curve has step 0: MLflow draws such metrics as bars, not as curves of one point.
    """
    final = _final_values(run, probes)
    drawn = _curves(curves, final.keys(), span.start)
    for key, value in final.items():
        last = drawn.get(key, ())[-1:]
        if not (last and last[0].step == span.steps and last[0].value == value):
            yield Metric(key=key, value=value, time=span.end, step=span.steps if last else 0)
    for points in drawn.values():
        yield from points


def thin(steps: Sequence[int], limit: int = CURVE_POINTS) -> Sequence[int]:
    """At most `limit` of the ascending steps, evenly spaced by rank, including the first and the last."""
    if len(steps) <= limit:
        return steps
    return [steps[round(rank * (len(steps) - 1) / (limit - 1))] for rank in range(limit)]


def metric_key(text: str) -> str:
    """`text` with every character that MLflow does not allow in a metric's name replaced by `_`."""
    return re.sub(r"[^\w\-. ]", "_", text, flags=re.ASCII)


def milliseconds(seconds: float) -> int:
    """Unix seconds as whole milliseconds, between 1970 and 2100; 0 if they are not a number."""
    return round(min(max(1000 * seconds, 0), LATEST)) if seconds == seconds else 0  # NaN


def _final_values(run: Record, probes: Sequence[Record]) -> dict[str, float]:
    """Values of pretraining, `cost/<name>`, and `<score>/<task>` of the probes."""
    final = numbers(run.values) | {f"cost/{key}": value for key, value in numbers(run.cost).items()}
    for time in ("cost/started", "cost/ended"):
        final.pop(time, None)
    tasks = task_labels(probes)
    for probe in probes:
        task = metric_key(tasks[probe.task, probe.probe])
        final |= {f"{key}/{task}": value for key, value in numbers(probe.values).items() if key in SCORES}
    return final


def _curves(path: Path, finals: Iterable[str], start: int) -> dict[str, list[Metric]]:
    """Thinned curves by metric, under the name of the final value if there is one, else under `curve/`."""
    names = set(finals)
    rows = {
        int(row["step"]): row for row in read_rows(path) if 0 <= row.get("step", -1) < 2**53
    }  # of steps that were trained twice, the last counts
    series: dict[str, list[int]] = {}
    for step in sorted(rows):
        for key, value in rows[step].items():
            if key not in CLOCK and math.isfinite(value):
                series.setdefault(key, []).append(step)
    found: dict[str, list[Metric]] = {}
    for key, steps in sorted(series.items()):
        name = metric_key(key) if metric_key(key) in names else f"curve/{metric_key(key)}"
        found[name] = [
            Metric(key=name, value=float(rows[step][key]), time=_time_of(rows[step], start), step=step)
            for step in thin(steps)
        ]
    return found


def _time_of(row: Mapping[str, float], start: int) -> int:
    """Unix milliseconds of a logged row, whose `time` counts Unix seconds, or seconds since the start."""
    time = row.get("time", 0.0)
    return milliseconds(time) if time > 1e9 else start + milliseconds(time)
