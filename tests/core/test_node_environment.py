"""How a grid prepares the nodes of its jobs: what is merged, what is refused, and what a container's runtime is given."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from orch_core.grid.resources import Cluster, Container


def resources(name: str = "default", **cluster):
    return Cluster.model_validate(cluster).resource_classes()[name]


def test_a_class_adds_variables_and_replaces_everything_else():
    large = {
        "name": "large",
        "when": "params > 1",
        "env": {"B": "of large", "C": 3},
        "setup": ["module load b"],
    }
    shared = {
        "setup": ["module load a"],
        "env": {"A": "a b", "B": True},
        "stage": "$TMPDIR",
        "classes": [large],
    }
    assert resources(**shared).variables() == {"A": "a b", "B": "true"}
    one = resources("large", **shared)
    assert one.variables() == {"A": "a b", "B": "of large", "C": "3"}
    assert (one.setup, one.stage) == (["module load b"], "$TMPDIR")


def test_a_network_interface_is_gloos_and_nccls_unless_a_variable_says_otherwise():
    one = resources(network_interface="ib0", env={"NCCL_SOCKET_IFNAME": "ib1"})
    assert one.variables() == {"NCCL_SOCKET_IFNAME": "ib1", "GLOO_SOCKET_IFNAME": "ib0"}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"env": {"WANDB_API_KEY": "0123abcd"}}, "WANDB_API_KEY looks like a secret"),
        ({"env": {"MLFLOW_URL": "https://me:word@host"}}, "MLFLOW_URL looks like a secret"),
        ({"env": {"X": "hf_abcdefghijklmnopqrst"}}, "X looks like a secret"),
        ({"setup": ["export HF_TOKEN=abc"]}, "HF_TOKEN looks like a secret"),
        ({"env": {"A B": "1"}}, "not the name of an environment variable"),
        ({"env": {"A": "1\n2"}}, "one line"),
        ({"env": {"PYTHONPATH": "/x"}}, "set by Slurm or by orch"),
        ({"env": {"SBATCH_GRES": "x"}}, "set by Slurm or by orch"),
        ({"setup": ["a\nb"]}, "one line"),
        ({"setup": ["#SBATCH --mem=1"]}, "give options of sbatch in `sbatch`"),
        ({"stage": "scratch"}, "begins with /"),
        ({"network_interface": "ib0; rm -r x"}, "pattern"),
        ({"container": {"image": "a.sif", "runtime": "docker"}}, "'pyxis' or 'apptainer'"),
        ({"container": {"image": "a.sif", "runtime": "pyxis", "mounts": ["/a,/b"]}}, "without commas"),
        ({"gres": "gpu:1\n#SBATCH --wrap=x"}, "one line"),
    ],
)
def test_what_cannot_be_meant_is_refused(section, words):
    with pytest.raises(ValidationError) as caught:
        Cluster.model_validate(section)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "section",
    [
        {"env": {"TOKENIZERS_PARALLELISM": False, "SSH_KEY": "/home/me/.ssh/id", "HF_TOKEN": ""}},
        {"setup": ["export WANDB_API_KEY=$(cat ~/.wandb)", "export KEY=$OTHER"]},
    ],
)
def test_what_only_sounds_like_a_secret_is_not_refused(section):
    Cluster.model_validate(section)


def test_a_container_is_words_for_apptainer_and_options_for_pyxis():
    given = {"image": "/images/my torch.sif", "mounts": ["/data:/data:ro"], "workdir": "/work"}
    apptainer = Container(runtime="apptainer", **given).with_folders([Path("/study"), Path("/data")])
    assert apptainer.command() == [
        *("apptainer", "exec", "--nv", "--bind", "/data:/data:ro", "--bind", "/study:/study"),
        *("--pwd", "/work", "/images/my torch.sif"),
    ]
    assert apptainer.sbatch_options() == {}
    pyxis = Container(runtime="pyxis", **given).with_folders([Path("/study")])
    assert pyxis.command() == []
    assert pyxis.sbatch_options() == {
        "container-image": "/images/my torch.sif",
        "container-mounts": "/data:/data:ro,/study:/study",
        "container-workdir": "/work",
    }


@pytest.mark.parametrize("asked", [{"gres": "gpu:a100:2"}, {"sbatch": {"gres": "gpu:a100:2"}}])
def test_gres_counts_gpus_wherever_it_is_written(asked):
    one = resources(nodes=2, **asked)
    assert (one.gres, one.gpus, one.devices) == ("gpu:a100:2", 4, 4)
    assert (
        resources(nodes=2, gpus_per_node=4, classes=[{"name": "c", "when": "1 > 0", **asked}], name="c").gpus
        == 4
    )
