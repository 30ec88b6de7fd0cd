"""What one NVIDIA GPU shows about training, in at most 8 minutes and without a network: `make gpu`.

usage: PYTHONPATH=tests/core kit.py [--out DIR] [--minutes 8] [--device cuda|cpu] [--small]

Five sections, each with a share of the time, write one JSON (gpu.json) and a page (gpu.md) after every row:

steps       every algorithm, one gradient step in fp32, bf16 and fp16, compiled and not, against fp32 on the CPU
throughput  MAE and DINOv2, ViT-S, -B and -L at 224 px: images/s, MFU, the ten dearest kernels, waits for the GPU
memory      what a step allocates at its peak, against the formula
resume      runs that are killed (kill -9) and go on, against runs that are not: equal to the bit
probes      how many images a second frozen encoders are read out

`--device cpu --small` runs the same code on small cells, as the tests do. A row that fails says so and the next one begins.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from learn_cells import TRAINED, make_cell, make_probe, write_images
from peaks import peak_of
from torch.profiler import ProfilerActivity, profile

from orch_core.cell import Cell
from orch_core.cost import memory_bytes, price
from orch_core.device import DEVICES
from orch_core.learn import ledger
from orch_core.learn.data import Batch
from orch_core.learn.encoders import build_encoder
from orch_core.learn.objectives import Objective, build_objective
from orch_core.learn.probes.subject import Subject
from orch_core.learn.randomness import Rows, generator
from orch_core.learn.schedule import schedule_of
from orch_core.learn.step import MemoryPlan, Step, build_step
from orch_core.recipes import constants
from orch_core.vit import named_model

Row = dict[str, object]
TESTS = Path(__file__).resolve().parents[1]
# of losses and of gradients, relative to fp32 on the CPU; in half precision at most twice as far off as the CPU is
FLOOR = (1e-4, 1e-3)
MEMORY_TOLERANCE = 0.10
KERNELS = 10
GOALS = {"dinov2 ViT-S": "MFU >= 25%", "dinov2 ViT-L": ">= 160 images/s", "mae ViT-L": "MFU >= 40%"}


AGAIN = 5.0  # seconds after which a section that swallowed the end of its time is told once more


class TimeUpError(BaseException):
    """A section has used its share of the time; not an Exception, which torch.compile wraps into its own."""


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What the sections need to know."""

    device: torch.device
    small: bool
    scratch: Path
    report: dict[str, list[Row]] = field(default_factory=dict)

    @property
    def peak(self) -> dict[str, float]:
        """FLOP/s of this device by precision; empty if the device is unknown."""
        if self.device.type == "cpu":
            return DEVICES["CPU"].peak
        words = torch.cuda.get_device_name(self.device)
        return next((one.peak for name, one in DEVICES.items() if name in words), {})


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A cell's objective and gradient step on a device, fed with random images that depend on the cell alone."""

    cell: Cell
    objective: Objective
    take: Step
    batch: Batch

    def inputs(self, step: int):
        """Augmented, masked inputs of a step."""
        everything = slice(0, self.cell.batch)
        return self.objective.draw(self.batch, Rows(generator(0, "views", step), everything, self.cell.batch))

    def step(self, step: int) -> torch.Tensor:
        """Draw and take a step."""
        return self.take(step, self.inputs(step))


def trainer(cell: Cell, device: torch.device, *, compiled: bool = False) -> Trainer:
    """Build what trains a cell."""
    objective = build_objective(cell)
    objective.module.to(device)
    take = build_step(
        objective,
        schedule_of(cell.steps, cell.batch, constants(cell)),
        device=device,
        precision=cell.precision,
        memory_plan=MemoryPlan(),
    )
    if compiled:
        ledger.compiled(objective.module, device)
    shape = (cell.batch, cell.channels, cell.resolution, cell.resolution)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.arange(cell.batch) % 2
    batch = Batch(images=images, orientation_free=labels.bool(), labels=labels).to(device)
    return Trainer(cell=cell, objective=objective, take=take, batch=batch)


def vit(name: str, recipe: str, batch: int, kit: Kit) -> Cell:
    """A cell of a published ViT at 224 px, or a small one."""
    if kit.small:
        return make_cell(None, recipe, width=32, channels=3, batch=8, samples=800, precision="bf16")
    model = named_model(name)
    size = {"width": model.width, "depth": model.depth, "heads": model.heads}
    return make_cell(
        None, recipe, **size, patch=16, resolution=224, channels=3, batch=batch, samples=100 * batch,
        precision="bf16",
    )  # fmt: skip


def steps(kit: Kit) -> Iterator[Row]:
    """Loss and gradients of the first step against those of fp32 on the CPU."""
    size = {"width": 64, "depth": 2, "heads": 1, "patch": 7, "channels": 3, "batch": 16, "samples": 1600}
    cpu = torch.device("cpu")
    for compiled in (False, True) if kit.device.type == "cuda" else (False,):
        for recipe in TRAINED:
            expected = gradients(trainer(make_cell(None, recipe, **size), cpu))
            for precision in ("fp32", "bf16", "fp16"):
                cell = make_cell(None, recipe, **size, precision=precision)
                found = gradients(trainer(cell, kit.device, compiled=compiled))
                usual, off = distances(gradients(trainer(cell, cpu)), expected), distances(found, expected)
                allowed = [max(least, 2 * other) for least, other in zip(FLOOR, usual, strict=True)]
                yield {
                    "recipe": recipe,
                    "precision": precision,
                    "compiled": compiled,
                    "loss": found[0],
                    "loss off": off[0],
                    "gradient off": off[1],
                    "gradient off on the CPU": usual[1],
                    "ok": off[0] <= allowed[0] and off[1] <= allowed[1],
                }


def distances(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> tuple[float, float]:
    """How far a loss and its gradients are from others, relative to these."""
    gradient = float((found[1] - expected[1]).norm() / expected[1].norm())
    return abs(found[0] / expected[0] - 1), gradient


def gradients(one: Trainer) -> tuple[float, torch.Tensor]:
    """Loss of the first step, and all its gradients in one vector, on the CPU."""
    one.objective.before_step(one.take.schedule.progress(0))
    loss = float(one.take.gradients(one.inputs(0)))
    scale = float(one.take.scaler.get_scale())
    parts = [
        p.grad.flatten().double().cpu() / scale
        for p in one.objective.module.parameters()
        if p.grad is not None
    ]
    return loss, torch.cat(parts)


def throughput(kit: Kit) -> Iterator[Row]:
    """Images a second once blocks are compiled, and where the time goes."""
    batches = {"S": (512, 128), "B": (256, 64), "L": (128, 32)}
    for name, sizes in batches.items():
        for recipe, batch in zip(("mae@1", "dinov2@2"), sizes, strict=True):
            cell, model = vit(f"ViT-{name}", recipe, batch, kit), f"{recipe.partition('@')[0]} ViT-{name}"
            one = trainer(cell, kit.device, compiled=True)
            for step in range(3):
                one.step(step)
            seconds = timed(lambda step, one=one: one.step(step), kit, 2 if kit.small else 10)
            drawing = timed(lambda step, one=one: one.inputs(step), kit, 2 if kit.small else 5)
            speed = cell.batch / seconds
            peak = kit.peak.get("bf16")
            yield {
                "model": model,
                "batch": cell.batch,
                "images/s": speed,
                "MFU": price(cell).flops_train_image * speed / peak if peak else None,
                "share of time drawing": drawing / seconds,
                "goal": GOALS.get(model, ""),
                "waits": waits(one, kit),
                "kernels": kernels(one, kit),
            }
            del one
            if kit.device.type == "cuda":
                torch.cuda.empty_cache()


def timed(call: Callable[[int], object], kit: Kit, count: int) -> float:
    """Seconds a call, the GPU's work included."""
    synchronise(kit)
    began = time.monotonic()
    for number in range(count):
        call(10 + number)
    synchronise(kit)
    return (time.monotonic() - began) / count


def synchronise(kit: Kit) -> None:
    """Wait for the GPU."""
    if kit.device.type == "cuda":
        torch.cuda.synchronize()


def waits(one: Trainer, kit: Kit) -> list[str]:
    """Where a step makes the processor wait for the GPU, by torch's own warnings."""
    if kit.device.type != "cuda":
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            one.step(40)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchron" in str(w.message)]
    return sorted(set(places))


def kernels(one: Trainer, kit: Kit) -> list[Row]:
    """The ten kernels (operators on a CPU) that take the most time of three steps."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if kit.device.type == "cuda" else [])]
    with profile(activities=kinds) as profiled:
        for step in range(50, 53):
            one.step(step)
        synchronise(kit)
    on_gpu = kit.device.type == "cuda"
    spent = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.key, event.count)
        for event in profiled.key_averages()
        if not on_gpu or event.device_type == torch.autograd.DeviceType.CUDA
    ]
    total = sum(time for time, _, _ in spent) or 1.0
    dearest = sorted(spent, reverse=True)[:KERNELS]
    return [{"kernel": name[:100], "share": time / total, "calls": count} for time, name, count in dearest]


def memory(kit: Kit) -> Iterator[Row]:
    """What torch allocates at the fullest moment of a step, against `orch_core.cost.memory_bytes`."""
    for recipe in TRAINED:
        cell = vit("ViT-S", recipe, 64, kit)
        predicted = memory_bytes(cell)
        if kit.device.type == "cpu":
            measured = peak_of(cell, MemoryPlan()).allocated
        else:
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            one = trainer(cell, kit.device, compiled=True)
            own = torch.cuda.memory_allocated()
            one.step(0)
            inputs = one.inputs(1)
            held = sum(tensor.nbytes for tensor in (one.batch.images, *inputs))
            torch.cuda.reset_peak_memory_stats()
            one.take(1, inputs)
            measured = torch.cuda.max_memory_allocated() - before - held
            del one, inputs, own
        off = predicted / measured - 1
        yield {
            "recipe": recipe,
            "predicted GB": predicted / 1e9,
            "measured GB": measured / 1e9,
            "off": off,
            "ok": abs(off) <= MEMORY_TOLERANCE,
        }


def resume(kit: Kit) -> Iterator[Row]:
    """The driver of tests/core/test_resume.py, whose children train on the GPU where there is one."""
    path = write_images(kit.scratch / "bars.npz")
    for recipe in ("mae@1",) if kit.small else ("mae@1", "dinov2@2"):
        words = [
            sys.executable,
            str(TESTS / "core" / "resume_driver.py"),
            str(kit.scratch),
            str(path),
            "2",
            recipe,
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            yield {"recipe": recipe, "ok": False, "error": done.stderr[-2000:]}
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        parts = {
            part: found["broken"][part] == found["whole"][part] for part in ("encoder", "state", "result")
        }
        yield {"recipe": recipe, "kills": found["kills"], **parts, "ok": all(parts.values())}


def probes(kit: Kit) -> Iterator[Row]:
    """Images a second through a frozen encoder, as probes read features."""
    count, side = (64, 28) if kit.small else (2048, 224)
    path = write_images(kit.scratch / "task.npz", train=count, val=8, test=8, side=side)
    probe = make_probe(path)
    for name in ("S", "B", "L"):
        cell = vit(f"ViT-{name}", "random@1", 64, kit)
        subject = Subject(cell, saved_encoder(cell, kit.scratch / name))
        images = load(path)
        assert subject.encoder is not None
        subject.encoder.to(kit.device)
        subject.encoded(subject.encoder, images[:32])
        seconds = timed(lambda _, s=subject, i=images: s.encoded(s.encoder, i), kit, 1)
        yield {"model": f"ViT-{name}", "images/s": count / seconds, "task": probe.task}


def load(path: Path):
    """The training images (n, h, w, 3) of an npz of grey ones."""
    import numpy as np

    with np.load(path) as arrays:
        return np.repeat(arrays["train_images"][..., None], 3, axis=-1)


def saved_encoder(cell: Cell, folder: Path) -> Path:
    """A folder with an untrained encoder of a cell."""
    from orch_core.learn.checkpoint import save_tensors
    from orch_core.study.folder import ENCODER

    folder.mkdir()
    save_tensors(folder / ENCODER, build_encoder(cell).state_dict())
    return folder


SECTIONS: dict[Callable[[Kit], Iterator[Row]], float] = {
    steps: 0.25,
    throughput: 0.40,
    memory: 0.10,
    resume: 0.15,
    probes: 0.10,
}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUpError in the block once it has taken that long."""

    def up(*_: object) -> None:
        raise TimeUpError

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(kit: Kit, out: Path, seconds: float) -> None:
    """Run the sections; each has its share of the time, and what an earlier one left over."""
    end = time.monotonic() + seconds
    left = sum(SECTIONS.values())
    for section, share in SECTIONS.items():
        rows = kit.report.setdefault(section.__name__, [])
        began = time.monotonic()
        try:
            with time_limit((end - began) * share / left):
                for row in section(kit):
                    rows.append({**row, "at": round(time.monotonic() - began, 1)})
                    write(kit, out)
        except TimeUpError:
            rows.append({"stopped": "its share of the time was used up"})
        except Exception as error:  # the other sections may still say something
            rows.append({"error": f"{type(error).__name__}: {error}"[:2000], "ok": False})
        left -= share
        write(kit, out)


def write(kit: Kit, out: Path) -> None:
    """Both files, whole at any time."""
    name = (
        torch.cuda.get_device_name(kit.device) if kit.device.type == "cuda" else platform.processor() or "CPU"
    )
    head = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "small": kit.small}
    (out / "gpu.json").write_text(json.dumps({**head, **kit.report}, indent=1))
    lines = [f"# {name}, torch {torch.__version__}", ""]
    for section, rows in kit.report.items():
        plain = [{key: value for key, value in row.items() if key != "kernels"} for row in rows]
        lines += [f"## {section}", "", *table(plain), ""]
        for row in rows:
            if row.get("kernels"):
                lines += [f"### {row['model']}: the dearest kernels", "", *table(row["kernels"]), ""]
    (out / "gpu.md").write_text("\n".join(lines))


def table(rows: list[Row]) -> list[str]:
    """Rows as a table in Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(shown(row.get(name, "")) for name in names) + " |" for row in rows]


def shown(value: object) -> str:
    """A number with three digits; anything else as it is, in one cell."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/").replace("\n", " ")[:300]


def main() -> int:
    """Run the kit; the exit code is 1 where a comparison failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-report"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("no GPU is seen by torch: `--device cpu --small` runs the same code without one\n")
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        kit = Kit(device=torch.device(arguments.device), small=arguments.small, scratch=Path(scratch))
        run(kit, arguments.out, 60 * arguments.minutes - 10)
    sys.stdout.write((arguments.out / "gpu.md").read_text())
    bad = [row for rows in kit.report.values() for row in rows if row.get("ok") is False]
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
