"""The demo's grid, shrunk, by the command line: Slurm gives the records of one machine to the bit, four nodes to rounding."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orch.launching import slurm
from orch_core.study import open_study

DEMO = Path(__file__).parents[2] / "experiments" / "demo.yaml"
pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("healthy")]


@pytest.fixture
def grid(tmp_path):
    document = yaml.safe_load(DEMO.read_text())
    for source in document["sources"].values():
        source["path"] = str(DEMO.parent / source["path"])
    document["axes"] |= {"images": 400, "mix": "microscopy", "samples_seen": 320}
    document["axes"]["model"] = document["axes"]["model"][:1]
    document["axes"]["algorithm"] = ["mae@1", "moco-v3@1", "random@1"]
    document["probes"] = {"tasks": ["blood"], "train_limit": 100}
    del document["exclude"], document["include"]
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def records_of(grid, place, *options) -> dict:
    root = grid.parent / place
    for words in (("plan", grid, "--study", root), ("launch", root, "--parallel", 1, *options)):
        command = [sys.executable, "-m", "orch", *map(str, words)]
        done = subprocess.run(command, cwd=grid.parent, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return {(record.name, record.task): record for record in open_study(root).records()}


def test_the_demos_records_are_the_same_on_slurm_and_close_on_four_nodes(grid):
    here = records_of(grid, "local", "--cluster", "local")
    there = records_of(grid, "slurm", "--cluster", "slurm")
    assert len(here) == 6
    assert {key: record.values for key, record in here.items()} == {
        key: record.values for key, record in there.items()
    }
    assert {record.provenance["node"][:3] for record in there.values()} == {"gpu"}
    spread = records_of(grid, "nodes", "--cluster", "slurm", "--nodes", 4)
    for key, record in spread.items():
        alone = here[key].values
        assert record.values.keys() == alone.keys()
        for name, value in record.values.items():
            # one image of 256 more or less; Adam makes the rounding of MoCo's biases large within few steps
            tolerance = 0.02 if record.task or name.endswith("accuracy") else 5e-3
            same = value == alone[name] or math.isclose(value, alone[name], rel_tol=tolerance)
            assert same, (key, name)
        assert record.provenance["devices"] == 4.0
    trained = [record for key, record in spread.items() if not key[1] and not key[0].startswith("random")]
    assert [record.cost["processes"] for record in trained] == [4, 4]
    assert not slurm.queue()
