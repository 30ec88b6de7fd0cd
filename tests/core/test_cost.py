import sys
import time
from dataclasses import replace

import pytest
import torch
from learn_cells import TRAINED, make_cell, write_images
from torch.utils.flop_counter import FlopCounterMode

from orch_core.cell import Cell, Model
from orch_core.cost import encoder_shape, price
from orch_core.learn import MemoryPlan
from orch_core.learn.encoders import build_encoder, encode, patchify
from orch_core.learn.ledger import measured_flops
from orch_core.learn.pretraining import _first_inputs, _start
from orch_core.recipes import recipe_of
from orch_core.vit import LADDER, encoder_params


def ladder_cell(name: str, recipe: str = "mae@1", patch: int = 16) -> Cell:
    width, depth, heads, ratio = LADDER[name]
    return Cell(
        model=Model(name=name, width=width, depth=depth, heads=heads, mlp_ratio=ratio),
        recipe=recipe,
        resolution=224,
        patch=patch,
        channels=3,
        samples_seen=1024,
        batch=64,
    )


def trained(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", LADDER)
def test_encoder_parameters_are_exact_on_the_whole_ladder(name):
    cell = ladder_cell(name)
    with torch.device("meta"):
        encoder = build_encoder(cell)
    assert price(cell).params_encoder == trained(encoder) - encoder.pos_embed.numel()
    assert encoder_params(encoder_shape(cell), learned_positions=True) == trained(encoder)


def test_parameters_are_the_published_ones():
    # timm's vit_{tiny,small,base,large}_patch16_224 without head: 5.52, 21.67, 85.80, 303.30 M with learned positions
    for name, millions in {"Ti": 5.52, "S": 21.67, "B": 85.80, "L": 303.30}.items():
        assert encoder_params(
            encoder_shape(ladder_cell(name)), learned_positions=True
        ) / 1e6 == pytest.approx(millions, abs=0.006)


def test_forward_flops_are_the_published_ones():
    # FlopCounterMode on timm at 224/16: 2.507, 9.197, 35.126, 123.107 GFLOP
    for name, giga in {"Ti": 2.507, "S": 9.197, "B": 35.126, "L": 123.107}.items():
        assert price(ladder_cell(name)).flops_forward / 1e9 == pytest.approx(giga, abs=6e-4)


PUBLISHED_MAE = {"Ti": (34.25, 31.20), "S": (39.26, 47.40), "B": (58.82, 111.66), "L": (124.67, 329.24)}


@pytest.mark.parametrize("name", PUBLISHED_MAE)
def test_mae_with_the_official_decoder_costs_what_was_published(name):
    # GFLOP a training image (FlopCounterMode) and million parameters of the official code with its 512 x 8 decoder,
    # which also embeds the masked patches, predicts at visible ones and at the class token
    giga, millions = PUBLISHED_MAE[name]
    cell = replace(ladder_cell(name), overrides=(("decoder_depth", 8), ("decoder_width", 512)))
    cost, width = price(cell), cell.model.width
    also = 2 * 2 * 147 * 768 * width + 3 * 2 * 50 * 512 * 768
    assert (cost.flops_hardware / cell.samples_seen + also) / 1e9 == pytest.approx(giga, rel=1e-3)
    assert cost.params_total / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", ["mu", "Ti", "M", "So400m"])
def test_forward_flops_are_those_of_the_built_model(name):
    cell = ladder_cell(name)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        encode(build_encoder(cell), patchify(torch.empty(1, 3, 224, 224), 16))
    assert counter.get_total_flops() == price(cell).flops_forward


@pytest.mark.parametrize("recipe", TRAINED)
@pytest.mark.parametrize(("width", "depth", "patch", "resolution"), [(64, 3, 4, 28), (32, 1, 14, 56)])
def test_training_flops_and_parameters_are_those_of_the_built_objective(
    tmp_path, recipe, width, depth, patch, resolution
):
    path = write_images(tmp_path / "bars.npz")
    cell = make_cell(
        path,
        recipe,
        width=width,
        depth=depth,
        heads=width // 32,
        patch=patch,
        resolution=resolution,
        channels=3,
        batch=8,
    )
    cost, run = price(cell), _start(cell, tmp_path, None, MemoryPlan())
    assert measured_flops(run.gradient_step, _first_inputs(run)) == pytest.approx(
        cost.flops_hardware * cell.batch / cell.samples_seen, rel=1e-3
    )
    fixed = sum(p.numel() for n, p in run.objective.module.named_parameters() if not carried(recipe, n))
    assert cost.params_total == trained(run.objective.module) - fixed
    head = sum(p.numel() for p in run.objective.module.parameters() if p.requires_grad) - sum(
        p.numel() for p in run.objective.encoder.parameters() if p.requires_grad
    )
    assert cost.params_head == head


def carried(recipe: str, name: str) -> bool:
    return recipe_of(make_cell(None, recipe)).learned_positions or not name.endswith("pos_embed")


def test_controls_cost_no_training():
    random, pixels = price(make_cell(None, "random@1")), price(make_cell(None, "pixels@1"))
    assert random.flops_train == 0 < random.flops_forward
    assert random.params_encoder == price(make_cell(None, "mae@1")).params_encoder
    assert (pixels.params_total, pixels.flops_forward) == (0, 0)


def test_a_thousand_prices_take_a_fraction_of_a_second_of_cpu():
    cells = [ladder_cell(name, recipe) for name in LADDER for recipe in TRAINED]
    began = time.process_time()
    for cell in cells:
        price(cell)
    each = (time.process_time() - began) / len(cells)
    # a ratio, not a time: against parsing 1,000 small integers on the same machine
    began = time.process_time()
    for _ in range(100):
        [int(text) for text in ["123456"] * 1000]
    assert each < (time.process_time() - began)


def test_pricing_needs_no_torch():
    import subprocess

    code = "import sys, orch_core.cost; assert not {'torch', 'timm', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
