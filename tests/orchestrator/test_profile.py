"""A user's own file of Slurm settings: below the grid, which is below the command line; mistakes at their place."""

from types import SimpleNamespace

import pytest

from orch.launching.launch import Wishes, settings_of
from orch.user_settings import user_cluster
from orch_core.errors import GridError
from orch_core.grid.resources import Cluster, SizeClass


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCH_HOME", str(tmp_path))
    return (tmp_path / "cluster.yaml").write_text


def plan(**cluster):
    large = SizeClass(name="large", when="params > 1", time="2-00", sbatch={"mem": "64G"})
    return SimpleNamespace(cluster=Cluster(**cluster, classes=[large]))


def test_the_command_line_wins_over_the_grid_and_that_over_the_users_file(write):
    write(
        "partition: ours\naccount: lab\nnodes: 2\ntime: '60'\nparallel: 5\nsbatch: {constraint: a100, mem: 8G}\n"
    )
    settings = settings_of(
        plan(partition="theirs", time="90"), Wishes(cluster="slurm", options={"time": "30"})
    )
    assert settings.parallel == 5
    assert settings.options == {
        "partition": "theirs",
        "account": "lab",
        "nodes": 2,
        "time": "30",
        "constraint": "a100",
        "mem": "8G",
    }
    assert settings.profiles == {"large": settings.options | {"mem": "64G"}}


def test_without_a_file_and_on_ones_own_machine_nothing_changes(write):
    bare = settings_of(plan(partition="theirs"), Wishes(cluster="slurm"))
    assert bare.options == {"partition": "theirs", "nodes": 1}
    write("partition: ours\n")
    assert settings_of(plan(), Wishes()).options == {}


@pytest.mark.parametrize(
    ("text", "place"),
    [("partition: [a]\n", ":1:1"), ("qos: a\ncolour: red\n", ":2:1"), ("classes: []\n", ":1:1")],
)
def test_a_mistake_in_it_is_shown_at_its_place(write, text, place):
    write(text)
    with pytest.raises(GridError) as caught:
        user_cluster()
    assert f"cluster.yaml{place}" in str(caught.value)
