"""Probes of a cell: how well its frozen encoder, or raw pixels, solve each task by each probe's protocol."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orch_core.cell import Cell, Probe
from orch_core.learn.probes import evaluate_probe
from orch_core.learn.probes.subject import Subject
from orch_core.learn.probes.task import Task, load_task
from orch_core.learn.result import NotDefined, Result, never
from orch_core.study.folder import DRAWS
from orch_core.study.predictions import PREDICTIONS
from orch_core.study.record import Cause, Reason


def probe(
    cell: Cell, folder: Path, probes: Iterable[Probe], *, should_stop: Callable[[], bool] = never
) -> Iterator[tuple[Probe, Result]]:
    """Score the cell's encoder on each task in turn; consecutive probes of one task share its features.

    Raises OrchError if `folder/encoder.safetensors` is missing or of another shape, or a task's file is
    unusable; Stopped between two batches once `should_stop()` is true.
    """
    subject = Subject(cell, folder, should_stop)
    loaded: tuple[tuple[str, str, int], Task] | None = None
    for one in probes:
        began = time.monotonic()
        key = (one.path, one.fingerprint, one.train_limit)
        if loaded is None or loaded[0] != key:
            loaded = (key, load_task(one, folder))
        result = _result(subject, loaded[1], one)
        yield one, replace(result, cost={"seconds": time.monotonic() - began})


def _result(subject: Subject, task: Task, one: Probe) -> Result:
    """Scores of a task with what lies beside the record, or the reason why the protocol gives none here."""
    try:
        scored = evaluate_probe(subject, task, one)
    except NotDefined as error:
        return Result(status="failed", reason=Reason(cause=Cause.NOT_DEFINED, message=str(error)))
    files = {DRAWS: _npy(scored.draws)}
    if scored.predictions is not None:
        files[PREDICTIONS] = scored.predictions.to_bytes()
    return Result(status="done", values=scored.values, files=files)


def _npy(array: NDArray[np.float64]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array.astype(np.float32))
    return buffer.getvalue()
