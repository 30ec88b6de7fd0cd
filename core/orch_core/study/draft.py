"""From a grid to a plan: its cells with their cost, and which of them the study already contains."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from orch_core.cell import Probe
from orch_core.device import Device
from orch_core.grid import calibration
from orch_core.grid.calibration import ProbeLoad
from orch_core.grid.cells import cells_and_idle_rules
from orch_core.grid.check import CheckedGrid, read_grid
from orch_core.grid.pricing import device_named, with_classes, with_hours, with_micro_batches
from orch_core.grid.resources import Cluster
from orch_core.images.leaks import leaks
from orch_core.images.medmnist import MEDMNIST
from orch_core.images.npz import NpzFacts
from orch_core.protocols import protocol_named
from orch_core.protocols.protocol import TaskSize
from orch_core.recipes import pixels
from orch_core.study.folder import Study, create_study
from orch_core.study.holdings import with_state
from orch_core.study.plan import Plan, write_plan
from orch_core.study.summary import PlanSummary, summary
from orch_core.user_settings import user_cluster


def draft(
    grid: Path,
    study: Path | None = None,
    *,
    data: Path | None = None,
    gpu_hours: float | None = None,
    usd: float | None = None,
) -> tuple[Plan, Study, CheckedGrid]:
    """Read, check, enumerate and price a grid, without writing a plan; opens or creates the study.

    data: folder in which named tasks are looked for first
    gpu_hours, usd: limits that take the place of the grid's budget.
    Raises GridError for a wrong grid; OrchError for a study that is another's or cannot be written.
    """
    checked = read_grid(grid, data)
    (frame, idle), probes = cells_and_idle_rules(checked), _probes(checked)
    cluster = checked.grid.cluster.with_defaults(user_cluster())
    precision = checked.grid.training.precision
    device = device_named(cluster.device, precision)
    measured = calibration.load(device.name, precision)
    frame = with_hours(
        with_classes(frame, cluster),
        load=_load(checked, probes),
        device=device,
        precision=precision,
        measured=measured,
    )
    frame = with_micro_batches(frame, device)
    given = {"gpu_hours": gpu_hours, "usd": usd}
    root = study or Path("studies") / checked.grid.study
    opened = create_study(root.resolve(), checked.grid.study)
    plan = Plan(
        study=checked.grid.study,
        frame=with_state(frame, opened, probes),
        probes=probes,
        device=device.name,
        rates=f"measured on {measured.machine}, {measured.measured}" if measured else _assumed(device),
        cluster=checked.grid.cluster,
        usd_per_hour=device.usd_per_hour if cluster.usd_per_gpu_hour is None else cluster.usd_per_gpu_hour,
        budget=checked.grid.budget.model_dump() | {k: v for k, v in given.items() if v is not None},
        test_images={probe.task: _facts(checked, probe.task).counts.get("test", 0) for probe in probes},
        absent=tuple(sorted(checked.absent)),
        notes=(
            *(f"exclude: {rule!r} matches no cell" for rule in idle),
            *_notes(checked),
            *_fit_notes(frame, device),
            *_exclusive_notes(cluster, device),
        ),
    )
    return plan, opened, checked


def save(plan: Plan, study: Study, checked: CheckedGrid) -> PlanSummary:
    """Write a plan into its study, as the one planned last; raises OrchError if it cannot be written."""
    numbers = summary(plan)
    write_plan(plan, study, grid=checked.path, text=checked.text, numbers=numbers.to_json())
    return numbers


def _probes(checked: CheckedGrid) -> tuple[Probe, ...]:
    """Every task by every protocol, task after task; a file that has two names is one task, by the first."""
    probes: list[Probe] = []
    for name in checked.probed:
        facts = _facts(checked, name)
        kind = "multi-label" if facts.labels > 1 else "binary-class" if facts.classes == 2 else "multi-class"
        probes += [
            Probe(
                task=name,
                fingerprint=facts.fingerprint,
                kind=_declared_kind(checked, name) or kind,
                classes=facts.classes,
                train_limit=checked.grid.probes.train_limit,
                protocol=protocol,
                path=str(checked.file(name)),
            )
            for protocol in dict.fromkeys(checked.grid.probes.protocol)
        ]
    found: dict[str, Probe] = {}
    for probe in probes:
        found.setdefault(probe.id, probe)
    return tuple(found.values())


def _declared_kind(checked: CheckedGrid, name: str) -> str | None:
    """The kind that the grid declares, or that a named task was published with."""
    task = checked.grid.tasks.get(name)
    if task is None or task.kind:
        return task.kind if task else None
    return MEDMNIST[task.task].kind if task.task else None


def _load(checked: CheckedGrid, probes: tuple[Probe, ...]) -> ProbeLoad:
    """The work of the probes of one cell."""
    limit, images, test = checked.grid.probes.train_limit, 0, 0
    solver, tokens, projection, memory = 0.0, 0.0, 0.0, 0.0
    for place, probe in enumerate(probes):
        facts = _facts(checked, probe.task)
        train, val = facts.counts["train"], facts.counts.get("val", 0)
        size = TaskSize(
            train=min(limit or train, train), val=val, test=facts.counts.get("test", 0), classes=probe.classes
        )
        cost = protocol_named(probe.protocol).cost(size)
        solver, tokens = solver + cost.solver_flops, tokens + cost.token_flops
        images += cost.encoder_images
        test += size.test * size.classes
        if place == 0 or probes[place - 1].task != probe.task:  # protocols share the features of a task
            values = (size.train, size.images, facts.height * facts.width * facts.channels, pixels.COMPONENTS)
            images += size.images
            projection += pixels.projection_flops(*values)
            memory = max(memory, pixels.projection_bytes(*values))
    return ProbeLoad(
        tasks=len(probes),
        images=images,
        test=test,
        solver_flops=solver,
        token_flops=tokens,
        projection_flops=projection,
        projection_bytes=memory,
    )


def _facts(checked: CheckedGrid, task: str) -> NpzFacts:
    return checked.tasks.get(task) or checked.sources[task]


def _assumed(device: Device) -> str:
    low, mid, high = (round(100 * share) for share in device.utilisation)
    return f"assumed: {mid}% of {device.name}'s peak ({low} to {high}%); `orch calibrate` measures it"


def _fit_notes(frame: pl.DataFrame, device: Device) -> list[str]:
    """Notes on batches that do not fit the device's memory, with what would fit."""
    share = (pl.col("batch") / pl.col("devices").clip(lower_bound=1)).ceil()
    short = (pl.col("activation_bytes") > 0) & ((pl.col("micro_batch") < share) | pl.col("checkpointing"))
    columns = pl.col("micro_batch", "checkpointing", "memory_bytes")
    trained = frame.lazy().filter(short).select("recipe", "model", columns, share=share)  # only what it reads
    groups = trained.group_by("recipe", "model", maintain_order=True).agg(pl.all().first()).collect()
    notes = []
    for row in groups.iter_rows(named=True):
        name, micro, share = f"{row['recipe']} {row['model']}", row["micro_batch"], row["share"]
        if micro:
            again = ", its blocks computed again in the backward pass" if row["checkpointing"] else ""
            words = f"a batch of {share:g} does not fit one {device.name}; {micro} at a time do{again}"
        else:
            gib = row["memory_bytes"] / 2**30
            words = (
                f"even one image at a time takes {gib:.1f} GiB, more than one {device.name} has: "
                "share the batch among more GPUs (gpus_per_node), or lower it"
            )
        notes.append(f"{name}: {words}")
    return notes


def _exclusive_notes(cluster: Cluster, device: Device) -> list[str]:
    """A note on jobs that get, and pay for, more GPUs than they request."""
    classes = cluster.resource_classes()
    whole = [
        name for name, asked in classes.items() if "exclusive" in asked.sbatch and not asked.gpu_options()
    ]
    if device.name == "CPU" or not whole:
        return []
    words = "takes every GPU of its node, but is priced as one: set gpus_per_node to the GPUs of a node"
    return [f"{', '.join(whole)}: an exclusive job {words}"]


def _notes(checked: CheckedGrid) -> tuple[str, ...]:
    """Facts about the grid that a user should know before launching."""
    notes = []
    for name, facts in checked.sources.items():
        dropped = facts.counts["train"] - facts.pretraining
        if dropped:
            notes.append(
                f"{name}: {dropped} training images are also in val or test; they are left out of pretraining"
            )
        side, largest = min(facts.height, facts.width), max(checked.grid.axes.resolution)
        if 0 < side < largest:
            notes.append(f"{name}: its images of {side} px are enlarged to {largest} px")
        if facts.height != facts.width:
            shape = f"{facts.height} x {facts.width}"
            notes.append(f"{name}: its images of {shape} px become squares, so their proportions change")
    for name in checked.probed:
        facts = _facts(checked, name)
        notes += [f"{name}: {doubt}" for doubt in facts.doubts]
        pairs = ", ".join(f"{count} in {pair}" for pair, count in facts.duplicates.items())
        if pairs:
            notes.append(
                f"{name}: its splits share byte-equal images ({pairs}); scores on these images are "
                "too high by an unknown amount"
            )
    notes += _leak_notes(checked)
    notes += [f"{name}: not probed, for {fault}" for name, fault in checked.unsound.items()]
    recipes = set(checked.grid.axes.algorithm)
    if not any(recipe.startswith("random@") for recipe in recipes):
        notes.append(
            "no random@1 in axes.algorithm: without that control a gain of size is not a gain of pretraining"
        )
    return tuple(notes)


def _leak_notes(checked: CheckedGrid) -> list[str]:
    """Training images of a source that are test images of a task in another file; pretraining sees them."""
    sources = {
        name: (checked.file_of_source(name), source.modality)
        for name, source in checked.grid.sources.items()
        if name not in checked.absent
    }
    tasks = {name: checked.file(name) for name in checked.probed if name not in checked.absent}
    return [
        f"{one.source}: {one.images:,} of the {one.split} images of {one.task} are byte-equal to its "
        "training images; pretraining sees them, so that scores on them are too high by an unknown amount"
        for one in leaks(sources, tasks)
    ]
