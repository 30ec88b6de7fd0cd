"""States on disk: whole or not there, in parts that any number of processes write and read, checked before they are used."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from learn_cells import make_cell, write_images
from safetensors.torch import load_file

from orch_core.errors import OrchError
from orch_core.learn import pretrain
from orch_core.learn.checkpoint import MANIFEST, load_checkpoint, save_checkpoint

DRIVER = Path(__file__).parent / "checkpoint_driver.py"
STATE = {"x": torch.arange(1000.0), "y": torch.tensor(3.0)}


def save(folder, step, **words):
    return save_checkpoint(
        folder, {name: tensor + step for name, tensor in STATE.items()}, {"cell": "a", "step": step}, **words
    )


def load(folder, **words):
    """Step that a folder's newest state says it was saved after, checked against its tensors."""
    tensors = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}
    facts = load_checkpoint(folder, "a", tensors, **words)
    if facts is None:
        return None
    assert all(torch.equal(tensors[name], STATE[name] + facts["step"]) for name in STATE)
    return facts["step"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    folder = tmp_path_factory.mktemp("divided")
    path = write_images(folder / "bars.npz")
    done = subprocess.run([sys.executable, DRIVER, folder, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_kill_9_at_any_moment_of_a_save_leaves_the_last_state(divided):
    """The first two deaths are before the second state of their attempt is published, the third is after."""
    folder, found = divided
    assert [int(name) for name in found["killed"]["newest"]] == [1, 2, 4]
    whole, broken = (folder / name / "encoder.safetensors" for name in ("whole", "broken"))
    assert broken.read_bytes() == whole.read_bytes()


def test_all_processes_pass_over_a_state_that_one_finds_cut_short(divided):
    """They go on from the third, and save the fourth again."""
    _, found = divided
    assert found["killed"]["left"] == ["000000000004", "000000000004.damaged", "000000000005"]


def test_a_run_continues_with_any_number_of_processes_sharded_or_not(divided, tmp_path):
    folder, found = divided
    cell = make_cell(folder / "bars.npz", "dinov2@1", samples=64)
    alone = pretrain(cell, tmp_path)
    assert found["moved"] == pytest.approx(dict(alone.values), rel=2e-3, abs=2e-5)
    theirs = load_file(folder / "moved" / "encoder.safetensors")
    for name, tensor in load_file(tmp_path / "encoder.safetensors").items():
        if not name.endswith("bias"):  # Adam makes the rounding of gradients that are zero large
            torch.testing.assert_close(theirs[name], tensor, rtol=5e-3, atol=5e-4, msg=name)


def test_no_process_has_a_complete_sharded_state(divided):
    """Nor its own half: of what torch allocates on the way, beside a state put together."""
    assert len(divided[1]["memory"]) == 2
    for most in divided[1]["memory"]:
        assert most["whole"] > 0.9 * most["state"]
        assert max(most["save"], most["load"]) < 0.25 * most["state"]


@pytest.mark.parametrize("part", [MANIFEST, ".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("damage", ["a bit", "the end", "all"])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, part, damage):
    for step in (3, 7, 9):
        newest = save(tmp_path, step)
    assert names(tmp_path) == ["000000000007", "000000000009"]
    data = bytearray((newest / part).read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "all":
        (newest / part).unlink()
    else:
        (newest / part).write_bytes(data if damage == "a bit" else data[:-1])
    assert load(tmp_path) == 7
    assert names(tmp_path) == ["000000000007", "000000000009.damaged"]
    (save(tmp_path, 9) / part).write_bytes(b"")
    assert load(tmp_path) == 7
    assert names(tmp_path) == ["000000000007", "000000000009.damaged"]
    assert load(tmp_path, last=6) is None


def test_without_an_intact_state_a_run_starts_over(tmp_path):
    assert load(tmp_path / "none") is None
    (tmp_path / "000000000001").mkdir()
    assert load(tmp_path) is None


def test_a_state_that_is_there_stays_and_what_a_killed_save_left_goes(tmp_path):
    mine, shared = tmp_path / "mine", tmp_path / "shared"
    first = save(shared, 4, keep=None, scratch=mine)
    (mine / ".000000000004.killed").mkdir(parents=True)
    (mine / ".000000000004.killed" / "__0_0.distcp").write_bytes(b"half")
    before = (first / MANIFEST).stat().st_ino
    save(shared, 4, keep=None, scratch=mine)
    assert (first / MANIFEST).stat().st_ino == before
    save(shared, 8, keep=None, scratch=mine)
    assert load(mine) is None
    save(shared, 12, keep=None, scratch=mine)
    assert (names(mine), names(shared)) == ([], ["000000000004", "000000000008", "000000000012"])
    assert load(shared, last=11) == 8


def test_a_full_disk_is_reported_and_leaves_no_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left") as raised:
            save(tmp_path, 2)
    assert raised.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["000000000001"]
    assert load(tmp_path) == 1


def test_a_state_of_another_cell_or_version_is_refused(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(OrchError, match="is a checkpoint of cell a, not of b"):
        load_checkpoint(tmp_path, "b", dict(STATE))
    for other in ({"x": STATE["x"]}, STATE | {"z": STATE["y"]}, STATE | {"x": torch.zeros(999)}):
        with pytest.raises(OrchError, match=r"another version of the code: [xyz] differs"):
            load_checkpoint(tmp_path, "a", other)
