"""What a grid's size classes and device determine: resources, micro-batches, hours, precision."""

from pathlib import Path

import pytest
from language_grid import BASE, frame_of

from orch_core.cost import memory_bytes
from orch_core.device import DEVICES
from orch_core.errors import OrchError
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid
from orch_core.grid.columns import cell_of
from orch_core.grid.pricing import with_classes, with_micro_batches
from orch_core.study.draft import draft
from orch_core.study.summary import summary

GRIDS = Path(__file__).parent.parent / "data" / "grids"


def test_size_classes_take_the_first_rule_that_matches(tmp_path: Path):
    frame_of(
        tmp_path,
        (
            "training:",
            (
                "cluster:\n  partition: small\n  sbatch: {mem: 8G}\n  classes:\n"
                "    - {name: big, when: params > 1e5, partition: large, gpus_per_node: 8, sbatch: {constraint: a100}}\n"
                "    - {name: long, when: images > 1000, time: '24:00:00'}\ntraining:"
            ),
        ),
    )
    checked = read_grid(tmp_path / "grid.yaml")
    frame = with_classes(enumerate_cells(checked), checked.grid.cluster)
    for row in frame.iter_rows(named=True):
        expected = "big" if row["params_encoder"] > 1e5 else "long" if row["images"] > 1000 else "default"
        assert row["size_class"] == expected
    found = checked.grid.cluster.resource_classes()
    assert found["big"].partition == "large"
    assert found["big"].sbatch == {"mem": "8G", "constraint": "a100"}
    assert found["long"].partition == "small"
    assert found["long"].time == "24:00:00"


@pytest.mark.parametrize("device", ["V100", "A100", "H200", "CPU"])
def test_a_micro_batch_fits_and_its_double_does_not(device: str):
    checked = read_grid(GRIDS / "vit-family.yaml")
    priced = with_classes(enumerate_cells(checked), checked.grid.cluster)
    frame = with_micro_batches(priced, DEVICES[device])
    room = 0.9 * DEVICES[device].memory_bytes
    for row in frame.unique(["algorithm", "model"]).iter_rows(named=True):
        cell, micro, checkpointing = cell_of(row), row["micro_batch"], row["checkpointing"]
        if micro == 0:
            assert row["memory_bytes"] == memory_bytes(cell, 1, checkpointing=True) > room
            continue
        assert row["batch"] % micro == 0
        assert row["memory_bytes"] == memory_bytes(cell, micro, checkpointing=checkpointing) <= room
        assert micro == row["batch"] or memory_bytes(cell, 2 * micro, checkpointing=checkpointing) > room


def test_the_devices_of_a_cell_share_its_batch_and_its_time(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes = "classes: [{name: big, when: model == 'b', gpus_per_node: 4, nodes: 2}]"
    for cluster in ("cluster: {device: A100", f"cluster: {{device: A100, {classes}"):
        text = BASE.replace("training:", f"{cluster}, usd_per_gpu_hour: 2}}\ntraining:", 1)
        (tmp_path / "grid.yaml").write_text(text)
        plan, _, _ = draft(tmp_path / "grid.yaml", tmp_path / "study")
        by_model = {row["model"]: row for row in plan.frame.iter_rows(named=True)}
        jobs = {job.cell.model.name: job for job in plan.jobs()}
        if "classes" not in cluster:
            alone = by_model
            continue
        big = by_model["b"]
        assert (by_model["a"]["devices"], big["devices"]) == (1, 8)
        assert big["memory_bytes"] < alone["b"]["memory_bytes"]
        assert big["micro_batch"] == alone["b"]["batch"] / 8
        # training takes as many device-hours as on one, at an eighth of the wall time; probes keep all eight
        probing = alone["b"]["hours_probes"]
        assert big["hours_mid"] == pytest.approx(alone["b"]["hours_mid"] + 7 * probing)
        assert jobs["b"].seconds == pytest.approx(3600 * big["hours_mid"] / 8)
        assert summary(plan).usd == pytest.approx(2 * plan.frame["hours_mid"].sum())


def test_a_device_without_the_precision_is_refused_with_those_it_has(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for precision in ("bf16", "fp16"):  # V100: tensor cores of the first generation (NVIDIA's data sheet)
        text = BASE.replace("  batch: 64", f"  batch: 64\n  precision: {precision}")
        (tmp_path / "grid.yaml").write_text(
            text.replace("training:", "cluster: {device: V100}\ntraining:", 1)
        )
        if precision == "fp16":
            assert draft(tmp_path / "grid.yaml", tmp_path / "study")[0].frame.height == 4
            continue
        with pytest.raises(OrchError, match="V100 does not support bf16") as caught:
            draft(tmp_path / "grid.yaml", tmp_path / "study")
        assert caught.value.hint == "set training.precision to fp32 or fp16, or another cluster.device"
