"""A run that was killed and resumed is the run that was not: bit for bit, for every algorithm."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from learn_cells import TRAINED, make_cell, write_images

from orch_core.errors import OrchError
from orch_core.learn import Stopped, pretrain
from orch_core.learn.checkpoint import load_checkpoint, save_checkpoint

DRIVER = Path(__file__).parent / "resume_driver.py"
CPU = torch.device("cpu")
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


def test_a_stopped_run_says_where_and_goes_on(tmp_path):
    path = write_images(tmp_path / "bars.npz")
    cell = make_cell(path)
    whole = pretrain(cell, tmp_path / "whole")
    calls = []

    def third() -> bool:
        calls.append(1)
        return len(calls) == 3

    with pytest.raises(Stopped, match="step 3 of 10"):
        pretrain(cell, tmp_path / "parts", should_stop=third)
    assert [path.name for path in (tmp_path / "parts" / "checkpoint").iterdir()] == ["000000000003.pt"]
    assert pretrain(cell, tmp_path / "parts").values == whole.values
    assert (tmp_path / "parts/encoder.safetensors").read_bytes() == (
        tmp_path / "whole/encoder.safetensors"
    ).read_bytes()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    for step in (3, 7, 9):
        newest = save_checkpoint(tmp_path, step, {"cell": "a", "step": step, "x": torch.full((1000,), step)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000007.pt", "000000000009.pt"]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    state = load_checkpoint(tmp_path, "a", CPU)
    assert (state["step"], state["x"][0].item()) == (7, 7)
    save_checkpoint(tmp_path, 9, state | {"step": 9})
    (tmp_path / "000000000009.pt").write_bytes(b"")
    assert load_checkpoint(tmp_path, "a", CPU)["step"] == 7


def test_without_an_intact_checkpoint_a_run_starts_over(tmp_path):
    assert load_checkpoint(tmp_path / "none", "a", CPU) is None
    (tmp_path / "000000000001.pt").write_bytes(b"not a checkpoint")
    assert load_checkpoint(tmp_path, "a", CPU) is None


def test_another_cells_checkpoint_is_refused(tmp_path):
    path = write_images(tmp_path / "bars.npz")
    with pytest.raises(Stopped):
        pretrain(make_cell(path), tmp_path / "run", should_stop=lambda: True)
    with pytest.raises(OrchError, match=r"is a checkpoint of cell \w{32}, not of"):
        pretrain(make_cell(path, seed=1), tmp_path / "run")
