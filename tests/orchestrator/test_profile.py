"""A user's own file of Slurm settings: below the grid, which is below the command line; mistakes at their place."""

import pytest

from orch.launching.settings import LaunchOptions, resources_of, settings_of
from orch_core.errors import GridError, OrchError
from orch_core.grid.resources import Cluster, ResourceClass, SizeClass
from orch_core.user_settings import user_cluster


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCH_HOME", str(tmp_path))
    return (tmp_path / "cluster.yaml").write_text


def grid(**cluster):
    large = SizeClass(name="large", when="params > 1", time="2-00", sbatch={"mem": "64G"})
    return Cluster(**cluster, classes=[large])


def on_slurm(named=None, *words):
    return LaunchOptions(cluster="slurm", resources=resources_of(named or {}, words))


def test_the_command_line_wins_over_the_grid_and_that_over_the_users_file(write):
    write(
        "partition: ours\naccount: lab\nnodes: 2\ntime: '60'\nparallel: 5\nsbatch: {constraint: a100, mem: 8G}\n"
    )
    settings = settings_of(grid(partition="theirs", time="90"), on_slurm({"time": "30"}))
    assert settings.parallel == 5
    options = settings.resources("default").options()
    assert options == {
        "partition": "theirs",
        "account": "lab",
        "nodes": 2,
        "time": "30",
        "constraint": "a100",
        "mem": "8G",
    }
    assert settings.resources("large").options() == options | {"mem": "64G"}


def test_without_a_file_and_on_a_local_machine_nothing_changes(write):
    bare = settings_of(grid(partition="theirs"), on_slurm())
    assert bare.resources("default").options() == {"partition": "theirs", "nodes": 1}
    write("partition: ours\n")
    assert settings_of(grid(), LaunchOptions()).classes == {}


@pytest.mark.parametrize(
    ("text", "place"),
    [("partition: [a]\n", ":1:1"), ("qos: a\ncolour: red\n", ":2:1"), ("classes: []\n", ":1:1")],
)
def test_a_mistake_in_it_is_shown_at_its_place(write, text, place):
    write(text)
    with pytest.raises(GridError) as caught:
        user_cluster()
    assert f"cluster.yaml{place}" in str(caught.value)


def test_any_option_of_sbatch_is_given_by_name_a_flag_without_a_value():
    words = ("constraint=a100", "exclusive", "nodes=2", "--mem=8G")
    asked = resources_of({"partition": "main", "account": None}, words)
    assert asked == ResourceClass(
        partition="main", nodes=2, sbatch={"constraint": "a100", "exclusive": True, "mem": "8G"}
    )


@pytest.mark.parametrize("word", ["", "=a100", "mem=", "mem=8G\n#SBATCH --wrap=evil", "array=0-9", "Ä=1"])
def test_a_word_that_is_no_option_of_sbatch_is_refused(word):
    with pytest.raises(OrchError):
        resources_of({}, [word])


def test_options_of_slurm_are_refused_on_a_local_machine():
    with pytest.raises(OrchError, match="--qos is an option of Slurm, and this launch is local"):
        LaunchOptions(resources=resources_of({"qos": "high"}, ()))
