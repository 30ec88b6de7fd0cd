"""One damaged file of a study never stops a command: it ends with 0 or 2, and never with a traceback.

Every file that commands read is cut, emptied, and replaced by another document and by bytes that are not
text; every command that reads studies is run on it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_old_study import ONE_THREAD, STUDY, unpack

from orch.cli import main

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "list": lambda _: b"[]",
    "binary": lambda _: bytes(range(128, 256)) * 3,
}
FILES = {
    "study.json": "studies/old/study.json",
    "plan.json": "studies/old/plan.json",
    "plan.parquet": "studies/old/plan.parquet",
    "grid.yaml of the study": "studies/old/grid.yaml",
    "record of a cell": "studies/old/cells/{cell}/record.json",
    "config of a cell": "studies/old/cells/{cell}/cell.json",
    "curves": "studies/old/cells/{cell}/metrics.ndjson",
    "end of an attempt": "studies/old/cells/{cell}/attempts/*/end.json",
    "owner of an attempt": "studies/old/cells/{cell}/attempts/*/owner.json",
    "log": "studies/old/cells/{cell}/attempts/*/log.txt",
    "record of a probe": "studies/old/cells/{cell}/probes/*/record.json",
    "draws of a probe": "studies/old/cells/{cell}/probes/*/auc_draws.npy",
    "settings of a launch": "studies/old/launches/*/launch.json",
    "manifest of a launch": "studies/old/launches/*/jobs.ndjson",
    "journal": "studies/old/journal.ndjson",
    "budget": "studies/old/budget.json",
    "laws of the report": "studies/old/report/laws.json",
    "draws of the report": "studies/old/report/draws.npz",
    "mirror": "studies/old/mlflow.db",
    "pointer to the study": ".orch",
    "grid": "grid.yaml",
    "images": "a.npz",
}
COMMANDS: tuple[tuple[object, ...], ...] = (
    ("status",),
    ("why", "{cell}", "--study", STUDY),
    ("logs", "{cell}", "--study", STUDY),
    ("sync", STUDY),
    ("fit-laws", STUDY, "--law", "power", "--out", "laws"),
    ("plan", "grid.yaml", "--diff"),
    ("map", STUDY),
    ("cancel", STUDY),
    ("launch", STUDY, "--cluster", "slurm", "--dry-run"),
    ("predict", STUDY / "report", "--params", 5e4, "--samples", 100, "--at", "flops_train=1e9"),
    ("data", "stats", "a.npz"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """The study of 547fd88, planned again and with a budget and a journal."""
    place = tmp_path_factory.mktemp("damaged")
    unpack(place)
    shutil.copy(empty_database, place / STUDY / "mlflow.db")
    (place / STUDY / "budget.json").write_text('{"schema_version": 1, "hours": {"a": 1.5}}\n')
    (place / STUDY / "journal.ndjson").write_text('{"event": "intent", "token": "t", "name": "n"}\n')
    return place


@pytest.fixture
def place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it as the working directory."""
    copied = Path(shutil.copytree(home, tmp_path / "work"))
    monkeypatch.chdir(copied)
    assert run("plan", "grid.yaml").exit_code == 0
    return copied


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def cell_with_probes() -> str:
    """Id of a finished cell with all its probes."""
    found = [path.parent for path in sorted(STUDY.glob("cells/*/record.json"))]
    return next(folder.name for folder in found if len(list(folder.glob("probes/*/record.json"))) == 2)


@pytest.mark.parametrize("name", FILES)
def test_no_command_stops_at_a_damaged_file(place: Path, name: str) -> None:
    cell = cell_with_probes()
    path = max(place.glob(FILES[name].format(cell=cell)))
    whole, wrong = path.read_bytes(), []
    for damage, damaged in DAMAGES.items():
        for words in COMMANDS if damage in {"cut", "binary"} else COMMANDS[:5]:
            path.write_bytes(damaged(whole))
            done = run(*(str(word).format(cell=cell) for word in words))
            unexpected = done.exception and not isinstance(done.exception, SystemExit)
            if unexpected or done.exit_code not in {0, 2}:
                wrong.append(
                    f"{damage}, {words[0]}: {done.exit_code} {done.exception!r} {done.output[-300:]}"
                )
            if done.exit_code == 2 and "error: " not in done.output and "mistake" not in done.output:
                wrong.append(f"{damage}, {words[0]}: no message: {done.output[-300:]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["record of a cell", "record of a probe"])
def test_a_damaged_record_is_named_and_never_counts_as_done(place: Path, name: str, damage: str) -> None:
    cell = cell_with_probes()
    done = json.loads(run("status", STUDY, "--json").stdout)["total"]["done"]
    path = max(place.glob(FILES[name].format(cell=cell)))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert json.loads(run("status", STUDY, "--json").stdout)["total"]["done"] == done - 1
    plan = run("plan", "grid.yaml", "--json")
    assert json.loads(plan.stdout)["states"]["done"] == done - 1
    mirrored = run("sync", STUDY)
    assert str(path.relative_to(place / STUDY)) in mirrored.output
    why = run("why", cell, "--study", STUDY)
    assert str(path.relative_to(place / STUDY)) in why.output


@pytest.mark.parametrize("damage", ["cut", "binary"])
@pytest.mark.parametrize("name", ["record of a probe", "checkpoint", "manifest of a checkpoint", "encoder"])
def test_launch_makes_again_what_is_damaged(place: Path, name: str, damage: str) -> None:
    stopped = next((place / STUDY).glob("cells/*/checkpoint")).parent
    paths = {
        "record of a probe": max(place.glob(FILES["record of a probe"].format(cell=cell_with_probes()))),
        "checkpoint": next(stopped.glob("checkpoint/*/__0_0.distcp")),
        "manifest of a checkpoint": next(stopped.glob("checkpoint/*/manifest")),
        "encoder": next((place / STUDY).glob("cells/*/encoder.safetensors")),
    }
    path = paths[name]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    command = [sys.executable, "-m", "orch", "launch", str(STUDY), "--cluster", "debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)
    assert done.returncode in {0, 1, 2}
    assert "Traceback" not in done.stderr, done.stderr
    total = json.loads(run("status", STUDY, "--json").stdout)["total"]
    assert total["pending"] == 0
    if name != "encoder":  # whose cell may have failed before
        assert stopped.name in {path.parent.name for path in (place / STUDY).glob("cells/*/record.json")}
