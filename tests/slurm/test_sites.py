"""What sites do differently: environments that jobs must prepare, names that do not resolve, networks that do not meet."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orch_core.study.folder import open_study

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("healthy")]
STAND_INS = Path(__file__).with_name("stand_ins")
NAMELESS = "import socket; socket.gethostname = lambda: 'no-such-host.invalid'"
CUT_OFF = f"""{NAMELESS}
from orch.launching.worker import rendezvous
rendezvous.interfaces = lambda: {{"ib0": "203.0.113.7"}}
rendezvous.TRY_SECONDS = 1.0
"""


def settings(**asked) -> str:
    one = {"time": "10", **asked}
    return json.dumps({"cluster": "slurm", "parallel": 1, "classes": {"default": one}})


def test_setup_lines_and_variables_reach_the_worker_whatever_they_contain(launching, start, tmp_path):
    value = 'it\'s "quoted", $HOME; `id` \\ and # spaced'
    seen = tmp_path / "seen by the job"
    asked = {"env": {"GREETING": value, "SEEN": str(seen)}, "setup": ['printf %s "$GREETING" >"$SEEN"']}
    launching.finish(start(tmp_path / "study", "--cells", 1, "--settings", settings(**asked)))
    launching.check_complete(open_study(tmp_path / "study"), launching.jobs(1))
    assert seen.read_text() == value


def test_nodes_whose_names_do_not_resolve_meet_at_an_address(launching, start, tmp_path):
    how = ("--cells", 1, "--settings", settings(nodes=4, gpus_per_node=2), "--at-start", NAMELESS)
    launching.finish(start(tmp_path, *how))
    study, jobs = open_study(tmp_path), launching.jobs(1)
    launching.check_complete(study, jobs)
    assert {line["ranks"] for line in launching.audit(study, jobs[0]) if "ranks" in line} == {8}


def test_nodes_that_cannot_meet_say_within_a_minute_what_they_tried(launching, start, tmp_path):
    how = ("--cells", 1, "--settings", settings(nodes=2), "--at-start", CUT_OFF)
    (failure,) = launching.finish(start(tmp_path, *how), 1, seconds=240)["failures"]
    assert failure["cause"] == "network"
    for words in ("no-such-host.invalid (", "203.0.113.7 (", "cluster.network_interface"):
        assert words in failure["message"]
    ends = [json.loads(path.read_text()) for path in tmp_path.glob("cells/*/attempts/*/end.json")]
    assert len(ends) == 3
    assert all(end["seconds"] < 60 for end in ends)


def test_pyxis_is_asked_for_before_anything_is_submitted_where_it_is_missing(launching, start, tmp_path):
    asked = settings(container={"image": "torch.sqsh", "runtime": "pyxis"})
    launch = start(tmp_path, "--cells", 1, "--settings", asked)
    _, talk = launch.communicate(timeout=60)
    assert launch.returncode == 2
    assert "--container-image=torch.sqsh" in talk
    assert "this cluster has no pyxis" in talk
    assert not (tmp_path / "launches").exists()


def test_paths_with_spaces_a_strict_umask_and_few_open_files(launching, tmp_path):
    words = [
        sys.executable,
        launching.__file__,
        tmp_path / "a study",
        "--cells",
        "2",
        "--settings",
        settings(),
    ]
    quoted = subprocess.list2cmdline(list(map(str, words)))
    limits = f"umask 077; ulimit -n 256; exec {quoted}"
    subprocess.run(["bash", "-c", limits], check=True, timeout=120, env=os.environ | {"SLURM_NTASKS": "7"})
    launching.check_complete(open_study(tmp_path / "a study"), launching.jobs(2))


def test_a_kill_for_memory_without_cgroups_halves_the_micro_batch(launching, start, tmp_path):
    asked = settings(sbatch={"mem": "450M", "acctg-freq": "task=1"})
    launching.finish(start(tmp_path, "--recipe", "hungry@1", "--cells", 1, "--batch", 4, "--settings", asked))
    study, jobs = open_study(tmp_path), launching.jobs(1, "hungry@1", batch=4)
    launching.check_complete(study, jobs)
    sizes = [line["micro_batch"] for line in launching.audit(study, jobs[0]) if "micro_batch" in line]
    assert sizes == [0, 2]
    ends = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("cells/*/attempts/*/end.json"))]
    assert ends[0]["cause"] == "out_of_memory"
    assert "of the 450M that it asked for" in ends[0]["message"]


@pytest.fixture
def image(tmp_path):
    """A folder that stands for an image: its `python3` is ours, and notes that it was used."""
    folder = tmp_path / "an image"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python3"
    python.write_text(f'#!/bin/bash\nexport IN_CONTAINER="$STAND_IN_IMAGE"\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return folder


IN_CONTAINER = """import os
if os.environ.get("SLURM_JOB_ID"):
    assert os.environ["IN_CONTAINER"].endswith("an image")
"""


@pytest.mark.parametrize("nodes", [1, 2])
def test_workers_and_their_nodes_run_in_apptainer_and_see_the_study_alone(
    launching, start, tmp_path, image, nodes
):
    """With a stand-in for apptainer: everything below the test's folder is hidden but what is mounted."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "more").mkdir()
    container = {
        "image": str(image),
        "runtime": "apptainer",
        "mounts": [f"{tmp_path}/more:{tmp_path}/other"],
        "workdir": f"{tmp_path}/other",
    }
    hidden = (
        f"{IN_CONTAINER}    assert sorted(os.listdir({str(tmp_path)!r})) == ['an image', 'other', 'study']\n"
    )
    hidden += f"    assert os.getcwd() == {str(tmp_path / 'other')!r} or 'rank' in ' '.join(os.sys.argv)\n"
    how = ("--cells", 1, "--settings", settings(nodes=nodes, container=container), "--at-start", hidden)
    places = f"{STAND_INS}:{os.environ['PATH']}"
    launching.finish(start(tmp_path / "study", *how, PATH=places, STAND_IN_HIDES=str(tmp_path)))
    launching.check_complete(open_study(tmp_path / "study"), launching.jobs(1))


def test_a_missing_image_is_said_with_the_runtimes_words(launching, start, tmp_path):
    container = {"image": f"{tmp_path}/none.sif", "runtime": "apptainer"}
    places = f"{STAND_INS}:{os.environ['PATH']}"
    launch = start(tmp_path / "study", "--cells", 1, "--settings", settings(container=container), PATH=places)
    _, talk = launch.communicate(timeout=120)
    assert launch.returncode == 2
    assert "workers keep exiting before claiming a cell" in talk
    logs = [path.read_text() for path in (tmp_path / "study" / "logs").rglob("*_log.out")]
    assert any("none.sif: no such file" in text for text in logs)


@pytest.fixture
def pyxis(tmp_path):
    """Slurm with a stand-in for pyxis, compiled here."""
    if not shutil.which("gcc") or not Path("/usr/include/slurm/spank.h").exists():
        pytest.skip("needs gcc and libslurm-dev")
    plugin, stack = tmp_path / "pyxis.so", Path("/etc/slurm/plugstack.conf")
    build = ["gcc", "-shared", "-fPIC", "-o", str(plugin), str(STAND_INS / "pyxis.c")]
    subprocess.run(build, check=True, capture_output=True)
    stack.write_text(f"required {plugin}\n")
    yield
    subprocess.run(["scancel", "--me"], check=False)
    stack.unlink()


@pytest.mark.parametrize("nodes", [1, 2])
def test_workers_and_their_nodes_get_pyxis_its_options(launching, start, tmp_path, image, pyxis, nodes):
    """With a stand-in for pyxis: Slurm takes the options and hands them to every worker and agent."""
    container = {"image": str(image), "runtime": "pyxis", "workdir": "/"}
    mounted = f"{IN_CONTAINER}    assert {str(tmp_path / 'study')!r} in os.environ['STAND_IN_MOUNTS']\n"
    how = ("--cells", 1, "--settings", settings(nodes=nodes, container=container), "--at-start", mounted)
    launching.finish(start(tmp_path / "study", *how))
    launching.check_complete(open_study(tmp_path / "study"), launching.jobs(1))
