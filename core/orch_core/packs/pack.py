"""Pack sources: gather units, arrange rows, write files. Killed at any moment, it goes on where it was."""

from __future__ import annotations

import csv
import io
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import polars as pl

from orch_core.errors import OrchError
from orch_core.files import dumps, write_atomic, write_parquet
from orch_core.identity import digest
from orch_core.images.npz import fingerprint
from orch_core.packs.arrange import (
    arrange,
    content_hashes,
    joined,
    joint_fingerprint,
    modality,
    own_order,
    pack_bounds,
    subsets,
)
from orch_core.packs.gather import HARMLESS, SCHEMA, Settings, Spec, Unit, gather, unit_key
from orch_core.packs.inputs import SOURCES, find_units, read_items, source_notes
from orch_core.packs.layout import (
    INDEX,
    LEFT_OUT,
    MANIFEST,
    NAMES,
    ORDERS,
    TABLE,
    Manifest,
    Pack,
    Source,
    read_manifest,
)
from orch_core.packs.write import PACK_BYTES, Draft, write_orders, write_pack, write_table

SCAN = ".gathered"
Tell = Callable[[str, int, int], None]
"""Progress: what is done, how many of it, of how many."""
Task = TypeVar("Task")
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """How to pack.

    val:        share of the groups held out of a source without a val split
    max_bad:    share of a source's images that may be unusable
    workers:    processes
    pack_bytes: size that a pack does not exceed, but for an image that is larger
    """

    settings: Settings
    val: float = 0.01
    max_bad: float = 0.01
    workers: int = 1
    pack_bytes: int = PACK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packing:
    """One call: what is packed where. keys: identities of the units' results."""

    folder: Path
    specs: Sequence[Spec]
    units: Sequence[Unit]
    keys: Sequence[str]
    options: PackOptions
    tell: Tell

    @property
    def scan(self) -> Path:
        return self.folder / SCAN

    @property
    def inputs(self) -> str:
        return digest({"units": self.keys, "val": self.options.val, "pack_bytes": self.options.pack_bytes})


def pack(folder: Path, specs: Sequence[Spec], options: PackOptions, tell: Tell) -> Manifest:
    """Pack the sources into `folder` and return its manifest; what is there already is kept.

    Raises OrchError for sources that cannot be read, for too many bad images (all are listed in
    `left-out.csv`), and for a folder that holds packs of something else.
    """
    units = [unit for place, spec in enumerate(specs) for unit in find_units(place, spec)]
    keys = [unit_key(unit, specs[unit.source], options.settings) for unit in units]
    job = _Packing(folder=folder, specs=specs, units=units, keys=keys, options=options, tell=tell)
    if (folder / MANIFEST).exists():
        return _there(job)
    job.scan.mkdir(parents=True, exist_ok=True)
    _gathered(job)
    left_out = _left_out(job)
    manifest = _written(job, left_out)
    write_atomic(folder / MANIFEST, dumps(manifest.to_json()))
    shutil.rmtree(job.scan)
    return manifest


def _there(job: _Packing) -> Manifest:
    manifest = read_manifest(job.folder)
    if manifest.inputs != job.inputs:
        message = f"{job.folder} holds packs of other sources, or of sources that have changed since"
        raise OrchError(message, hint="choose a new folder; a pack folder is never changed")
    shutil.rmtree(job.scan, ignore_errors=True)
    return manifest


def _gathered(job: _Packing) -> None:
    """Gather the units that are missing."""
    todo = [
        (unit, key, job.specs[unit.source], job.options.settings, job.scan)
        for unit, key in zip(job.units, job.keys, strict=True)
        if not (job.scan / f"{key}.parquet").exists()
    ]
    there = len(job.units) - len(todo)
    for done, _ in enumerate(_each(_gather_unit, todo, job.options.workers), there + 1):
        job.tell("parts read", done, len(job.units))


def _usable(job: _Packing, *columns: str) -> list[pl.DataFrame]:
    """Rows of the images that can be used, by unit: those columns, or all but their names."""
    wanted = columns or [name for name in SCHEMA if name not in {"name", "problem", "note"}]
    return [
        pl.read_parquet(job.scan / f"{key}.parquet", columns=[*wanted, "problem"])
        .filter(pl.col("problem") == "")
        .drop("problem")
        for key in job.keys
    ]


def _gather_unit(task: tuple[Unit, str, Spec, Settings, Path]) -> None:
    unit, key, spec, settings, scan = task
    gather(read_items(unit, spec), key, spec, settings, scan)


def _each(work: Callable[[Task], Done], tasks: Sequence[Task], workers: int) -> Iterator[Done]:
    """Results of independent tasks as they come, in this process or in several."""
    if workers < 2 or len(tasks) < 2:
        yield from map(work, tasks)
        return
    many, context = min(workers, len(tasks)), get_context("forkserver")
    with ProcessPoolExecutor(many, context, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        waiting = [pool.submit(work, task) for task in tasks]
        try:
            for one in as_completed(waiting):
                yield one.result()
        except BrokenProcessPool as error:
            message = "a packing process was killed, perhaps for want of memory"
            raise OrchError(
                message, hint="run it again with fewer --workers: it goes on where it stopped"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with(parent: int) -> None:
    """End this worker soon after the process that packs, however that ends."""

    def watch() -> None:
        while Path(f"/proc/{parent}").exists() or not Path("/proc/self").exists():
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _left_out(job: _Packing) -> list[int]:
    """Images left out of each source, all listed in `left-out.csv`; raises OrchError for too many."""
    out, bad, total = Counter[int](), Counter[int](), Counter[int]()
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("source", "image", "reason"))
    for unit, key in zip(job.units, job.keys, strict=True):
        frame = pl.read_parquet(job.scan / f"{key}.parquet", columns=["name", "problem"])
        wrong = frame.filter(pl.col("problem") != "")
        harmless = int(wrong["problem"].is_in(HARMLESS).sum())
        out[unit.source] += len(wrong)
        bad[unit.source] += len(wrong) - harmless
        total[unit.source] += len(frame) - harmless
        for name, problem in wrong.select("name", "problem").iter_rows():
            writer.writerow((job.specs[unit.source].name, name, problem))
    if out.total():
        write_atomic(job.folder / LEFT_OUT, buffer.getvalue())
    for place, spec in enumerate(job.specs):
        _judge(spec, bad[place], total[place], job.options.max_bad, job.folder)
    return [out[place] for place in range(len(job.specs))]


def _judge(spec: Spec, bad: int, total: int, max_bad: float, folder: Path) -> None:
    if total == 0:
        message = f"{spec.path} has no images"
        raise OrchError(message, hint=SOURCES)
    if bad == total or bad > max_bad * total:
        limit = f"more than the {100 * max_bad:.3g}% of --max-bad" if bad > max_bad * total else "all of them"
        message = f"{spec.name}: {bad:,} of {total:,} images cannot be used, {limit}"
        raise OrchError(
            message, hint=f"{folder / LEFT_OUT} names each with its reason; mend them, or raise --max-bad"
        )


def _written(job: _Packing, left_out: Sequence[int]) -> Manifest:
    arranged = arrange(joined(_usable(job), [unit.source for unit in job.units]), job.options.val)
    index = arranged.index
    sources = _sources(job, index, left_out)
    classes = [source.classes for source in sources]
    orders = [own_order(index, code) for code in range(len(arranged.modalities))]
    facts = tuple(
        modality(index, name, order, classes) for name, order in zip(arranged.modalities, orders, strict=True)
    )
    identity, pretraining = joint_fingerprint(facts), sum(one.pretraining for one in facts)
    bounds = pack_bounds(index["bytes"].to_numpy(), pretraining, job.options.pack_bytes)
    packs = _packs(job, index, bounds)
    write_table(index, bounds, job.folder, identity)
    write_orders(orders, job.folder, identity)
    write_parquet(index.drop("unit", "offset"), job.folder / INDEX)
    names = pl.concat(_usable(job, "name"))["name"].gather(arranged.rows)
    write_parquet(pl.DataFrame({"name": names}), job.folder / NAMES)
    return Manifest(
        fingerprint=identity,
        rows=len(index),
        pretraining=pretraining,
        modalities=facts,
        sources=sources,
        packs=packs,
        subsets=subsets(index, pretraining, bounds),
        files={name: fingerprint(job.folder / name) for name in (TABLE, ORDERS, INDEX, NAMES)},
        inputs=job.inputs,
        settings={**asdict(job.options.settings), "val": job.options.val},
        notes=tuple(_notes(job)),
    )


def _notes(job: _Packing) -> Iterator[str]:
    """What the sources leave open, a sentence each: labels and groups not there, what was not applied."""
    for place, spec in enumerate(job.specs):
        units = [unit for unit in job.units if unit.source == place]
        keys = [key for unit, key in zip(job.units, job.keys, strict=True) if unit.source == place]
        columns = ["problem", "note", "group", "labels"]
        frames = (pl.read_parquet(job.scan / f"{key}.parquet", columns=columns) for key in keys)
        rows = pl.concat(frames).filter(pl.col("problem") == "")
        said = source_notes(spec, units)
        for note, count in sorted(rows["note"].value_counts().iter_rows()):
            said += [f"{count:,} images: {note}"] if note else []
        grouped = int((rows["group"] != "").sum())
        if spec.group and grouped < len(rows):
            said.append(
                f"`group` gives {grouped:,} of {len(rows):,} images a group; each of the others is its own"
            )
        widths = sorted(rows["labels"].list.len().unique().to_list())
        if len(widths) > 1:
            without = int((rows["labels"].list.len() == 0).sum())
            what = (
                f"{without:,} of {len(rows):,} images have no label" if without else "labels differ in number"
            )
            said.append(f"{what}, so it cannot be a task")
        yield from (f"{spec.name}: {sentence}" for sentence in said)


def _sources(job: _Packing, index: pl.DataFrame, left_out: Sequence[int]) -> tuple[Source, ...]:
    first = index.select("source", label=pl.col("labels").list.get(0, null_on_oob=True))
    facts = first.group_by("source").agg(pl.len(), pl.col("label").max())
    by_place = {place: (count, highest) for place, count, highest in facts.iter_rows()}
    names = {unit.source: unit.classes for unit in job.units if unit.classes}
    made = []
    for place, spec in enumerate(job.specs):
        images, highest = by_place[place]
        classes = 0 if highest is None else highest + 1
        made.append(
            Source(
                name=spec.name,
                images=images,
                left_out=left_out[place],
                classes=classes,
                class_names=names.get(place, ()),
            )
        )
    return tuple(made)


def _packs(job: _Packing, index: pl.DataFrame, bounds: Sequence[int]) -> tuple[Pack, ...]:
    folder = job.folder / "packs"
    folder.mkdir(exist_ok=True)
    runs = [job.scan / f"{key}.runs" for key in job.keys]
    columns = {name: index[name].to_numpy() for name in ("unit", "offset", "bytes")}
    tasks = [
        (
            Draft(
                number=number,
                first=first,
                runs=runs,
                unit=columns["unit"][first:last],
                offset=columns["offset"][first:last],
                sizes=columns["bytes"][first:last],
                hashes=content_hashes(index.slice(first, last - first)),
            ),
            folder,
        )
        for number, (first, last) in enumerate(pairwise(bounds))
    ]
    made = []
    for done in _each(_write_pack, tasks, job.options.workers):
        made.append(done)
        job.tell("packs written", len(made), len(tasks))
    for stale in {*folder.iterdir()} - {job.folder / pack.file for pack in made}:
        stale.unlink()  # of a run on other sources that did not finish
    return tuple(sorted(made, key=lambda one: one.first))


def _write_pack(task: tuple[Draft, Path]) -> Pack:
    return write_pack(*task)
