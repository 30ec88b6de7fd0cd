"""What a job asks for: merged from the user's file, the grid and the command line, and how many GPUs that makes."""

import pytest
from pydantic import ValidationError

from orch_core.grid.resources import Cluster, ResourceClass, SizeClass, minutes_of


@pytest.mark.parametrize(
    ("asked", "gpus", "devices"),  # as sbatch's manual counts them
    [
        ({}, 0, 1),
        ({"nodes": 3}, 0, 3),
        ({"gpus_per_node": 4, "nodes": 2}, 8, 8),
        ({"gpus_per_node": 4, "cells_per_job": 8}, 4, 0.5),
        ({"gpus_per_node": 0}, 0, 1),
        ({"sbatch": {"gres": "gpu:4"}}, 4, 4),
        ({"sbatch": {"gres": "gpu"}}, 1, 1),
        ({"sbatch": {"gres": "gpu:a100:4(S:0-1),shard:2"}, "nodes": 2}, 8, 8),
        ({"sbatch": {"gres": "nvme:1"}}, 0, 1),
        ({"sbatch": {"gpus": 8}, "nodes": 2}, 8, 8),
        ({"sbatch": {"gpus": "a100:2,v100:2"}}, 4, 4),
        ({"sbatch": {"G": 2}}, 2, 2),
        ({"sbatch": {"gpus-per-node": "h100:2", "nodes": "2-4"}}, 4, 4),
        ({"sbatch": {"gpus_per_node": "2"}}, 2, 2),
        ({"sbatch": {"gpus-per-task": 1, "ntasks": 4}}, 4, 4),
        ({"sbatch": {"gpus-per-task": 2, "ntasks-per-node": 2, "nodes": 2}}, 8, 8),
    ],
)
def test_gpus_follow_from_whichever_option_asks_for_them(asked, gpus, devices):
    one = ResourceClass(**asked)
    assert (one.gpus, one.devices) == (gpus, devices)


def test_a_request_for_gpus_replaces_the_one_below_it():
    below = ResourceClass(gpus_per_node=4, sbatch={"mem": "8G", "exclusive": True})
    above = ResourceClass(sbatch={"gres": "gpu:2"}).over(below)
    assert above.options() == {"mem": "8G", "exclusive": True, "gres": "gpu:2"}
    assert ResourceClass(gpus_per_node=1).over(above).options() == {
        "gpus-per-node": 1,
        "mem": "8G",
        "exclusive": True,
    }


def test_an_option_has_one_place_however_it_is_written():
    one = ResourceClass(
        sbatch={"p": "a", "--time": "60", "nodes": 2, "gpus_per_node": 3, "mem_per_cpu": "2G"}
    )
    assert (one.partition, one.time, one.nodes, one.gpus_per_node) == ("a", "60", 2, 3)
    assert one.sbatch == {"mem-per-cpu": "2G"}
    assert ResourceClass(sbatch={"partition": "new"}).over(one).options()["partition"] == "new"


def test_a_class_changes_what_the_cluster_asks_of_all_and_the_users_file_fills_what_is_open():
    large = SizeClass(name="large", when="params > 1", partition="big", sbatch={"mem": "64G"})
    grid = Cluster(time="90", sbatch={"mem": "8G"}, classes=[large])
    user = Cluster(
        partition="mine", account="lab", time="30", parallel=5, device="H100", usd_per_gpu_hour=2.0
    )
    merged = grid.with_defaults(user)
    assert (merged.parallel, merged.device, merged.usd_per_gpu_hour) == (5, "H100", 2.0)
    classes = merged.resource_classes()
    assert classes["default"].options() == {
        "partition": "mine", "account": "lab", "time": "90", "nodes": 1, "mem": "8G",
    }  # fmt: skip
    assert classes["large"].options() == classes["default"].options() | {"partition": "big", "mem": "64G"}
    assert Cluster.model_validate(merged.model_dump(exclude_none=True)) == merged


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"array": "0-3"}, "orch sets"),
        ({"output": "x.log"}, "orch sets"),
        ({"job-name": "a b"}, "orch sets"),
        ({"signal": "B:USR2@600"}, "orch sets"),
        ({"comment": "a\nb"}, "one line"),
        ({"a b": 1}, "not the long name"),
        ({"time": "0"}, "0 minutes"),
        ({"time": "soon"}, "minutes, HH:MM:SS"),
        ({"partition": "a\nb"}, "one line"),
    ],
)
def test_an_option_that_would_break_a_job_is_refused(option, words):
    with pytest.raises(ValidationError, match=words):
        ResourceClass(sbatch=option)


def test_times_are_those_of_sbatchs_manual():
    times = {
        90: 90,
        "90": 90,
        "1:30": 2,
        "12:00:00": 720,
        "2-00": 2880,
        "1-01:30": 1530,
        "UNLIMITED": float("inf"),
    }
    assert {time: ResourceClass(time=time).minutes for time in times} == times
    assert minutes_of("0:30", exact=True) == 0.5
