"""`orch launch`: which study it means, and what it says at its end."""

from pathlib import Path

import pytest

from orch.launchable import launchable
from orch.launching.settings import LaunchOptions
from orch.launching.waiting import Failure, Summary
from orch.planning.planner import make_plan
from orch.studies import find_study
from orch_core.errors import OrchError
from orch_core.study.folder import create_study

GRID = Path(__file__).parents[2] / "experiments" / "demo.yaml"


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """A grid that was planned in its own folder; the commands run in another one."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for folder in (theirs, ours):
        folder.mkdir()
    text = GRID.read_text().replace("path: ", f"path: {GRID.parent}/").replace("study: demo", "study: theirs")
    (theirs / "grid.yaml").write_text(text)
    monkeypatch.chdir(theirs)
    make_plan(theirs / "grid.yaml")
    monkeypatch.chdir(ours)
    return theirs / "grid.yaml"


def test_a_grid_elsewhere_is_launched_in_the_study_where_it_was_planned(grid, tmp_path):
    _, study = launchable(grid, LaunchOptions())
    assert study.root == tmp_path / "theirs" / "studies" / "theirs"
    assert not (tmp_path / "ours" / "studies").exists()
    assert find_study(grid).root == study.root


def test_a_new_study_for_a_grid_is_reported(grid, tmp_path, capsys):
    (grid.parent / "studies" / "theirs" / "study.json").unlink()
    with pytest.raises(OrchError, match="was not planned"):
        find_study(grid)
    _, study = launchable(grid, LaunchOptions())
    assert study.root == tmp_path / "ours" / "studies" / "theirs"
    assert f"in the new study {study.root}" in capsys.readouterr().err


def test_of_two_studies_of_a_grid_one_must_be_named(grid):
    create_study(Path("studies/theirs").resolve(), "theirs")
    with pytest.raises(OrchError, match=r"was planned in .* and in ") as caught:
        launchable(grid, LaunchOptions())
    assert "name the study's folder" in caught.value.hint


FAILURE = Failure(
    cell="c", name="mae-s0", task="", cause="killed", message="no memory", log="cells/c/log.txt"
)


@pytest.mark.parametrize(
    ("cluster", "advice"), [("local", "`orch retry`"), ("slurm", "`orch retry --cluster slurm`")]
)
def test_the_last_lines_count_every_cell_and_advise_to_retry_where_it_ran(cluster, advice):
    counts = {"done": 3, "diverged": 2, "failed": 1, "remaining": 4}
    text = Summary(study="studies/s", cluster=cluster, failures=(FAILURE,), **counts).text
    assert text.startswith("3 cells done, 2 diverged, 1 failed, 4 left\n")
    assert "failed, killed (1): mae-s0: no memory (studies/s/cells/c/log.txt)\n" in text
    assert text.endswith(f"then {advice}")


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        ({"done": 3}, 0),
        ({"done": 3, "diverged": 1}, 0),
        ({"failed": 1, "remaining": 2, "stopped": "cancelled"}, 1),
        ({"remaining": 2, "stopped": "cancelled"}, 4),
        ({"remaining": 2, "stopped": "budget"}, 4),
        ({"remaining": 2, "stopped": "signal", "interrupted": True}, 130),
        ({"remaining": 2}, 0),  # --no-wait
    ],
)
def test_the_exit_code_distinguishes_done_failed_and_stopped(summary, code):
    assert Summary(study="s", cluster="local", **summary).exit_code == code
