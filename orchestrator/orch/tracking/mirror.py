"""The study folder as runs of a tracking store: one run per cell, and one for the report.

Nothing here knows MLflow; `orch.tracking.track` writes the runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orch.tracking.run_metrics import Metric, Span, metric_key, milliseconds, run_metrics
from orch_core.errors import OrchError
from orch_core.study import attempts
from orch_core.study.folder import Study
from orch_core.study.plan import stored_plan
from orch_core.study.record import Record
from orch_core.study.rows import config_row, task_labels
from orch_core.study.stored import StoredRecord

FORMAT = 2  # enters every digest: a change of what is mirrored writes all runs again
REPORT = "report"
AXES = ("params_encoder", "params_head", "params_total", "samples_seen", "flops_train")
TAG_LIMIT, PARAM_LIMIT = 5000, 6000  # characters that every version of MLflow from 3.0 on takes
LOG_LINES, LOG_BYTES = 20, 4000
State = Literal["done", "pending", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A data set that a run read: `digest` is its content hash, `context` is `pretrain` or `probe`."""

    name: str
    digest: str
    context: str
    path: str
    facts: Mapping[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """The files that a run is made from.

    key:      the cell's id, or `report`
    digest:   hash of the files; a run that carries it is up to date
    records:  the record of pretraining, then those of the probes; empty for the report
    complete: whether the plan's probes are all published
    """

    key: str
    digest: str
    records: tuple[StoredRecord, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredRun:
    """One run.

    base:  hash of the pretraining record, or of the report; a run with another base is another result
    state: failed if pretraining or a probe failed or diverged; pending if a probe of the plan is missing
    start, end: Unix milliseconds
    files: paths, each with its artifact folder
    damaged: what is left out because its file cannot be read
    """

    key: str
    base: str
    digest: str
    name: str
    state: State
    start: int
    end: int
    params: Mapping[str, str]
    metrics: tuple[Metric, ...]
    tags: Mapping[str, str]
    datasets: tuple[Dataset, ...] = ()
    files: tuple[tuple[Path, str], ...] = ()
    damaged: tuple[str, ...] = ()


def run_sources(study: Study) -> Iterator[RunSource]:
    """Every cell that has a record or a failed attempt, in the order of ids, then the report if it exists."""
    planned, probe_folders = _planned(study)
    for cell in study.cells():
        records = tuple(study.stored_of(cell))
        if records and not records[0].is_probe:
            published = {Path(one.folder).name for one in records if one.published and one.is_probe}
            complete = records[0].published and (cell not in planned or probe_folders <= published)
            digest = _digest(
                ((_folder_name(one), one.text) for one in records), "" if complete else "pending"
            )
            yield RunSource(key=cell, digest=digest, records=records, complete=complete)
    page = study.report / "report.html"
    if _is_inside(study, page):
        yield RunSource(key=REPORT, digest=_digest([(REPORT, page.read_bytes())]))


def read_run(study: Study, source: RunSource) -> MirroredRun:
    """The run of a source; raises OrchError that names the file if its pretraining record is damaged."""
    if source.key == REPORT:
        return _report(study, source)
    first, *others = source.records
    run = first.read()
    probes, damaged = _readable(study, others)
    config = run.provenance.get("config") or study.config(source.key)
    config = config if isinstance(config, dict) else {}
    try:
        row = config_row(config)
        span = _span(run, Path(first.path), config)
        datasets = tuple(_datasets(config, probes))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{first.path} is damaged: its config cannot be read ({error!r})"
        raise OrchError(message) from error
    twins = sorted(label for (task, _), label in task_labels(probes).items() if label != task)
    return MirroredRun(
        key=source.key,
        base=_digest([(_folder_name(first), first.text)], *twins),  # these rename metrics
        digest="" if damaged else source.digest,  # so that every sync names what is damaged
        name=run.name,
        state=_state(source, [run, *probes]),
        start=span.start,
        end=span.end,
        params=_params(row, run),
        metrics=tuple(run_metrics(study.curves_file(source.key), run, probes, span)),
        tags=_tags(study, run, probes),
        datasets=datasets,
        files=tuple(_files(study, source, [run, *probes])),
        damaged=damaged,
    )


def run_labels(study: Study) -> Iterator[dict[str, str]]:
    """By cell the labels of a study's page: algorithm, model, mix, images, state, and tasks by comma."""
    for source in run_sources(study):
        try:
            run = source.records[0].read() if source.records else None
        except OrchError:
            continue
        if run:
            probes = _readable(study, source.records[1:])[0]
            config = run.provenance.get("config") or study.config(source.key)
            row = config_row(config if isinstance(config, dict) else {})
            names = ("algorithm", "model", "mix", "images")
            scored = [label for probe, label in _labelled(probes) if "auc" in probe.values]
            yield {
                **{name: str(row[name] or "") for name in names},
                "state": _state(source, [run, *probes]),
                "tasks": ",".join(map(metric_key, scored)),
            }


def _labelled(probes: Sequence[Record]) -> Iterator[tuple[Record, str]]:
    labels = task_labels(probes)
    yield from ((probe, labels[probe.task, probe.probe]) for probe in probes)


def _planned(study: Study) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of the plan's cells, and names of its probes' folders; empty without a readable plan."""
    try:
        plan = stored_plan(study)
    except OrchError:
        return frozenset(), frozenset()
    return frozenset(plan.frame["id"]), frozenset(study.probe_folder("", one).name for one in plan.probes)


def _state(source: RunSource, records: Iterable[Record]) -> State:
    if any(record.status != "done" for record in records):
        return "failed"
    return "done" if source.complete else "pending"


def _digest(files: Iterable[tuple[str, bytes]], *words: str) -> str:
    content = hashlib.blake2b(" ".join([str(FORMAT), *words]).encode(), digest_size=16)
    for name, data in files:
        content.update(f"{name} {len(data)} ".encode())
        content.update(data)
    return content.hexdigest()


def _folder_name(record: StoredRecord) -> str:
    return record.path.rsplit("/", 2)[-2]


def _readable(study: Study, stored: Iterable[StoredRecord]) -> tuple[list[Record], tuple[str, ...]]:
    """The records that can be read, and a line for each that cannot."""
    found, damaged = [], []
    for one in stored:
        try:
            found.append(one.read())
        except OrchError as error:
            damaged.append(error.message.removeprefix(f"{study.root}/"))
    return found, tuple(damaged)


def _span(run: Record, path: Path, config: Mapping[str, Any]) -> Span:
    """When a run ran, and its steps.

    If the record does not contain the times, it ended when the record was written, and began its `seconds`
    before, or when its attempt was claimed.
    """
    written = path.stat().st_mtime
    end = run.cost.get("ended", written)
    claimed = path.with_name("owner.json")
    began = claimed.stat().st_mtime if claimed.exists() else end
    start = run.cost.get("started", end - run.cost["seconds"] if "seconds" in run.cost else began)
    steps = int(config.get("samples_seen", 0)) // max(1, int(config.get("batch", 0)))
    return Span(start=milliseconds(min(start, end)), end=milliseconds(end), steps=min(steps, 2**53))


def _params(row: Mapping[str, object], run: Record) -> dict[str, str]:
    """The axes as plain numbers and words: MLflow's filters, groups and charts take them from here."""
    axes = {key: value for key, value in run.values.items() if key in AXES or isinstance(value, str)}
    return {
        metric_key(key): str(value)[:PARAM_LIMIT]
        for key, value in {**row, **axes}.items()
        if value is not None and value != ""
    }


def _tags(study: Study, run: Record, probes: Iterable[Record]) -> dict[str, str]:
    failures = [record for record in (run, *probes) if record.reason]
    code = run.provenance.get("code")
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
        "mlflow.source.git.commit": str(code.get("commit", "")) if isinstance(code, dict) else "",
        "mlflow.note.content": "\n\n".join(_note(study, record) for record in failures),
    }
    return {key: value[:TAG_LIMIT] for key, value in tags.items()}


def _note(study: Study, record: Record) -> str:
    """Markdown with the reason why a record has no result, and the end of its log."""
    reason = record.reason
    assert reason
    what = f"probe `{record.task}`" if record.task else "pretraining"
    log = study.root / reason.log
    shown = _log_end(log) if reason.log and _is_inside(study, log) else []
    quoted = "\n".join(["", "```", *shown, "```"]) if shown else ""
    return f"**{what} {record.status}: {reason.cause}**\n\n{reason.message}\n\nlog: `{reason.log}`{quoted}"


def _log_end(path: Path) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return file.read().decode(errors="replace").splitlines()[-LOG_LINES:]


def _datasets(config: Mapping[str, Any], probes: Iterable[Record]) -> Iterator[Dataset]:
    """Pretraining sources with the number of images drawn in their name, and the probes' tasks."""
    for subset in config.get("data", ()):
        yield Dataset(
            name=f"{subset['source']}-{subset['images']}",
            digest=subset["fingerprint"][:36],
            context="pretrain",
            path=str(subset.get("path", "")),
            facts={"images": subset["images"], "modality": subset["modality"]},
        )
    for record in probes:
        probe = record.provenance.get("probe")
        if isinstance(probe, Mapping):
            facts = {key: probe[key] for key in ("kind", "classes", "protocol") if key in probe}
            path = str(probe.get("path", ""))
            digest = str(probe.get("fingerprint", ""))[:36]
            yield Dataset(name=record.task, digest=digest, context="probe", path=path, facts=facts)


def _files(study: Study, source: RunSource, records: Iterable[Record]) -> Iterator[tuple[Path, str]]:
    """The cell's config, its records, the logs of what failed, and the log of its last attempt."""
    folder = study.cell_folder(source.key)
    wanted = [(study.config_file(source.key), "")]
    wanted += [
        (Path(one.path), f"probes/{Path(one.folder).name}" if one.is_probe else "") for one in source.records
    ]
    logs = {study.root / record.reason.log for record in records if record.reason and record.reason.log}
    for number in attempts.numbers(folder)[-1:]:
        logs.add(attempts.log_of(attempts.folder_of(folder, number)))
    folder = folder.resolve()
    for log in sorted({log.resolve() for log in logs}):
        inside = log.is_relative_to(folder)
        wanted.append((log, log.parent.relative_to(folder).as_posix() if inside else "logs"))
    yield from (one for one in wanted if _is_inside(study, one[0]))


def _is_inside(study: Study, path: Path) -> bool:
    """Whether a path is a file of the study, and not a link out of it: a study can come from a stranger."""
    return path.is_file() and os.path.realpath(path).startswith(f"{os.path.realpath(study.root)}/")


def _report(study: Study, source: RunSource) -> MirroredRun:
    folder = study.report
    moment = milliseconds((folder / "report.html").stat().st_mtime)
    files = tuple(
        (path, path.parent.relative_to(folder).as_posix().strip("."))
        for path in sorted(folder.rglob("*"))
        if _is_inside(study, path)
    )
    tags = {"orch.kind": "analysis", "orch.study": study.name, "mlflow.source.name": "orch fit-laws"}
    tags["mlflow.note.content"] = "Fitted laws, tables and figures: open `report.html` under Artifacts."
    return MirroredRun(
        key=REPORT,
        base=source.digest,
        digest=source.digest,
        name=REPORT,
        state="done",
        start=moment,
        end=moment,
        params={},
        metrics=(),
        tags=tags,
        files=files,
    )
