"""What docs/clusters.md promises of a grid: the script that Slurm gets, and submitit's own way to run a worker."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from orch.launching import journal
from orch.launching.journal import JobRequest, Launch
from orch.launching.submit import Array, script_text
from orch_core.grid.resources import Cluster
from orch_core.study.folder import create_study

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


def documented() -> Cluster:
    block = next(
        block
        for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if "cluster:" in block
    )
    return Cluster.model_validate(yaml.safe_load(block)["cluster"])


def test_the_script_of_the_documented_keys_has_them_all_in_order(tmp_path):
    asked = documented().resource_classes()["large"]
    request = JobRequest(options=asked.options(), minutes=60.0, environment=asked.node_environment())
    array = Array(
        study=create_study(tmp_path / "a study", "s"), token="t", group="large", workers=2, request=request,
        snapshot=tmp_path / "code.zip",
    )  # fmt: skip
    text = script_text(array)
    parts = [
        "#SBATCH --gres=gpu:h100:8\n",
        "#SBATCH --nodes=2\n",
        "#SBATCH --partition=gpu\n",
        "export NCCL_SOCKET_IFNAME=ib0\n",
        "export GLOO_SOCKET_IFNAME=ib0\n",
        "export NCCL_DEBUG=INFO\n",
        "module load cuda/12.4\n",
        "export WANDB_API_KEY=$(cat ~/.wandb)\n",
        f"export PYTHONPATH={tmp_path}/code.zip",
        "exec apptainer exec --nv --bind /datasets:/datasets:ro --pwd /tmp /images/torch-24.10.sif python3 -P -u",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_a_launch_remembers_how_its_nodes_are_prepared(tmp_path):
    study = create_study(tmp_path, "s")
    environment = documented().resource_classes()["large"].node_environment()
    launch = Launch(token="t", created=0.0, requests={"large": JobRequest(environment=environment)})
    journal.begin(study, launch, [])
    assert journal.read_launch(tmp_path, "t") == launch


def test_submitits_own_plugins_can_run_a_worker(launching, tmp_path):
    """The documented lines with submitit's local executor, and our stand-in study in place of `orch worker`."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    worker = [
        sys.executable,
        launching.__file__,
        str(tmp_path / "study"),
        "--settings",
        '{"cluster": "worker"}',
    ]
    code = block.replace('cluster="oar"', 'cluster="local"')
    code = code.replace('["orch", "worker", "/shared/studies/demo"]', repr(worker))
    assert repr(worker) in code
    subprocess.run(
        [sys.executable, "-P", "-c", code + "\nprint(job.result())"], cwd=tmp_path, check=True, timeout=120
    )
    from orch_core.study.folder import open_study

    launching.check_complete(open_study(tmp_path / "study"), launching.jobs(4))
