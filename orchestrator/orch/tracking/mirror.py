"""The contents of the study folder as documents for a tracking store: one per cell and one per report.

Nothing here knows MLflow; `orch.tracking.track` writes the documents.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orch_core.cell import algorithm_of
from orch_core.study.folder import Study
from orch_core.study.record import Record, parse_record

FORMAT = 1  # enters every digest: a change of what is mirrored rewrites the runs
CURVE_POINTS = 100  # per metric and run: more costs time and shows nothing more; the file has them all
REPORT = "report"
AXES = ("params_encoder", "params_head", "params_total", "samples_seen", "flops_train")
# Scores of a probe; the rest is in its record, an artifact: too many columns freeze the runs table (mlflow
# #11927).
SCORES = ("auc", "auc_lo", "auc_hi", "auc_se", "accuracy")
CLOCK = frozenset({"step", "time", "samples_seen", "eta_seconds"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of a metric: `time` in Unix milliseconds, `step` in optimiser steps."""

    key: str
    value: float
    time: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A data set that a run read: `digest` is its content hash, `context` `pretrain` or `probe`."""

    name: str
    digest: str
    context: str
    path: str
    facts: Mapping[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The origin of a document, and hashes of its parts.

    key:    the cell's id, or `report`
    base:   hash of the pretraining record (of the report); a run of another base is another result
    digest: hash of everything; a run that carries it is up to date
    run:    path of the pretraining record, or of an attempt's record if none is published
    probes: paths of the probes' records
    """

    key: str
    base: str
    digest: str
    run: Path
    probes: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One run. `start` and `end` are Unix milliseconds; `files` pairs a path with its artifact folder."""

    name: str
    failed: bool
    start: int
    end: int
    params: Mapping[str, str]
    points: tuple[Point, ...]
    tags: Mapping[str, str]
    inputs: tuple[Input, ...] = ()
    files: tuple[tuple[Path, str], ...] = ()


def entries(study: Study) -> Iterator[Entry]:
    """Every cell that has a record or a failed attempt, in the order of ids, then the report if it exists."""
    for folder in sorted(study.root.glob("cells/*")):
        run = _latest(folder)
        if run:
            probes = tuple(filter(None, map(_latest, sorted(folder.glob("probes/*")))))
            twins = [task for task, count in Counter(_task(path) for path in probes).items() if count > 1]
            base = _digest([run], *twins)  # a second probe of a task renames the metrics of the first
            digest = _digest([run, *probes])
            yield Entry(key=folder.name, base=base, digest=digest, run=run, probes=probes)
    report = study.root / "report" / "report.html"
    if report.exists():
        digest = _digest([report])
        yield Entry(key=REPORT, base=digest, digest=digest, run=report)


def document(study: Study, entry: Entry) -> Document:
    """The run of an entry; raises ValueError, KeyError or TypeError if a record of it cannot be read."""
    if entry.key == REPORT:
        return _report(study, entry)
    run = _read(entry.run)
    probes = [_read(path) for path in entry.probes]
    folder = study.cell_folder(entry.key)
    config = run.provenance.get("config") or _json(folder / "cell.json")
    start, end = _times(run, entry.run)
    steps = int(config.get("samples_seen", 0)) // max(1, int(config.get("batch", 0)))
    return Document(
        name=run.name,
        failed=run.status != "done",
        start=start,
        end=end,
        params=_params(config, run),
        points=tuple(_points(folder, run, probes, start, end, steps)),
        tags=_tags(study, run, probes),
        inputs=tuple(_inputs(config, probes)),
        files=tuple(_files(study, folder, entry, [run, *probes])),
    )


def thin(steps: Sequence[int], limit: int = CURVE_POINTS) -> Sequence[int]:
    """At most `limit` of the ascending steps, evenly spaced by rank, the first and the last among them."""
    if len(steps) <= limit:
        return steps
    return [steps[round(rank * (len(steps) - 1) / (limit - 1))] for rank in range(limit)]


def metric_key(text: str) -> str:
    """`text` with every character that is not allowed in a metric's name replaced by `_`."""
    return re.sub(r"[^\w\-. ]", "_", text, flags=re.ASCII)


def _latest(folder: Path) -> Path | None:
    """The published record of a cell's or probe's folder, else that of its last attempt."""
    if (folder / "record.json").exists():
        return folder / "record.json"
    attempts = sorted((folder / "attempts").glob("*/record.json"), key=lambda path: int(path.parent.name))
    return attempts[-1] if attempts else None


def _digest(paths: Iterable[Path], *words: str) -> str:
    content = hashlib.blake2b(" ".join([str(FORMAT), *words]).encode(), digest_size=16)
    for path in paths:
        data = path.read_bytes()
        content.update(f"{path.parent.name} {len(data)} ".encode())
        content.update(data)
    return content.hexdigest()


def _read(path: Path) -> Record:
    return parse_record(path.read_bytes())


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _times(run: Record, path: Path) -> tuple[int, int]:
    """Start and end of a run in Unix milliseconds.

    If the record does not contain it, it ended when the record was written, and began its `seconds` before,
    or when its attempt was claimed.
    """
    end = run.cost.get("ended", path.stat().st_mtime)
    claimed = path.with_name("owner.json")
    began = claimed.stat().st_mtime if claimed.exists() else end
    start = run.cost.get("started", end - run.cost["seconds"] if "seconds" in run.cost else began)
    return round(min(start, end) * 1000), round(end * 1000)


def _params(config: Mapping[str, Any], run: Record) -> dict[str, str]:
    """The axes as plain numbers and words: MLflow's filters, groups and charts take them from here."""
    model = config.get("model") or {}
    recipe = str(config.get("recipe", ""))
    found: dict[str, object] = {
        "algorithm": algorithm_of(recipe),
        "recipe": recipe,
        "model": model.get("name", ""),
        **{key: model[key] for key in ("width", "depth", "heads") if key in model},
        **{
            key: config[key]
            for key in ("mix", "images", "resolution", "patch", "channels", "batch", "precision", "seed")
            if key in config
        },
        **{f"hp.{name}": value for name, value in config.get("overrides", ())},
        **{key: value for key, value in run.values.items() if key in AXES or isinstance(value, str)},
    }
    return {key: str(value) for key, value in found.items() if value not in {None, ""}}


def _points(
    folder: Path, run: Record, probes: Sequence[Record], start: int, end: int, steps: int
) -> Iterator[Point]:
    """Final values, then curves, without values that are not finite: MLflow stores inf as 1.8e308, NaN as 0.

    A value without a curve lies at step 0: of such metrics the UI draws bars, not curves of one point.
    """
    final = _numbers(run.values) | {f"cost/{key}": value for key, value in _numbers(run.cost).items()}
    for dropped in ("cost/started", "cost/ended"):
        final.pop(dropped, None)
    tasks = Counter(probe.task for probe in probes)
    for probe in probes:
        task = metric_key(probe.task if tasks[probe.task] == 1 else f"{probe.task}-{probe.probe[:8]}")
        final |= {f"{key}/{task}": value for key, value in _numbers(probe.values).items() if key in SCORES}
    curves = _curves(folder / "metrics.ndjson", final.keys(), start)
    for key, value in final.items():
        last = curves.get(key, ())[-1:]
        if not (last and last[0].step == steps and last[0].value == value):
            yield Point(key=key, value=value, time=end, step=steps if last else 0)
    for points in curves.values():
        yield from points


def _curves(path: Path, finals: Iterable[str], start: int) -> dict[str, list[Point]]:
    """Thinned curves by metric, under the name of the final value if there is one, else under `curve/`."""
    names = set(finals)
    found: dict[str, list[Point]] = {}
    rows = {int(row["step"]): row for row in _rows(path) if "step" in row}  # a resumed run's last word stays
    series: dict[str, list[int]] = {}
    for step in sorted(rows):
        for key in _numbers(rows[step]).keys() - CLOCK:
            series.setdefault(key, []).append(step)
    for key, steps in sorted(series.items()):
        name = metric_key(key) if metric_key(key) in names else f"curve/{metric_key(key)}"
        found[name] = [
            Point(key=name, value=float(rows[step][key]), time=_moment(rows[step], start), step=step)
            for step in thin(steps)
        ]
    return found


def _moment(row: Mapping[str, Any], start: int) -> int:
    """Unix milliseconds of a logged row, whose `time` counts Unix seconds, or seconds since the start."""
    time = float(row.get("time", 0))
    return round(time * 1000) if time > 1e9 else start + round(time * 1000)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # the line that a kill cut short
                continue


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _tags(study: Study, run: Record, probes: Iterable[Record]) -> dict[str, str]:
    failures = [record for record in (run, *probes) if record.reason]
    code = run.provenance.get("code") or {}
    tags = {
        "orch.kind": "cell",
        "orch.study": study.name,
        "orch.status": run.status,
        "orch.cause": run.reason.cause if run.reason else "",
        "orch.reason": run.reason.message if run.reason else "",
        "orch.failed_probes": ", ".join(record.task for record in failures if record.task),
        "orch.host": str(run.provenance.get("host", "")),
        "orch.job": str(run.provenance.get("job", "")),
        "mlflow.source.name": "orch launch",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": str(code.get("commit", "")),
        "mlflow.note.content": "\n\n".join(_note(study, record) for record in failures),
    }
    return {key: value[:5000] for key, value in tags.items()}


def _note(study: Study, record: Record) -> str:
    """Markdown with the reason why a record has no result, and the end of its log."""
    reason = record.reason
    assert reason
    what = f"probe `{record.task}`" if record.task else "pretraining"
    log = study.root / reason.log
    tail = (
        _tail(log, 4000).decode(errors="replace").splitlines()[-20:] if reason.log and log.is_file() else []
    )
    quoted = "\n".join(["", "```", *tail, "```"]) if tail else ""
    return f"**{what} {record.status}: {reason.cause}**\n\n{reason.message}\n\nlog: `{reason.log}`{quoted}"


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read()


def _inputs(config: Mapping[str, Any], probes: Iterable[Record]) -> Iterator[Input]:
    """Pretraining sources with the number of images drawn in their name, and the probes' tasks."""
    for portion in config.get("data", ()):
        yield Input(
            name=f"{portion['source']}-{portion['images']}",
            digest=portion["fingerprint"][:36],
            context="pretrain",
            path=portion.get("path", ""),
            facts={"images": portion["images"], "modality": portion["modality"]},
        )
    for record in probes:
        probe = record.provenance.get("probe")
        if isinstance(probe, Mapping):
            facts = {key: probe[key] for key in ("kind", "classes", "protocol") if key in probe}
            path = str(probe.get("path", ""))
            digest = str(probe.get("fingerprint", ""))[:36]
            yield Input(name=record.task, digest=digest, context="probe", path=path, facts=facts)


def _files(study: Study, folder: Path, entry: Entry, records: Iterable[Record]) -> Iterator[tuple[Path, str]]:
    yield from ((path, "") for path in (folder / "cell.json", entry.run) if path.exists())
    yield from ((path, f"probes/{_probe_folder(path).name}") for path in entry.probes)
    logs = {study.root / record.reason.log for record in records if record.reason and record.reason.log}
    logs |= set(sorted(folder.glob("attempts/*/log.txt"))[-1:])
    for path in sorted(logs):
        if path.is_file():
            inside = path.is_relative_to(folder)
            yield path, path.parent.relative_to(folder).as_posix() if inside else "logs"


def _probe_folder(record: Path) -> Path:
    """A probe's folder, from its `record.json` or `attempts/<k>/record.json`."""
    return record.parents[2] if record.parents[1].name == "attempts" else record.parent


def _task(record: Path) -> str:
    """The task in the name of a probe's folder, `<task>-<8 digits>`: to compare, not to show."""
    return _probe_folder(record).name[:-9]


def _report(study: Study, entry: Entry) -> Document:
    moment = round(entry.run.stat().st_mtime * 1000)
    folder = entry.run.parent
    files = tuple(
        (path, path.parent.relative_to(folder).as_posix().strip("."))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    tags = {"orch.kind": "analysis", "orch.study": study.name, "mlflow.source.name": "orch fit-laws"}
    tags["mlflow.note.content"] = "Fitted laws, tables and figures: open `report.html` under Artifacts."
    return Document(
        name="report", failed=False, start=moment, end=moment, params={}, points=(), tags=tags, files=files
    )
