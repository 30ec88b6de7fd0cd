"""A full disk, a read-only folder or an output that takes nothing is a message, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_old_study import STUDY, unpack

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
READING = (
    ("status", STUDY),
    ("status", STUDY, "--json"),
    ("map", STUDY),
    ("plan", "grid.yaml", "--diff"),
    ("predict", "points-power", "--params", "1e5"),
    ("schema",),
    ("--help",),
    ("--version",),
)
WRITING = (
    ("plan", "grid.yaml"),
    ("fit-laws", STUDY),
    ("fit-laws", "points.csv", "--out", "new-laws"),
    ("fit-laws", "points.csv", "--out", "points-power"),
    ("sync", STUDY),
    ("launch", STUDY, "--cluster", "debug"),
    ("cancel", STUDY),
    (
        "predict",
        STUDY / "report",
        "--params",
        "1e5",
        "--at",
        "params_encoder=1e5",
        "--samples",
        "100",
        "--register",
    ),
)


def run(
    *words: object, cwd: Path, prefix: tuple[str, ...] = (), **files: object
) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "orch", *map(str, words)]
    files = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **files}
    return subprocess.run(command, cwd=cwd, text=True, check=False, env=ENVIRONMENT, timeout=300, **files)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    unpack(folder)
    return folder


@pytest.mark.parametrize("words", READING, ids=lambda words: " ".join(map(str, words)))
def test_an_output_that_takes_nothing_is_a_message(place: Path, words: tuple[object, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*words, cwd=place, stdout=full)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
        assert "No space left on device" in done.stderr
        assert run(*words, cwd=place, stdout=full, stderr=full).returncode == 2


@pytest.fixture
def full(place: Path, tmp_path: Path) -> Iterator[Path]:
    """The study on a disk without a free byte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small disk: {made.stderr.strip()}")
    try:
        subprocess.run(["cp", "-r", f"{place}/.", folder], check=True)
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={folder / 'filler'}", "bs=4k"], capture_output=True, check=False
        )
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def without_a_message(done: subprocess.CompletedProcess[str]) -> str:
    """What is wrong with how a command ended, empty if nothing is."""
    if "Traceback" in done.stderr + done.stdout or done.returncode not in {0, 1, 2}:
        return f"{done.args[3:]} ended with {done.returncode}:\n{done.stderr}"
    return "" if done.returncode == 0 or "error: " in done.stderr else f"{done.args[3:]}: {done.stderr}"


def test_a_full_disk_is_a_message(full: Path) -> None:
    before = {path: path.read_bytes() for path in full.rglob("record.json")}
    wrong = [without_a_message(run(*words, cwd=full)) for words in (*READING, *WRITING)]
    assert not [text for text in wrong if text]
    assert {path: path.read_bytes() for path in full.rglob("record.json")} == before
    assert (full / "points-power" / "laws.json").stat().st_size > 0


def test_a_read_only_study_is_a_message(place: Path) -> None:
    prefix = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--reuid", "65534", "--clear-groups")
    if run("--version", cwd=place, prefix=prefix).returncode:
        pytest.skip("cannot give up the right to write everywhere")
    wrong = [without_a_message(run(*words, cwd=place, prefix=prefix)) for words in (*READING, *WRITING)]
    assert not [text for text in wrong if text]
