"""`orch doctor --cluster slurm`: what short jobs find on the nodes, and the remedy for what they do not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("healthy")]
DEMO = Path(__file__).parents[2] / "experiments" / "demo.yaml"


def doctor(*words, place: Path, **environment) -> tuple[int, dict[str, dict]]:
    command = [sys.executable, "-m", "orch", "doctor", *map(str, words), "--cluster", "slurm", "--json"]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=300, env=os.environ | environment
    )
    assert done.returncode in {0, 1}, done.stderr
    assert not list(place.rglob(".orch-doctor-*"))
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def study(tmp_path: Path, **cluster) -> Path:
    document = yaml.safe_load(DEMO.read_text())
    for source in document["sources"].values():
        source["path"] = str(DEMO.parent / source["path"])
    document["cluster"] = cluster
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(document))
    words = [sys.executable, "-m", "orch", "plan", "grid.yaml", "--study", "a study"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "a study"


def test_every_class_of_a_study_is_checked_on_its_own_nodes(tmp_path):
    root = study(
        tmp_path,
        stage=f"{tmp_path}/disk",
        time="3",
        classes=[
            {"name": "two", "when": "params > 1e5", "nodes": 2},
            {"name": "gpu", "when": "seed > 5", "gpus_per_node": 1, "network_interface": "ib7"},
            {"name": "lost", "when": "seed > 6", "partition": "nowhere"},
            {"name": "broken", "when": "seed > 7", "setup": ["echo module: command not found", "exit 3"]},
            {"name": "unset", "when": "seed > 8", "stage": "$NO_SUCH_DISK"},
        ],
    )
    code, found = doctor(root, place=tmp_path)
    assert code == 1
    for name in ("python", "gpus", "data", "clock", "srun", "all-reduce"):
        assert found[f"default: {name}"]["status"] == "ok", found[f"default: {name}"]
        assert found[f"two: {name}"]["status"] == "ok", found[f"two: {name}"]
    assert found["default: scratch"]["message"].startswith(f"{tmp_path}/disk: ")
    assert found["two: all-reduce"]["message"].startswith("2 processes at ")
    # the GPUs of the developer cluster are stand-ins, which torch does not see
    assert found["gpu: gpus"]["message"] == "torch sees 0 GPUs, and 1 are asked for on a node"
    assert "has no network interface ib7" in found["gpu: all-reduce"]["message"]
    assert "invalid partition" in found["lost: sbatch"]["message"]
    assert "module: command not found" in found["broken: job"]["message"]
    assert found["unset: scratch"]["message"] == "$NO_SUCH_DISK is not set on this node"
    assert all(check["remedy"] for check in found.values() if check["status"] != "ok")


def test_without_a_study_every_partition_is_checked(tmp_path):
    code, found = doctor(place=tmp_path)
    assert code == 0
    assert {name.partition(":")[0] for name in found} == {"main", "short", "urgent"}
    assert found["short: all-reduce"]["status"] == "ok"
