"""The price and the memory of a plan follow from its GPUs, whoever asks for them: grid, gres, cluster.yaml, command line."""

from dataclasses import replace
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from orch.launchable import launchable
from orch.launching.settings import LaunchOptions
from orch.planning.planner import make_plan
from orch_core.device import DEVICES
from orch_core.errors import OrchError
from orch_core.grid.pricing import repriced
from orch_core.grid.resources import Cluster, ResourceClass, SizeClass
from orch_core.study.draft import draft
from orch_core.study.plan import _cluster
from orch_core.study.summary import summary

GRID = """\
study: priced
sources:
  ct: {path: ct.npz, modality: ct, images: 4000}
tasks:
  task: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
axes:
  model: [{name: a, width: 64, depth: 2}, {name: b, width: 1024, depth: 24}]
  algorithm: [mae@1, random@1]
  images: [100]
  resolution: 224
  patch: 16
  samples_seen: 6400
training:
  batch: 64
probes:
  tasks: [task]
cluster: CLUSTER
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def plan_of(cluster: str = "{device: V100}"):
    Path("grid.yaml").write_text(GRID.replace("CLUSTER", cluster))
    return draft(Path("grid.yaml"))[0]


FOUR = "{device: V100, gpus_per_node: 4}"


@pytest.mark.parametrize("asked", ["gres: 'gpu:v100:4'", "gpus: 4", "gpus-per-task: 4", "gpus_per_node: '4'"])
def test_gpus_cost_the_same_however_they_are_asked_for(asked: str):
    assert_frame_equal(plan_of(f"{{device: V100, sbatch: {{{asked}}}}}").frame, plan_of(FOUR).frame)


def test_the_users_file_reaches_price_and_memory():
    expected = plan_of("{device: V100, gpus_per_node: 4, usd_per_gpu_hour: 3}")
    Path("home/cluster.yaml").write_text("device: V100\nusd_per_gpu_hour: 3\nsbatch: {gres: 'gpu:4'}\n")
    plan = plan_of("{partition: a}")
    assert_frame_equal(plan.frame, expected.frame)
    assert summary(plan).usd == summary(expected).usd > 0
    assert plan.cluster == Cluster(
        partition="a"
    )  # the plan keeps the grid's section, so that the file may change


def test_a_launch_is_priced_for_what_its_command_line_asks_for():
    alone, four = plan_of(), plan_of(FOUR)
    assert_frame_equal(repriced(alone, four.cluster.resource_classes()).frame, four.frame)
    assert_frame_equal(repriced(four, alone.cluster.resource_classes()).frame, alone.frame)
    assert repriced(alone, alone.cluster.resource_classes()) is alone
    with pytest.raises(OrchError, match="3 GPUs cannot share a batch of 64"):
        repriced(alone, {"default": ResourceClass(gpus_per_node=3)})
    _, study = make_plan(Path("grid.yaml"))
    asked = LaunchOptions(cluster="slurm", resources=ResourceClass(sbatch={"gres": "gpu:4"}))
    launched = launchable_without_files(study.root, asked)
    assert launched.frame["devices"].to_list() == [4.0] * 4


def launchable_without_files(root: Path, options: LaunchOptions):
    """The plan that `orch launch` would run if its files were on this machine."""
    import orch.launchable as module

    read = module.read_plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_plan", lambda study: replace(read(study), absent=()))
        return launchable(root, options)[0]


def test_classes_are_priced_apart():
    large = SizeClass(name="large", when="model == 'b'", gpus_per_node=8)
    plan = plan_of("{device: V100, classes: [{name: large, when: model == 'b', gpus_per_node: 2}]}")
    found = repriced(plan, Cluster(classes=[large]).resource_classes())
    assert dict(found.frame.select("model", "devices").unique().iter_rows()) == {"a": 1.0, "b": 8.0}


def test_a_device_brings_its_price_and_the_grids_wins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(DEVICES, "V100", replace(DEVICES["V100"], usd_per_hour=2.5))
    assert plan_of().usd_per_hour == 2.5
    assert plan_of("{device: V100, usd_per_gpu_hour: 0}").usd_per_hour == 0


def test_an_exclusive_job_without_a_number_of_gpus_is_noted():
    assert any(
        "takes every GPU of its node" in note
        for note in plan_of("{device: V100, sbatch: {exclusive: true}}").notes
    )
    assert not any("exclusive" in note for note in plan_of("{sbatch: {exclusive: true}}").notes)


def test_a_rule_that_excludes_nothing_is_noted():
    text = GRID.replace("cluster: CLUSTER", "exclude:\n  - model == 'B'\n  - model == 'b'\n")
    Path("grid.yaml").write_text(text)
    notes = draft(Path("grid.yaml"))[0].notes
    assert [note for note in notes if "exclude" in note] == ["exclude: \"model == 'B'\" matches no cell"]


def test_a_plan_of_an_older_orch_keeps_its_resources():
    plan = plan_of(
        "{device: V100, partition: a, classes: [{name: large, when: model == 'b', gpus_per_node: 2}]}"
    )
    shared = {
        "parallel": 7, "partition": "a", "account": None, "qos": None, "gpus_per_node": None, "nodes": 1, "time": None,
        "cells_per_job": None, "device": "V100", "usd_per_gpu_hour": None, "max_attempts": 3,
        "sbatch": {"mem": "8G", "array": "0-3"},
    }  # fmt: skip
    old = {"classes": {"default": shared, "large": {**shared, "gpus_per_node": 2}}}
    found = _cluster(old)
    assert (found.parallel, found.max_attempts, found.device) == (7, 3, "V100")
    wanted = {
        name: asked.options() | {"mem": "8G"} for name, asked in plan.cluster.resource_classes().items()
    }
    assert {name: asked.options() for name, asked in found.resource_classes().items()} == wanted
