"""A run that was killed and resumed is the run that was not: bit for bit, for every algorithm."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from learn_cells import TRAINED, make_cell, write_images

from orch_core.errors import OrchError
from orch_core.learn import Stopped, pretrain

DRIVER = Path(__file__).parent / "resume_driver.py"
KILLS = 3
"""In the suite; `resume_driver.py FOLDER NPZ 20 RECIPE...` kills twenty times."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    path = write_images(folder / "bars.npz")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder), str(path), str(KILLS), *TRAINED],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {row["recipe"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("recipe", TRAINED)
def test_kill_9_and_resume_give_the_same_bits(killed, recipe):
    row = killed[recipe]
    assert row["kills"] == KILLS
    for part in ("encoder", "state", "result"):
        assert row["broken"][part] == row["whole"][part], part


@pytest.mark.parametrize("recipe", TRAINED)
def test_the_curve_has_no_row_twice_and_the_same_held_out_losses(killed, recipe):
    broken, whole = killed[recipe]["broken"], killed[recipe]["whole"]
    assert broken["rows"] == sorted(set(broken["rows"]))
    assert broken["curve"] == whole["curve"]


def test_a_stopped_run_reports_its_step_and_continues(tmp_path):
    path = write_images(tmp_path / "bars.npz")
    cell = make_cell(path)
    whole = pretrain(cell, tmp_path / "whole")
    calls = []

    def third() -> bool:
        calls.append(1)
        return len(calls) == 3

    with pytest.raises(Stopped, match="step 3 of 10"):
        pretrain(cell, tmp_path / "parts", should_stop=third)
    assert [path.name for path in (tmp_path / "parts" / "checkpoint").iterdir()] == ["000000000003"]
    assert pretrain(cell, tmp_path / "parts").values == whole.values
    assert (tmp_path / "parts/encoder.safetensors").read_bytes() == (
        tmp_path / "whole/encoder.safetensors"
    ).read_bytes()


def test_another_cells_checkpoint_is_refused(tmp_path):
    path = write_images(tmp_path / "bars.npz")
    with pytest.raises(Stopped):
        pretrain(make_cell(path), tmp_path / "run", should_stop=lambda: True)
    with pytest.raises(OrchError, match=r"is a checkpoint of cell \w{32}, not of"):
        pretrain(make_cell(path, seed=1), tmp_path / "run")
