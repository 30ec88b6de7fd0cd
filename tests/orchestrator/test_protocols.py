"""Probing protocols in a grid: which probes a plan has, and what they cost."""

from pathlib import Path

import polars as pl
import pytest
from learn_cells import write_images

from orch_core.errors import GridError
from orch_core.grid.check import read_grid
from orch_core.protocols import protocol_named
from orch_core.protocols.protocol import TaskSize
from orch_core.recipes import pixels
from orch_core.study.draft import draft

GRID = """\
study: protocols
sources:
  bars: {path: bars.npz, modality: x-ray}
axes:
  model: {name: a, width: 64, depth: 2}
  algorithm: [random@1, pixels@1]
  images: 64
  resolution: 28
  patch: 7
  samples_seen: 64
training:
  batch: 16
"""


def drafted(folder: Path, probes: str = "", side: int = 28):
    write_images(folder / "bars.npz", side=side)
    (folder / "grid.yaml").write_text(GRID + probes, encoding="utf-8")
    return draft(folder / "grid.yaml", folder / f"study-{side}")[0]


def test_a_grid_has_every_task_by_every_protocol_and_linear_probes_keep_their_ids(tmp_path: Path):
    plain = drafted(tmp_path).probes
    both = drafted(tmp_path, "probes: {protocol: [linear@1, knn@1]}\n").probes
    assert [probe.protocol for probe in plain] == ["linear@1"]
    assert [(probe.task, probe.protocol) for probe in both] == [("bars", "linear@1"), ("bars", "knn@1")]
    assert both[0] == plain[0]
    assert both[0].id == plain[0].id != both[1].id


def test_an_unknown_protocol_is_named_at_its_place(tmp_path: Path):
    write_images(tmp_path / "bars.npz")
    (tmp_path / "grid.yaml").write_text(GRID + "probes: {protocol: [linear@1, knn@2]}\n", encoding="utf-8")
    with pytest.raises(GridError, match=r"unknown protocol 'knn@2' - did you mean 'knn@1'\?") as caught:
        read_grid(tmp_path / "grid.yaml")
    assert caught.value.problems[0].line == GRID.count("\n") + 1


def test_a_probe_costs_what_its_protocol_computes(tmp_path: Path):
    hours = {
        name: drafted(tmp_path, f"probes: {{protocol: {name}}}\n").frame.filter(
            pl.col("recipe") == "random@1"
        )
        for name in ("linear@1", "knn@1", "[linear@1, knn@1]")
    }
    linear, knn, both = (frame["hours_probes"].item() for frame in hours.values())
    size = TaskSize(train=96, val=40, test=60, classes=2)
    solver = {name: protocol_named(name).cost(size).solver_flops * 64 for name in ("linear@1", "knn@1")}
    encoder = 196 * hours["linear@1"]["flops_forward"].item()
    assert knn / linear == pytest.approx((encoder + solver["knn@1"]) / (encoder + solver["linear@1"]))
    assert both == pytest.approx(
        linear + knn - knn * encoder / (encoder + solver["knn@1"])
    )  # one pass for both


def test_the_raw_pixel_control_is_priced_in_memory_and_time(tmp_path: Path):
    found = {}
    for side in (28, 112):
        frame = drafted(tmp_path, side=side).frame.filter(pl.col("recipe") == "pixels@1")
        found[side] = frame.select("memory_bytes", "hours_probes").row(0)
        assert found[side][0] == pixels.projection_bytes(96, 196, side * side, 100)
    assert found[112][0] > found[28][0] > 0
    assert found[112][1] > found[28][1] > 0


def test_training_protocols_are_priced_by_their_passes_and_epochs(tmp_path: Path):
    """By hand: fine-tuning is 50 epochs of 3 passes on train and 1 on val; attention is linear in the tokens."""
    size = TaskSize(train=1000, val=200, test=300, classes=5)
    assert protocol_named("finetune@1").cost(size).encoder_images == 50 * (3 * 1000 + 200) + 500
    attentive = protocol_named("attentive@1").cost(size)
    assert attentive.token_flops == 60 * (3 * 1000 + 200) * 32 * 4
    assert attentive.encoder_images == 1500
    assert protocol_named("biovfm-linear@1").cost(size).solver_flops == 100 * (3 * 1000 + 200) * 2 * 5
    assert protocol_named("fewshot@1").cost(size).solver_flops == 5 * 100 * 5 * 500 * 2 * 2
    hours = {
        name: drafted(tmp_path, f"probes: {{protocol: {name}}}\n").frame.filter(
            pl.col("recipe") == "random@1"
        )
        for name in ("knn@1", "attentive@1", "finetune@1")
    }
    knn, attentive, finetune = (frame["hours_probes"].item() for frame in hours.values())
    assert knn < attentive < finetune
    forward = hours["knn@1"]["flops_forward"].item()
    solver = protocol_named("knn@1").cost(TaskSize(train=96, val=40, test=60, classes=2)).solver_flops * 64
    expected = (196 + 50 * (3 * 96 + 40) + 100) * forward / (196 * forward + solver)
    assert finetune / knn == pytest.approx(expected)
