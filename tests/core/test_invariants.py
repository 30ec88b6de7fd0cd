"""What must hold of each algorithm whatever its weights (Chen et al. 2021; He et al. 2022)."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from learn_cells import TRAINED, make_cell, write_images
from test_objectives import objective_and_inputs
from torch import nn

from orch_core.cost import price
from orch_core.errors import OrchError
from orch_core.learn.data import pretraining_set
from orch_core.learn.encoders import build_encoder, encode, patchify, positions
from orch_core.learn.masks import block_masks, square_order
from orch_core.learn.objectives import Progress, build_objective
from orch_core.learn.objectives.dinov2 import distillation, koleo
from orch_core.learn.objectives.mae import normalised
from orch_core.learn.schedule import build_optimiser, cosine, schedule_of, set_schedule
from orch_core.recipes import constants, trunk


def at(progress):
    """So far a run without cool-down is."""
    return Progress(early=progress, late=progress)


def test_mae_encoder_does_not_depend_on_masked_pixels_and_does_on_visible_ones():
    objective, (images, seen, masked) = objective_and_inputs("mae@1")
    images.requires_grad_()
    encode(objective.encoder, patchify(images, 7), seen).square().sum().backward()
    gradient = patchify(images.grad, 7).abs().sum(2)
    assert (gradient.gather(1, masked) == 0).all()
    assert (gradient.gather(1, seen) > 0).all()


def test_mae_masks_the_papers_share_of_every_image():
    _, (_, seen, masked) = objective_and_inputs("mae@1")
    assert seen.shape[1] == 16 // 4
    assert (torch.cat([seen, masked], 1).sort(1).values == torch.arange(16)).all()
    assert len({tuple(row.tolist()) for row in seen}) > 1


def test_mae_target_ignores_brightness_and_contrast_of_a_masked_patch():
    objective, (images, seen, masked) = objective_and_inputs("mae@1")
    before = objective.module(images, seen, masked)
    changed = images.clone()
    for row, index in enumerate(masked[:, 0].tolist()):
        top, left = 7 * (index // 4), 7 * (index % 4)
        changed[row, :, top : top + 7, left : left + 7] = (
            3 * changed[row, :, top : top + 7, left : left + 7] + 5
        )
    torch.testing.assert_close(objective.module(changed, seen, masked), before, rtol=1e-4, atol=0)


def test_mae_normalises_with_the_unbiased_variance():
    patches = np.random.default_rng(0).normal(size=(2, 3, 49))
    expected = (patches - patches.mean(-1, keepdims=True)) / np.sqrt(
        patches.var(-1, ddof=1, keepdims=True) + 1e-6
    )
    np.testing.assert_allclose(normalised(torch.from_numpy(patches)).numpy(), expected, rtol=1e-12)


def test_mae_loss_does_not_depend_on_the_order_of_tokens():
    objective, (images, seen, masked) = objective_and_inputs("mae@1")
    torch.testing.assert_close(
        objective.module(images, seen.flip(1), masked.roll(3, 1)), objective.module(images, seen, masked)
    )


def test_encoding_all_patches_equals_timms_forward_pass():
    encoder = build_encoder(make_cell(None, width=64, depth=2, heads=2, patch=4, channels=3))
    images = torch.rand(3, 3, 28, 28)
    torch.testing.assert_close(encode(encoder, patchify(images, 4)), encoder.forward_features(images))


@pytest.mark.parametrize("recipe", TRAINED)
def test_every_layer_norm_has_the_official_epsilon(recipe):
    module = build_objective(make_cell(None, recipe)).module
    assert {part.eps for part in module.modules() if isinstance(part, nn.LayerNorm)} == {1e-6}


def test_positions_of_neighbours_are_closer_than_of_strangers():
    grid = positions(64, 5)[0, 1:].reshape(5, 5, 64)
    near, far = (grid[2, 2] - grid[2, 3]).norm(), (grid[2, 2] - grid[0, 0]).norm()
    assert near < far
    assert (positions(64, 5)[0, 0] == 0).all()


def test_moco_is_symmetric_in_its_views():
    objective, (first, second) = objective_and_inputs("moco-v3@1")
    torch.testing.assert_close(objective.module(first, second), objective.module(second, first))


def test_moco_loss_of_useless_features_is_the_logarithm_of_the_batch():
    objective, (first, second) = objective_and_inputs("moco-v3@1")
    with torch.no_grad():
        for parameter in objective.module.predictor[0].parameters():
            parameter.zero_()
        objective.module.predictor[3].weight.zero_()
    n, tau = len(first), objective.module.temperature
    # all queries are one vector, so each key is as likely as the mean over keys: at least log n, and close to it
    loss = objective.module(first, second).item() / (2 * tau)
    assert loss == pytest.approx(2 * math.log(n), rel=1e-6)


def test_moco_teacher_is_the_closed_form_average_of_past_students():
    objective, _ = objective_and_inputs("moco-v3@1")
    module = objective.module
    student = [*module.encoder.parameters(), *module.projector.parameters()]
    teacher = [*module.teacher_encoder.parameters(), *module.teacher_projector.parameters()]
    expected = [t.clone() for t in teacher]
    rng, momenta = np.random.default_rng(0), [0.9, 0.99, 0.5]
    for momentum in momenta:
        with torch.no_grad():
            for parameter in student:
                if parameter.requires_grad:
                    parameter += torch.from_numpy(rng.standard_normal(parameter.shape))
        module.update_teacher(momentum)
        expected = [
            momentum * e + (1 - momentum) * s.detach() for e, s in zip(expected, student, strict=True)
        ]
    for got, wanted in zip(teacher, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_moco_teacher_moves_before_its_keys_are_taken():
    objective, inputs = objective_and_inputs("moco-v3@1")
    before = objective.module(*inputs).item()
    objective.before_step(at(0.0))
    after = objective.module(*inputs).item()
    assert before != after


def test_moco_momentum_runs_from_its_start_to_one():
    assert cosine(0, 0.99, 1) == pytest.approx(0.99)
    assert cosine(1, 0.99, 1) == 1
    assert cosine(0.5, 0.99, 1) == pytest.approx(0.995)


def test_moco_patch_embedding_is_frozen_at_the_papers_sizes():
    for width, frozen in ((384, True), (192, False)):
        encoder = build_objective(make_cell(None, "moco-v3@1", width=width, heads=width // 64)).encoder
        assert [p.requires_grad for p in encoder.patch_embed.parameters()] == [not frozen] * 2


@pytest.mark.parametrize("recipe", TRAINED)
def test_biases_and_norms_do_not_decay_and_every_trained_parameter_is_optimised(recipe):
    cell = make_cell(None, recipe)
    objective = build_objective(cell)
    module, optimiser = objective.module, build_optimiser(objective, constants(cell))
    set_schedule(optimiser, schedule_of(10, 16, constants(cell)), 5)
    groups = optimiser.param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    optimised = {id(p) for group in groups for p in group["params"]}
    for name, parameter in module.named_parameters():
        assert (id(parameter) in optimised) == parameter.requires_grad, name
        if parameter.requires_grad:
            assert (id(parameter) in decayed) == (parameter.ndim > 1), name


def test_the_learning_rate_warms_up_and_falls_to_zero():
    values = {"lr": 1.0, "warmup": 0.1, "cooldown": 0.0, "warmup_samples": 0}
    rates = [schedule_of(100, 16, values).rate(step) for step in range(101)]
    assert rates[9] == rates[10] == 1.0
    assert all(b > a for a, b in pairwise(rates[:10]))
    assert all(b < a for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_runs_that_differ_in_length_alone_do_the_same_up_to_their_cooldowns():
    """And in it the rate falls as 1 - sqrt(share), as in equation 1 of Haegele et al. 2024."""
    values = {"lr": 1.0, "warmup": 0.1, "cooldown": 0.2, "warmup_samples": 160}
    short, long = (schedule_of(steps, 16, values) for steps in (100, 200))
    assert (short.warm, short.branch, long.branch) == (10, 80, 160)
    for step in range(80):
        assert (short.rate(step), short.progress(step)) == (long.rate(step), long.progress(step))
    assert [short.rate(80 + fallen) for fallen in (0, 5, 20)] == [1.0, 0.5, 0.0]
    assert short.progress(100).late == long.progress(200).late == 1
    assert long.progress(159).late == 0


def test_what_runs_share_is_their_trunk():
    sections = (("cooldown", 0.2), ("warmup_samples", 32))
    cell = make_cell(None, samples=160, overrides=sections)
    assert trunk(cell) == trunk(replace(cell, samples_seen=320))
    assert trunk(cell) == trunk(replace(cell, overrides=(("cooldown", 0.5), ("warmup_samples", 32))))
    others = ({"seed": 1}, {"batch": 32}, {"recipe": "simmim@1"}, {"precision": "bf16"})
    assert len({trunk(cell), *(trunk(replace(cell, **other)) for other in others)}) == 5
    for alone in ((), (("cooldown", 0.2),), (("warmup_samples", 32),)):
        assert trunk(replace(cell, overrides=alone)) == ""


def test_dino_compares_no_crop_with_itself_and_every_other_pair():
    n, k = 3, 5
    targets = torch.rand(2 * n, k, dtype=torch.float64).softmax(1)
    pairs = set()
    for crop in range(10):
        logs = torch.zeros(10 * n, k, dtype=torch.float64, requires_grad=True)
        distillation(logs, targets).backward()
        got = (
            -logs.grad.view(10, n, k)[crop] * 18 * n
        )  # the sum of the teacher's crops that this crop is compared with
        both = targets.view(2, n, k)
        for name, wanted in {"both": both.sum(0), "second": both[1], "first": both[0]}.items():
            if torch.allclose(got, wanted):
                pairs.add((crop, name))
    assert pairs == {(0, "second"), (1, "first"), *((crop, "both") for crop in range(2, 10))}


def test_dino_centres_of_this_step_are_those_of_the_steps_before():
    objective, inputs = objective_and_inputs("dinov2@1")
    module, before = objective.module, objective.module.class_centre.clone()
    loss = module(*inputs).item()
    assert torch.equal(module.class_centre, before)
    mean = module.means[0]
    objective.after_step(at(0.0))
    torch.testing.assert_close(module.class_centre, 0.9 * before + 0.1 * mean)
    assert module(*inputs).item() != loss


def test_dino_teacher_follows_the_student_by_its_momentum():
    objective, inputs = objective_and_inputs("dinov2@1")
    module = objective.module
    module(*inputs)
    before, student = module.teacher_head.prototypes.clone(), module.head.prototypes
    objective.after_step(at(0.0))
    torch.testing.assert_close(module.teacher_head.prototypes, 0.992 * before + 0.008 * student)
    objective.after_step(at(1.0))
    torch.testing.assert_close(module.teacher_head.prototypes, 0.992 * before + 0.008 * student)


def test_dino_teacher_temperature_warms_from_its_start():
    objective, _ = objective_and_inputs("dinov2@1")
    temperatures = []
    for progress in (0.0, 0.15, 0.3, 1.0):
        objective.before_step(at(progress))
        temperatures.append(objective.module.temperature.item())
    assert temperatures == pytest.approx([0.04, 0.055, 0.07, 0.07], abs=1e-6)


def test_dino_student_sees_all_crops_and_masks_fall_on_its_global_ones_alone():
    _, (crops, masked, small, where) = objective_and_inputs("dinov2@1", n=6)
    assert where.tolist() == masked.flatten().nonzero()[:, 0].tolist()
    assert (len(crops), len(small), small.shape[-1]) == (12, 48, 14)
    assert (masked.any(1).sum(), masked.shape) == (6, (12, 16))


def test_dino_masks_cover_exactly_the_requested_share():
    rng = np.random.default_rng(0)
    counts = np.array([0, 1, 3, 5, 8, 16, 100])
    for side in (10, 14):
        assert (block_masks(counts, side, rng).sum(1) == counts).all()
    whole = block_masks(np.array([60]), 14, rng).reshape(14, 14)
    neighbours = (whole[1:] & whole[:-1]).sum() + (whole[:, 1:] & whole[:, :-1]).sum()
    assert neighbours > 60  # blocks: scattered patches have 60 x 60 / 196 x 4 / 2 = 37 pairs of neighbours


def test_i_jepa_context_and_targets_share_no_patch_and_blocks_share_their_size():
    _, (_, seen, targets) = objective_and_inputs("i-jepa@1", n=6)
    assert (seen.shape, targets.shape) == ((6, 16 - 4 * 2), (6, 4, 2))
    for row, blocks in zip(seen, targets, strict=True):
        assert not set(row.tolist()) & set(blocks.flatten().tolist())
        assert len(set(row.tolist())) == 8
    assert len({tuple(blocks.flatten().tolist()) for blocks in targets}) > 1  # each image has its own places
    rows = [{(patch // 4) for patch in block} for block in targets.flatten(0, 1).tolist()]
    assert len({len(row) for row in rows}) == 1


def test_i_jepa_target_is_the_whole_images_and_the_student_sees_the_context_alone():
    objective, (images, seen, targets) = objective_and_inputs("i-jepa@1")
    images.requires_grad_()
    objective.module(images, seen, targets).backward()
    gradient = patchify(images.grad, 7).abs().sum(2)
    assert (gradient.gather(1, seen) > 0).all()
    hidden = torch.ones_like(gradient).scatter(1, seen, 0.0)
    assert (gradient * hidden == 0).all()


def test_i_jepa_teacher_follows_along_a_line_to_one():
    objective, _ = objective_and_inputs("i-jepa@1")
    for progress, momentum in ((0.0, 0.996), (0.5, 0.998), (1.0, 1.0)):
        teacher, student = (
            part.cls_token.clone() for part in (objective.module.teacher_encoder, objective.encoder)
        )
        objective.after_step(at(progress))
        expected = momentum * teacher + (1 - momentum) * student
        torch.testing.assert_close(objective.module.teacher_encoder.cls_token, expected)


def test_i_jepa_refuses_a_grid_without_room_for_a_context():
    with pytest.raises(OrchError, match="leave no context of 2 x 2 patches"):
        price(make_cell(None, "i-jepa@1", patch=14))


def test_simmim_masks_whole_squares_and_hides_their_pixels():
    objective, (images, hidden) = objective_and_inputs("simmim@1")
    assert hidden.shape[1] == 10  # 0.6 x 16
    order = square_order(5, 7, 2, np.random.default_rng(0))
    for row in order:
        first = {(patch // 7 // 2, patch % 7 // 2) for patch in row[:4].tolist()}
        assert len(first) <= 2  # a square of four, or of those at the border and the start of the next
    images.requires_grad_()
    tokens = objective.module.encoder
    replaced = torch.zeros(len(images), 16, dtype=torch.bool).scatter(1, hidden, value=True)
    encode(
        tokens, patchify(images, 7), replaced=replaced, token=objective.module.mask_token
    ).square().sum().backward()
    gradient = patchify(images.grad, 7).abs().sum(2)
    assert (gradient[replaced] == 0).all()
    assert (gradient[~replaced] > 0).all()


def test_supervised_labels_of_sources_do_not_collide(tmp_path):
    a, b = write_images(tmp_path / "a.npz", classes=4), write_images(tmp_path / "b.npz", classes=2, train=80)
    cell = make_cell(a, "supervised@1")
    other = make_cell(b, "supervised@1").data[0]
    labels = pretraining_set(replace(cell, data=(cell.data[0], replace(other, source="b")))).labels
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3, 4, 5]


def test_drop_path_drops_branches_by_each_images_numbers():
    """Each image's features are those of an encoder whose branches are removed or scaled by hand."""
    cell = make_cell(None, "dinov2@1", depth=2, overrides=(("drop_path", 0.5), ("layer_scale", 1.0)))
    encoder = build_encoder(cell, drop_path=0.5).double()
    images = torch.rand(4, 16, 49, dtype=torch.float64)
    uniform = torch.tensor(
        [[0.9, 0.1, 0.9, 0.9], [0.9, 0.9, 0.1, 0.9], [0.1, 0.9, 0.9, 0.1], [0.9, 0.9, 0.1, 0.1]]
    )
    got = encode(encoder, images, uniform=uniform)
    rates = [
        0.0,
        0.0,
        0.5,
        0.5,
    ]  # two branches a block, along a line from 0 to the rate (Huang et al. 2016, section 3)
    for row, (image, numbers) in enumerate(zip(images, uniform, strict=True)):
        changed = copy.deepcopy(encoder)
        for branch, rate in enumerate(rates):
            scale = changed.blocks[branch // 2].ls1 if branch % 2 == 0 else changed.blocks[branch // 2].ls2
            scale.gamma.data.mul_(0.0 if numbers[branch] < rate else 1 / (1 - rate))
        torch.testing.assert_close(got[row], encode(changed, image[None])[0])
    torch.testing.assert_close(encode(encoder, images), encode(copy.deepcopy(encoder), images))


def test_koleo_pushes_apart_the_nearest():
    points = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.2]], dtype=torch.float64, requires_grad=True)
    koleo(points).backward()
    moved = (points - 0.01 * points.grad).detach()
    angle = torch.atan2(points[:, 1], points[:, 0]).detach()
    assert (
        (torch.atan2(moved[:, 1], moved[:, 0]) - angle)[1]
        > 0
        > (torch.atan2(moved[:, 1], moved[:, 0]) - angle)[0]
    )


def test_dino_rates_fall_towards_the_pixels_and_prototypes_rest_first():
    large = (("layer_decay", 0.9), ("patch_embed_rate", 0.2))
    cell = make_cell(None, "dinov2@1", depth=2, overrides=large)
    objective, values = build_objective(cell), constants(cell)
    rates = {name: objective.rate(name) for name, _ in objective.module.named_parameters()}
    # layer ids as in BEiT: embedding 0, blocks 1 .. depth, after them depth + 1, rate 0.9^(depth + 1 - id)
    assert rates["encoder.norm.weight"].scale == 1
    assert rates["encoder.blocks.1.mlp.fc1.weight"].scale == pytest.approx(0.9)
    assert rates["encoder.blocks.0.mlp.fc1.weight"].scale == pytest.approx(0.9**2)
    assert rates["encoder.cls_token"].scale == pytest.approx(0.9**3)
    assert rates["encoder.patch_embed.proj.weight"].scale == pytest.approx(0.2 * 0.9**3)
    assert rates["head.mlp.0.weight"].scale == 1
    optimiser = build_optimiser(objective, values)
    for step, frozen in ((0, True), (2, False)):
        set_schedule(optimiser, schedule_of(100, 16, values), step)
        group = next(g for g in optimiser.param_groups if g["params"][0] is objective.module.head.prototypes)
        assert (group["lr"] == 0) == frozen
        assert group["weight_decay"] == pytest.approx(cosine(step / 100, 0.04, 0.4))
