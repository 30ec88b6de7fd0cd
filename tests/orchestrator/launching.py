"""Launch a study of stand-in cells: `python launching.py ROOT [--recipe slow@1] [--cells 6] ...`.

The cells run in real workers through the real launcher; only `orch_core.learn` is replaced, by a module
whose "training" is a hash chain: each step depends on all earlier ones, so that a result is right only
where every step was done exactly once, in order, whatever was killed on the way.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

from orch.launching import freeze, journal
from orch.launching.launch import launch_jobs
from orch.launching.settings import Settings
from orch_core.cell import Cell, Job, Model, Probe
from orch_core.errors import OrchError
from orch_core.grid.resources import ResourceClass
from orch_core.study import attempts
from orch_core.study.folder import Study, create_study

STEPS = 20
FAKE_LEARN = Path(__file__).with_name("fake_learn.py").read_text(encoding="utf-8")


SLOW_DISK = """
import builtins, io, os, time

def slow(call):
    def slower(*arguments, **named):
        if arguments and isinstance(arguments[0], (str, os.PathLike)) and ROOT in os.fspath(arguments[0]):
            time.sleep(SECONDS)
        return call(*arguments, **named)
    return slower

for name in ("open", "stat", "mkdir", "rename", "replace", "link", "unlink", "listdir", "scandir", "utime"):
    setattr(os, name, slow(getattr(os, name)))
builtins.open = io.open = slow(io.open)
"""

SKEWED_NODES = """  # every job has a machine of its own: clocks differ by hours, locks are not shared
import fcntl, os, time
from orch.launching.worker import claims
from orch_core.study import attempts

real, job = time.time, os.environ.get("SLURM_JOB_ID")
time.time = lambda: real() + (3600.0 * (-1) ** int(job) if job else 0.0)
fcntl.flock = lambda *_: None
for module, name, value in (
    (attempts, "machine", lambda: job or "login"),
    (attempts, "STALE_SECONDS", 8.0),
    (claims, "HEARTBEAT_SECONDS", 1.0),
):
    assert hasattr(module, name), name
    setattr(module, name, value)
"""


def damage_code() -> None:
    """Cut every snapshot short once it is frozen."""
    real = freeze.freeze

    def damaged(study: Study) -> Path:
        path = real(study)
        os.truncate(path, path.stat().st_size // 2)
        return path

    freeze.freeze = damaged


def die_at(step: int) -> None:
    """Have this process killed before its `step`-th write, rename, link, folder or command from now on."""
    left = [step]

    def mortal(call):
        def one(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return one

    for name in ("write", "rename", "replace", "link", "mkdir", "unlink", "fsync"):
        setattr(os, name, mortal(getattr(os, name)))
    subprocess.Popen.__init__ = mortal(subprocess.Popen.__init__)


def jobs(
    count: int,
    recipe: str = "ok@1",
    *,
    pause: float = 0.0,
    tasks: tuple[str, ...] = ("a", "b"),
    seconds: float = 1.0,
    models: tuple[str, ...] = (),
    batch: int = 1,
) -> list[Job]:
    probes = tuple(Probe(task=task, fingerprint=task, kind="multi-class", classes=2) for task in tasks)
    return [
        Job(
            cell=Cell(
                model=Model(name=models[seed % len(models)], width=32, depth=1, heads=1) if models else None,
                recipe=recipe,
                overrides=(("pause", pause),) if pause else (),
                resolution=28,
                patch=7,
                channels=1,
                samples_seen=STEPS * batch,
                batch=batch,
                seed=seed,
            ),
            probes=probes,
            seconds=seconds,
            size_class=models[seed % len(models)] if models else "default",
        )
        for seed in range(count)
    ]


def expected_loss(cell: Cell) -> float:
    """What an undisturbed run gives, computed without any of the code under test."""
    chain = cell.id
    for _ in range(cell.steps):
        chain = hashlib.sha256(chain.encode()).hexdigest()
    return int(chain[:8], 16) / 2**32


def use_fake_learn(at_start: str = "") -> None:
    """Replace `orch_core.learn` in this process and in every snapshot taken by it.

    `at_start` is run at the start of every worker.
    """
    real = freeze.sources

    def sources() -> dict[str, bytes]:
        kept = {name: data for name, data in real().items() if not name.startswith("orch_core/learn/")}
        return {
            **kept,
            "orch_core/learn/__init__.py": FAKE_LEARN.encode(),
            **({"sitecustomize.py": at_start.encode()} if at_start else {}),
        }

    freeze.sources = sources
    module = types.ModuleType("orch_core.learn")
    sys.modules["orch_core.learn"] = module
    exec(FAKE_LEARN, module.__dict__)
    import orch_core

    orch_core.learn = module


def audit(study: Study, job: Job) -> list[dict]:
    path = study.cell_folder(job.cell.id) / "audit.ndjson"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition, seconds: float = 60.0):
    """Wait for a condition, and return what it gave."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {condition}")


def workers(root: Path) -> list[attempts.Owner]:
    return [
        owner
        for token in journal.tokens(root)
        for path in journal.live_workers(root, token)
        if (owner := attempts.read_owner(path))
    ]


def steps_seen(study: Study, jobs: list[Job]) -> int:
    return sum(1 for job in jobs for _ in _rows(study.cell_folder(job.cell.id) / "metrics.ndjson"))


def _rows(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def check_complete(study: Study, jobs: list[Job]) -> None:
    """Every record is there, equals the undisturbed result, and was made by exactly one attempt."""
    for job in jobs:
        record = study.record(job.cell.id)
        assert record is not None
        assert record.status == "done"
        assert record.values["heldout_loss"] == expected_loss(job.cell)
        lines = audit(study, job)
        assert sum("end" in line for line in lines) == 1
        probed = [line["probe"] for line in lines if "probe" in line]
        assert sorted(probed) == sorted(probe.task for probe in job.probes)
        assert all(study.record(job.cell.id, probe) for probe in job.probes)
    assert len(list(study.root.glob("cells/*/record.json"))) == len(jobs)


def finish(process, code: int = 0, seconds: float = 90.0) -> dict:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, err
    return json.loads(out) if out else {}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--recipe", default="ok@1")
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--tasks", default="a,b")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--code", default="the code that was launched")
    parser.add_argument("--slow", type=float, default=0.0, help="seconds that a file operation takes")
    parser.add_argument("--far-apart", action="store_true", help="workers share neither clock nor locks")
    parser.add_argument("--die-at", type=int, default=-1, help="write or command before which to be killed")
    parser.add_argument("--models", default="")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--settings", default="{}")
    parser.add_argument("--no-wait", action="store_true")
    parser.add_argument(
        "--damage-code", action="store_true", help="the snapshot is cut short once it is frozen"
    )
    parser.add_argument("--at-start", default="", help="Python that every worker runs when it starts")
    arguments = parser.parse_args()
    global FAKE_LEARN
    FAKE_LEARN = FAKE_LEARN.replace("the code that was launched", arguments.code)
    at_start = SKEWED_NODES if arguments.far_apart else arguments.at_start
    if arguments.slow:
        at_start = f"ROOT, SECONDS = {str(arguments.root)!r}, {arguments.slow}\n{SLOW_DISK}"
    exec(at_start, {})
    use_fake_learn(at_start)
    if arguments.damage_code:
        damage_code()
    try:
        study = create_study(arguments.root, "stand-in")
        if arguments.die_at >= 0:
            die_at(arguments.die_at)
        todo = jobs(
            arguments.cells,
            arguments.recipe,
            pause=arguments.pause,
            tasks=tuple(filter(None, arguments.tasks.split(","))),
            seconds=arguments.seconds,
            models=tuple(filter(None, arguments.models.split(","))),
            batch=arguments.batch,
        )
        given = json.loads(arguments.settings)
        classes = {name: ResourceClass(**asked) for name, asked in given.pop("classes", {}).items()}
        settings = Settings(**{"parallel": 2, "classes": classes, **given})
        summary = launch_jobs(study, todo, settings, wait=not arguments.no_wait)
    except OrchError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(summary.to_json()))
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
