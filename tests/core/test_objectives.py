"""Losses against a second computation from the papers' formulas (reference.py), gradients against its differences."""

import numpy as np
import pytest
import reference
import torch
from learn_cells import make_cell

from orch_core.learn.data import Batch
from orch_core.learn.objectives import Objective, build_objective
from orch_core.learn.randomness import Rows, generator

ARCHITECTURE = {"width": 64, "depth": 2, "heads": 2, "patch": 7, "channels": 3}


def objective_and_inputs(recipe: str, n: int = 6, **fields) -> tuple[Objective, tuple[torch.Tensor, ...]]:
    """A float64 objective whose every parameter is moved off its initial value, and inputs it drew itself."""
    objective = build_objective(make_cell(None, recipe, **ARCHITECTURE, **fields))
    rng = np.random.default_rng(0)
    objective.module.double()
    with torch.no_grad():
        for name, tensor in objective.module.named_parameters():
            if tensor.requires_grad or ("teacher" in name and "pos_embed" not in name):
                tensor += 0.1 * torch.from_numpy(rng.standard_normal(tensor.shape))
        for name, tensor in objective.module.named_buffers():
            if name.endswith("centre"):
                tensor += 0.05 * torch.from_numpy(rng.standard_normal(tensor.shape))  # as logits differ
    batch = Batch(
        images=torch.from_numpy(rng.integers(0, 256, (n, 3, 28, 28)).astype(np.uint8)),
        orientation_free=torch.zeros(n, dtype=torch.bool),
        labels=torch.arange(n) % 3,
    )
    drawn = objective.draw(batch, Rows(generator(1, "test"), slice(None), len(batch)))
    return objective, tuple(x.double() if x.is_floating_point() else x for x in drawn)


def mae_reference(module, inputs, W):
    images, seen, _ = (x.numpy() for x in inputs)
    return reference.mae(images, seen, W, patch=7, heads=2, decoder_heads=1, norm_pixels=module.norm_pixels)


def moco_reference(module, inputs, W):
    return reference.moco(*(x.numpy() for x in inputs), W, patch=7, heads=2, temperature=module.temperature)


def dinov2_reference(module, inputs, W):
    own = {name: module.constants[name] for name in ("student_temperature", "ibot_weight", "koleo_weight")}
    return reference.dinov2(*(x.numpy() for x in inputs[:3]), W, patch=7, heads=2, **own)


def simmim_reference(module, inputs, W):
    return reference.simmim(*(x.numpy() for x in inputs), W, patch=7, heads=2)


def ijepa_reference(module, inputs, W):
    return reference.ijepa(*(x.numpy() for x in inputs), W, patch=7, heads=2, predictor_heads=1)


def supervised_reference(module, inputs, W):
    return reference.supervised(*(x.numpy() for x in inputs), W, patch=7, heads=2)


DINO_V1 = (("ibot_weight", 0.0), ("koleo_weight", 0.0), ("local_crops", 3))
CASES = [
    ("dinov2@1", (("local_crops", 2), ("prototypes", 32)), dinov2_reference),
    ("dinov2@1", (*DINO_V1, ("prototypes", 32)), dinov2_reference),
    ("i-jepa@1", (), ijepa_reference),
    ("simmim@1", (), simmim_reference),
    ("supervised@1", (), supervised_reference),
    ("mae@1", (), mae_reference),
    ("mae@1", (("norm_pixels", False), ("mask_ratio", 0.5)), mae_reference),
    ("moco-v3@1", (), moco_reference),
    ("moco-v3@1", (("temperature", 0.07),), moco_reference),
]


@pytest.mark.parametrize(("recipe", "overrides", "second"), CASES)
def test_loss_equals_the_papers_formula(recipe, overrides, second):
    objective, inputs = objective_and_inputs(recipe, overrides=overrides)
    loss = objective.module(*inputs).item()
    assert loss == pytest.approx(
        second(objective.module, inputs, reference.weights(objective.module)), rel=1e-9
    )


@pytest.mark.parametrize(("recipe", "overrides", "second"), CASES)
def test_gradient_equals_the_differences_of_the_papers_formula(recipe, overrides, second):
    objective, inputs = objective_and_inputs(recipe, overrides=overrides, n=4)
    module = objective.module
    module(*inputs).backward()
    W = reference.weights(module)
    rng = np.random.default_rng(3)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for part in sorted({name.partition(".")[0] for name in trained}):
        names = [name for name in trained if name.partition(".")[0] == part]
        direction = {name: rng.standard_normal(W[name].shape) for name in names}
        predicted = sum((trained[name].grad.numpy() * direction[name]).sum() for name in names)

        def along(step, direction=direction):
            return second(module, inputs, W | {name: W[name] + step * direction[name] for name in direction})

        h = 1e-7
        measured = (along(h) - along(-h)) / (2 * h)
        assert predicted == pytest.approx(measured, rel=1e-5, abs=1e-8), part


@pytest.mark.parametrize("recipe", sorted({case[0] for case in CASES}))
def test_nothing_outside_the_student_gets_a_gradient(recipe):
    objective, inputs = objective_and_inputs(recipe)
    objective.module(*inputs).backward()
    for name, parameter in objective.module.named_parameters():
        frozen = "teacher" in name or not parameter.requires_grad
        assert (parameter.grad is None) == frozen, name
