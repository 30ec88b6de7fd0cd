"""`orch doctor`: check this machine, and print a remedy for everything that does not work.

Nothing heavy is imported: versions come from package metadata, and torch runs in a separate process.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from orch.answer import Answer
from orch.tracking.stores import network_filesystem
from orch_core import provenance
from orch_core.errors import OrchError
from orch_core.study.folder import open_study

Status = Literal["ok", "warning", "error"]
GIGABYTE = 1e9
LITTLE_DISK, NO_DISK = 10 * GIGABYTE, 1 * GIGABYTE
TORCH_SECONDS = 180.0  # a first import from a cold network disk
ASK_TORCH = """
import json, torch, torchvision, timm
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: `message` describes the finding, `remedy` what to do unless the status is ok."""

    name: str
    status: Status
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(Answer):
    """Every check of a machine."""

    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        """The checks as one JSON document."""
        return {"checks": [asdict(check) for check in self.checks]}

    @property
    def text(self) -> str:
        """A line per check, with its remedy below."""
        lines, width = [], max([10, *(len(check.name) for check in self.checks)])
        for check in self.checks:
            lines.append(f"{check.status:8} {check.name:{width}} {check.message}")
            lines += [f"{'':{width + 9}} -> {check.remedy}"] if check.remedy else []
        return "\n".join(lines)

    @property
    def exit_code(self) -> int:
        """1 if a check found an error."""
        return int(any(check.status == "error" for check in self.checks))


def checks(study_root: Path | None = None) -> list[Check]:
    """Every check, in the order in which things are needed.

    Writes temporary files into `study_root`, or into the working directory without one.
    """
    place = study_root or Path.cwd()
    return [
        _python(),
        *_training(),
        _slurm(),
        _disk(place),
        _writable(place),
        *([_study(study_root)] if study_root else []),
        _mlflow(place),
        _git(),
    ]


def _python() -> Check:
    version = platform.python_version()
    missing = [name for name in ("_lzma", "_sqlite3", "_ssl") if not importlib.util.find_spec(name)]
    if missing:
        message = f"{version}, built without {', '.join(missing)}"
        remedy = (
            "install liblzma-dev, libsqlite3-dev and libssl-dev and rebuild Python, or use another Python"
        )
        return Check(name="python", status="error", message=message, remedy=remedy)
    return Check(name="python", status="ok", message=f"{version} at {sys.executable}")


def _training() -> list[Check]:
    """Torch with CUDA, and timm; missing packages are a warning, since planning and fitting work without."""
    found = {name: _version(name) for name in ("torch", "torchvision", "timm")}
    absent = [name for name, version in found.items() if not version]
    if absent:
        message = f"{', '.join(absent)} not installed; this machine can plan, launch and fit, but not train"
        return [
            Check(name="torch", status="warning", message=message, remedy="pip install 'orch-scaling[train]'")
        ]
    answer, error = _ask_torch()
    if error:
        message = f"torch {found['torch']} and torchvision {found['torchvision']} cannot be imported: {error}"
        remedy = "install matching versions: pip install --force-reinstall torch torchvision"
        return [Check(name="torch", status="error", message=message, remedy=remedy)]
    return [_cuda(answer), Check(name="timm", status="ok", message=found["timm"])]


def _cuda(answer: dict[str, object]) -> Check:
    gpus = answer["gpus"]
    assert isinstance(gpus, list)
    if gpus:
        message = f"{answer['torch']}, CUDA {answer['cuda']}: {', '.join(map(str, gpus))}"
        return Check(name="torch", status="ok", message=message)
    seen = provenance.gpus()
    if seen:
        message = f"{answer['torch']} sees no GPU, but nvidia-smi lists {', '.join(seen)}"
        remedy = "install a torch built for this driver's CUDA (`nvidia-smi` prints the version)"
        return Check(name="torch", status="error", message=message, remedy=remedy)
    return Check(name="torch", status="ok", message=f"{answer['torch']} on the CPU; this machine has no GPU")


def _ask_torch() -> tuple[dict[str, object], str]:
    """Versions and GPUs as torch reports them, and otherwise the last line of its error."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=TORCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {}, f"importing torch took more than {TORCH_SECONDS:.0f} s"
    if done.returncode:
        return {}, (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return dict(json.loads(done.stdout.splitlines()[-1])), ""


def _slurm() -> Check:
    if not shutil.which("sbatch"):
        message = "sbatch is not on PATH"
        remedy = "run orch on a login node to use --cluster slurm; --cluster local and debug work here"
        return Check(name="slurm", status="warning", message=message, remedy=remedy)
    partitions, error = _output("sinfo", "--noheader", "--format=%R")
    if error:
        remedy = "ask the cluster's operators whether the controller is down; --cluster local works meanwhile"
        return Check(name="slurm", status="error", message=f"sinfo: {error}", remedy=remedy)
    names = ", ".join(sorted(set(partitions.split())))
    _, error = _output("sacct", "--noheader", "--allocations", "--format=jobid")
    if error:
        remedy = (
            "not required; without accounting, jobs that end while no launcher runs are judged "
            "by their records"
        )
        return Check(
            name="slurm", status="warning", message=f"partitions {names}; sacct: {error}", remedy=remedy
        )
    return Check(name="slurm", status="ok", message=f"partitions {names}")


def _disk(place: Path) -> Check:
    existing = next(path for path in (place.resolve(), *place.resolve().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    message = f"{usage.free / GIGABYTE:.1f} GB free of {usage.total / GIGABYTE:.0f} GB at {existing}"
    remedy = (
        "free some space, or choose another folder with --study; "
        "a checkpoint takes 12 bytes per parameter, which is 1 GB for a ViT-B"
    )
    status: Status = "error" if usage.free < NO_DISK else "warning" if usage.free < LITTLE_DISK else "ok"
    return Check(name="disk", status=status, message=message, remedy="" if status == "ok" else remedy)


def _writable(place: Path) -> Check:
    """Write, sync, link, rename and lock a file, which records, attempts and the mirror need to do."""
    existing = next(path for path in (place.resolve(), *place.resolve().parents) if path.exists())
    step = "write"
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".orch-doctor-") as folder:
            first, second, third = (Path(folder) / name for name in "abc")
            with first.open("w") as file:
                file.write("x")
                os.fsync(file.fileno())
                step = "lock"
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            step = "link"
            os.link(first, second)
            step = "rename"
            second.rename(third)
    except OSError as error:
        message = f"cannot {step} in {existing}: {error.strerror}"
        remedy = "use --study to choose a folder that you own, on a disk with POSIX links and locks"
        return Check(name="folder", status="error", message=message, remedy=remedy)
    return Check(name="folder", status="ok", message=f"files in {existing} can be written, linked and locked")


def _study(root: Path) -> Check:
    try:
        study = open_study(root)
    except OrchError as error:
        return Check(name="study", status="error", message=error.message, remedy=error.hint or "")
    records = sum(1 for _ in root.glob("cells/*/record.json"))
    return Check(name="study", status="ok", message=f"{study.name}: {records} cells have records")


def _mlflow(place: Path) -> Check:
    """Compare the installed MLflow with the schema of the study's database, if there is one."""
    version = _version("mlflow")
    if not version:
        message = "MLflow is not installed; `orch sync` and `orch ui` need it"
        return Check(name="mlflow", status="error", message=message, remedy="pip install mlflow")
    database = place / "mlflow.db"
    if not database.exists():
        return Check(name="mlflow", status="ok", message=f"{version}; {place} has no mlflow.db yet")
    found, head = _schema_of(database), _schema_head()
    if found != head:
        message = f"{database} has schema {found or 'none'}, but MLflow {version} needs {head}"
        remedy = "delete mlflow.db and run `orch sync`, which rebuilds it from the study"
        return Check(name="mlflow", status="error", message=message, remedy=remedy)
    network = network_filesystem(place)
    if network:
        message = f"{version}; {database} is on {network}, where SQLite's locks may not work"
        remedy = "run `orch sync` and `orch ui` on one machine at a time, or use a server with --tracking-uri"
        return Check(name="mlflow", status="warning", message=message, remedy=remedy)
    return Check(name="mlflow", status="ok", message=f"{version}; {database} has its schema {head}")


def _schema_of(database: Path) -> str:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return str(connection.execute("select version_num from alembic_version").fetchone()[0])
        except (sqlite3.Error, TypeError):
            return ""


def _schema_head() -> str:
    """The newest revision among MLflow's migration files; importing MLflow would take 2 CPU seconds."""
    spec = importlib.util.find_spec("mlflow")
    folders = list(spec.submodule_search_locations or []) if spec else []
    revisions: set[str] = set()
    parents: set[str] = set()
    for path in (
        file for folder in folders for file in Path(folder, "store/db_migrations/versions").glob("*.py")
    ):
        text = path.read_text(encoding="utf-8")
        revisions |= set(re.findall(r"^revision\s*=\s*[\"'](\w+)", text, re.MULTILINE))
        parents |= set(re.findall(r"^down_revision\s*=\s*[\"'](\w+)", text, re.MULTILINE))
    return ", ".join(sorted(revisions - parents))


def _git() -> Check:
    if not shutil.which("git"):
        message = "git is not on PATH; records made from a checkout will not name its commit"
        return Check(name="git", status="warning", message=message, remedy="install git")
    state = provenance.code_state()
    if not state:
        return Check(name="git", status="ok", message="orch is installed from a package, not from a checkout")
    changed = "; records identify its uncommitted changes by a hash" if state["dirty"] else ""
    return Check(name="git", status="ok", message=f"orch runs from commit {state['commit'][:10]}{changed}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _output(*command: str) -> tuple[str, str]:
    """The output of a command, and its error, which is empty if it succeeded."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode:
        return "", (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return done.stdout, ""
