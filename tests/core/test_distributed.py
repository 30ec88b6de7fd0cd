"""A cell's numbers do not depend on the number of processes, on micro-batches, or on what is computed again: but for rounding."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_driver import drops, save_gradients
from learn_cells import TRAINED, make_cell, write_images
from safetensors.torch import load_file

from orch_core.errors import OrchError
from orch_core.learn import MemoryPlan, ledger, pretrain, pretraining, step

DRIVER = Path(__file__).parent / "distributed_driver.py"


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "bars.npz")


@pytest.fixture(scope="module")
def whole(bars, tmp_path_factory):
    """Results of one process with the whole batch at once, and where they are."""
    folder = tmp_path_factory.mktemp("whole")
    values = {}
    for recipe in TRAINED:
        cell = make_cell(bars, recipe, samples=96, overrides=drops(recipe))
        values[recipe] = dict(pretrain(cell, folder / recipe).values)
        save_gradients(cell, folder / recipe)
    return folder, values


def run_processes(folder, path, *words, world=2):
    """What rank 0 of `world` processes prints."""
    done = subprocess.run(
        [sys.executable, DRIVER, folder, path, str(world), *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def same(folder, values, other_folder, other_values):
    """Results within what single precision lets six steps of Adam differ.

    Biases before a softmax or a norm have no gradient but rounding, which Adam makes large.
    """
    for recipe, expected in values.items():
        assert other_values[recipe] == pytest.approx(expected, rel=2e-3, abs=2e-5), recipe
        mine, theirs = (load_file(place / recipe / "encoder.safetensors") for place in (folder, other_folder))
        for name, tensor in mine.items():
            if not name.endswith("bias"):
                torch.testing.assert_close(theirs[name], tensor, rtol=5e-3, atol=5e-4, msg=f"{recipe} {name}")


def same_gradients(folder, other_folder):
    for recipe in TRAINED:
        mine, theirs = (
            load_file(place / recipe / "gradients.safetensors") for place in (folder, other_folder)
        )
        assert mine.keys() == theirs.keys()
        largest = max(float(gradient.abs().max()) for gradient in mine.values())
        for name, gradient in mine.items():
            scale = max(float(gradient.abs().max()), 1e-3 * largest)
            torch.testing.assert_close(
                theirs[name] / scale, gradient / scale, rtol=0, atol=1e-3, msg=f"{recipe} {name}"
            )


def test_processes_give_the_numbers_of_one(bars, whole, tmp_path):
    same(*whole, tmp_path, run_processes(tmp_path, bars, "shared", world=4))
    same_gradients(whole[0], tmp_path)


def test_divided_parameters_give_them_too_when_one_process_stops_all_and_they_resume(bars, whole, tmp_path):
    same(*whole, tmp_path, run_processes(tmp_path, bars, "divided", "3", world=2))
    same_gradients(whole[0], tmp_path)
    for recipe in TRAINED:
        rows = [json.loads(line) for line in (tmp_path / recipe / "metrics.ndjson").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, 7))


@pytest.mark.parametrize("memory_plan", [MemoryPlan(micro_batch=5), MemoryPlan(checkpointing=True)], ids=str)
def test_saving_memory_changes_no_number(bars, whole, tmp_path, memory_plan):
    values = {}
    for recipe in TRAINED:
        cell = make_cell(bars, recipe, samples=96, overrides=drops(recipe))
        result = pretrain(cell, tmp_path / recipe, memory_plan=memory_plan)
        values[recipe] = dict(result.values)
        assert result.cost["micro_batch"] == (memory_plan.micro_batch or 16)
        save_gradients(cell, tmp_path / recipe, memory_plan)
    same(*whole, tmp_path, values)
    same_gradients(whole[0], tmp_path)


@pytest.mark.parametrize("recipe", TRAINED)
def test_saving_memory_saves_memory(bars, tmp_path, recipe):
    """Bytes that autograd keeps from the forward pass, each storage once."""
    cell = make_cell(bars, recipe, width=64, depth=4, samples=32, batch=32)

    def kept(memory_plan):
        run = pretraining._start(cell, tmp_path / "x", None, memory_plan)
        inputs = pretraining._first_inputs(run)
        sizes, most = {}, [0]

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            most[0] = max(most[0], sum(sizes.values()))
            return tensor

        original = torch.Tensor.backward

        def backward(loss, *rest, **words):
            original(loss, *rest, **words)
            sizes.clear()

        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(torch.Tensor, "backward", backward)
            run.gradient_step.gradients(inputs)
        return most[0]

    assert kept(MemoryPlan(micro_batch=4)) < 0.6 * kept(MemoryPlan())
    assert kept(MemoryPlan(checkpointing=True)) < 0.6 * kept(MemoryPlan())


def test_if_memory_is_short_the_micro_batch_is_halved_and_the_run_continues(
    bars, whole, tmp_path, monkeypatch
):
    """The allocator itself refuses: the device has room for the activations of six images."""
    original, sizes = step.Step.gradients, []

    def scarce(self, inputs, *rest):
        sizes.append(self.memory_plan.micro_batch or len(inputs[0]))
        if sizes[-1] > 6:
            torch.empty(1 << 60)
        return original(self, inputs, *rest)

    monkeypatch.setattr(step.Step, "gradients", scarce)
    result = pretrain(make_cell(bars, "mae@1", samples=96), tmp_path)
    assert sizes[:3] == [16, 8, 4]
    assert result.cost["micro_batch"] == 4
    assert dict(result.values) == pytest.approx(whole[1]["mae@1"], rel=2e-4)


def test_an_image_that_does_not_fit_is_reported(bars, tmp_path, monkeypatch):
    monkeypatch.setattr(step.Step, "gradients", lambda *_: torch.empty(1 << 60))
    with pytest.raises(OrchError, match="one image at a time"):
        pretrain(make_cell(bars, "mae@1", samples=96), tmp_path)


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(step.distributed, "world", lambda: 3)
    with pytest.raises(OrchError, match="3 processes cannot share a batch of 16"):
        step.rows_here(16)


def test_fp16_trains_with_a_scaled_loss(bars, whole, tmp_path):
    half = pretrain(make_cell(bars, "mae@1", samples=96, precision="fp16"), tmp_path)
    assert half.values["heldout_loss"] == pytest.approx(whole[1]["mae@1"]["heldout_loss"], rel=0.02)
    assert half.values["heldout_loss"] != whole[1]["mae@1"]["heldout_loss"]


@pytest.mark.parametrize("recipe", TRAINED)
def test_runs_of_two_lengths_share_their_trunk_to_the_bit(bars, tmp_path, recipe):
    schedule = (("cooldown", 0.25), ("warmup_samples", 32))
    short, long = (make_cell(bars, recipe, samples=samples, overrides=schedule) for samples in (128, 256))
    alone = pretrain(long, tmp_path / "alone")
    pretrain(short, tmp_path / "short", trunks=tmp_path / "trunks")
    steps = []
    shared = pretrain(
        long, tmp_path / "long", trunks=tmp_path / "trunks", should_stop=lambda: bool(steps.append(1))
    )
    assert len(steps) == 16 - 6  # the short run's cool-down began after 6 of 8
    assert shared.values == alone.values
    assert (tmp_path / "long/encoder.safetensors").read_bytes() == (
        tmp_path / "alone/encoder.safetensors"
    ).read_bytes()
    rows = [json.loads(line)["step"] for line in (tmp_path / "long/metrics.ndjson").read_text().splitlines()]
    assert rows == list(range(1, 17))


def test_compiled_blocks_share_graphs_and_give_the_same_numbers(bars, tmp_path):
    """torch compiles eight graphs of one function at most: blocks must not differ but in their parameters."""
    no_koleo = ("koleo_weight", 0.0)  # the logarithm of untrained features' tiny distances is all rounding
    cell = make_cell(bars, "dinov2@1", depth=6, samples=32, overrides=(*drops("dinov2@1"), no_koleo))

    def losses():
        run = pretraining._start(cell, tmp_path, None, pretraining.WHOLE)
        if compiled:
            ledger.compiled(run.objective.module, torch.device("cuda"))
        return [run.gradient_step(step, pretraining._first_inputs(run)).item() for step in range(2)]

    compiled = False
    expected = losses()
    compiled = True
    torch._dynamo.utils.counters.clear()
    assert losses() == pytest.approx(expected, rel=1e-5)
    assert torch._dynamo.utils.counters["frames"]["ok"] <= 6
    assert not torch._dynamo.utils.counters["graph_break"]


def test_a_run_continues_with_another_number_of_processes(bars, whole, tmp_path):
    run_processes(tmp_path, bars, "shared", "3", "leave", world=2)
    values = {}
    for recipe in TRAINED:
        cell = make_cell(bars, recipe, samples=96, overrides=drops(recipe))
        values[recipe] = dict(pretrain(cell, tmp_path / recipe).values)
    same(*whole, tmp_path, values)


def test_energy_is_the_difference_of_the_package_counters(tmp_path, monkeypatch):
    """As the kernel's powercap documentation lays them out; core domains are parts of packages."""
    monkeypatch.setattr(ledger, "RAPL", tmp_path)
    for name, microjoules in (
        ("intel-rapl:0", 5_000_000),
        ("intel-rapl:1", 7_000_000),
        ("intel-rapl:0:0", 10**9),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")
    meter = ledger.Meter(torch.device("cpu"))
    (tmp_path / "intel-rapl:1/energy_uj").write_text("9500000\n")
    assert meter.read() == {"energy_joules": 2.5}
    (tmp_path / "intel-rapl:1/energy_uj").write_text("1\n")  # the counter has wrapped around
    assert meter.read() == {}
