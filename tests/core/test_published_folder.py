"""A folder of results is replaced at once: whatever ends the writer, a reader finds no mixture of two."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orch_core.files import published_folder

ENTRIES = frozenset({"laws.json", "cards", "report.html"})
KILLED = """
import os, pathlib, signal, sys
from orch_core import files

limit, calls = int(sys.argv[2]), []
def killing(function):
    def call(*arguments, **options):
        calls.append(function)
        if len(calls) == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

if sys.argv[3] == "one by one":
    files._exchange = lambda one, other: False
for owner, names in ((pathlib.Path, ("rename", "unlink", "mkdir")), (files.shutil, ("rmtree",))):
    for name in names:
        setattr(owner, name, killing(getattr(owner, name)))
entries = frozenset({"laws.json", "cards", "report.html"})
with files.published_folder(pathlib.Path(sys.argv[1]), entries, "laws.json") as new:
    (new / "cards").mkdir()
    for name in ("cards/card-0.md", "report.html", "laws.json"):
        (new / name).write_text("second")
"""


GROUP = """
from pathlib import Path
from orch_core.files import published_folder
with published_folder(Path({out!r}), frozenset(["laws.json"]), "laws.json") as new:
    (new / "laws.json").write_text("x")
"""


def fill(folder: Path, text: str) -> None:
    with published_folder(folder, ENTRIES, "laws.json") as new:
        (new / "cards").mkdir()
        for name in ("cards/card-0.md", "cards/card-1.md", "report.html", "laws.json"):
            (new / name).write_text(text)


def contents(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", ["at once", "one by one"])
def test_killed_at_any_moment_laws_and_cards_belong_together(tmp_path: Path, way: str) -> None:
    seen = set()
    for limit in range(1, 40):
        folder = tmp_path / f"out{limit}"
        fill(folder, "first")
        command = [sys.executable, "-c", KILLED, str(folder), str(limit), way]
        ended = subprocess.run(command, check=False).returncode
        if (folder / "laws.json").exists():
            (text,) = contents(folder)
            seen.add(text)
            assert (folder / "cards" / "card-1.md").exists() == (text == "first")
        else:
            assert way == "one by one"
        if ended == 0:
            assert contents(folder) == {"second"}
            break
        assert ended == -signal.SIGKILL
    assert limit > 3
    assert seen == {"first", "second"}


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    fill(tmp_path / "out", "first")
    with pytest.raises(IsADirectoryError), published_folder(tmp_path / "out", ENTRIES, "laws.json") as new:
        new.write_text("second")
    assert contents(tmp_path / "out") == {"first"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_of_the_user_stay(tmp_path: Path) -> None:
    fill(tmp_path / "out", "first")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    fill(tmp_path / "out", "second")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert contents(tmp_path / "out") == {"mine", "second"}


def test_the_working_directory_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    fill(Path(), "first")
    fill(Path(), "second")
    assert contents(Path()) == contents(tmp_path / "out") == {"second"}


def test_a_group_can_write_where_the_umask_lets_it(tmp_path: Path) -> None:
    script = GROUP.format(out=str(tmp_path / "out"))
    subprocess.run(["sh", "-c", f'umask 002; exec {sys.executable} -c "$0"', script], check=True)
    assert oct((tmp_path / "out").stat().st_mode)[-3:] == "775"
    assert oct((tmp_path / "out" / "laws.json").stat().st_mode)[-3:] == "664"


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OSError, match="directory"):
        fill(tmp_path / "out", "first")
    assert (tmp_path / "out").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
