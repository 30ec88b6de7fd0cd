import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_cells import TRAINED, make_cell

from orch_core.errors import OrchError
from orch_core.learn.data import Batch
from orch_core.learn.objectives import build_objective
from orch_core.learn.randomness import Rows, generator
from orch_core.recipes import RECIPES, constants, recipe_of, recipe_of_algorithm
from orch_core.recipes.mae import kept


def test_recipes_are_found_in_their_folder_and_every_constant_names_its_source():
    assert {"mae@1", "moco-v3@1", "random@1", "pixels@1"} <= set(RECIPES)
    for recipe in RECIPES.values():
        assert all(constant.source for constant in recipe.constants.values())


@pytest.mark.parametrize("recipe", ["mae@1", "moco-v3@1"])
def test_rules_give_the_papers_constants_at_the_papers_scale(recipe):
    # He et al. 2022, table 8; Chen et al. 2021, section 4.1: 1.5e-4 x batch / 256 at batch 4096, ViT-B and larger
    for width, depth in ((768, 12), (1024, 24)):
        values = constants(make_cell(None, recipe, width=width, depth=depth, batch=4096))
        assert values["lr"] == pytest.approx(1.5e-4 * 4096 / 256)


@pytest.mark.parametrize(("depth", "share"), [(4, 0), (12, 0), (18, 0.5), (24, 1), (40, 1)])
def test_dino_is_that_of_small_encoders_up_to_vit_base_and_dinov2_from_vit_large_on(depth, share):
    # none of the three in DINO's and iBOT's ViT-S and B; DINOv2's default configuration at ViT-L
    values = constants(make_cell(None, "dinov2@1", depth=depth))
    published = {"layer_decay": 0.9, "patch_embed_rate": 0.2, "layer_scale": 1e-5}
    assert {name: values[name] for name in published} == pytest.approx(
        {name: value**share for name, value in published.items()}
    )


def test_mae_decoder_is_the_official_one_at_vit_large():
    values = constants(make_cell(None, width=1024, depth=24))
    assert (values["decoder_width"], values["decoder_depth"]) == (512, 8)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (("mask_ration", 0.5), ["mask_ration", "did you mean 'mask_ratio'"]),
        (("mask_ratio", 2.0), ["mask_ratio", "0.05 to 0.95"]),
        (("mask_ratio", True), ["mask_ratio", "expected float"]),
        (("norm_pixels", 1), ["norm_pixels", "expected bool"]),
        (("decoder_depth", 1.5), ["decoder_depth", "expected int"]),
    ],
)
def test_a_wrong_override_is_named_with_its_remedy(override, words):
    with pytest.raises(OrchError) as caught:
        constants(make_cell(None, overrides=(override,)))
    assert all(word in str(caught.value) for word in words)


def test_an_override_replaces_the_rule_and_an_integer_serves_as_a_float():
    assert constants(make_cell(None, overrides=(("lr", 1),)))["lr"] == 1.0


def test_an_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(OrchError, match="'mae@1'"):
        recipe_of(make_cell(None, "mea@1"))


@given(st.integers(1, 400), st.floats(0.05, 0.95))
def test_mae_sees_the_papers_share_of_patches(patches, ratio):
    assert kept(patches, ratio) == max(1, int(patches * (1 - ratio)))


@given(
    st.sampled_from(TRAINED), st.integers(8, 512).map(lambda k: 4 * k), st.integers(1, 48), st.integers(0, 12)
)
def test_every_rule_gives_a_value_within_its_range(recipe, width, depth, log_batch):
    cell = make_cell(None, recipe, width=width, depth=depth, batch=2**log_batch)
    for name, value in constants(cell).items():
        constant = RECIPES[recipe].constants[name]
        if isinstance(value, int | float):
            assert constant.low <= value <= constant.high, name


def test_algorithms_have_different_colours_and_losses_have_units():
    trained = [RECIPES[name] for name in TRAINED]
    assert len({recipe.colour for recipe in trained}) == len(trained)
    for recipe in RECIPES.values():
        assert re.fullmatch("#[0-9a-f]{6}", recipe.colour)
        assert bool(recipe.loss_unit) == (recipe in trained)
    assert recipe_of_algorithm("mae") is RECIPES["mae@1"]
    assert recipe_of_algorithm("dinov2@2") is RECIPES["dinov2@2"]
    assert recipe_of_algorithm("MAE of ours") is None


def test_the_docs_table_of_recipes_is_the_registry():
    text = Path(__file__).parents[2].joinpath("docs", "pretraining.md").read_text(encoding="utf-8")
    rows = [
        line for line in text.split("## What a run")[0].splitlines() if re.match(r"\| `[a-z0-9-]+@\d", line)
    ]
    assert {name for row in rows for name in re.findall(r"`([a-z0-9-]+@\d+)`", row.split("|")[1])} == set(
        RECIPES
    )


@pytest.mark.parametrize(("recipe", "same"), [("dinov2@1", False), ("dinov2@2", True)])
def test_prototypes_of_dinov2_are_the_same_at_every_size_from_version_2_on(recipe, same):
    widths = (64, 192, 384, 1024)
    counts = {constants(make_cell(None, recipe, width=width, depth=24))["prototypes"] for width in widths}
    assert (len(counts) == 1) == same == ("size" in RECIPES[recipe].loss_comparable_across)
    official = make_cell(None, recipe, width=1024, depth=24, resolution=224, patch=14)
    assert constants(official)["prototypes"] == 65536  # DINOv2's default configuration: head_n_prototypes


def test_an_untrained_dinov2_loses_the_same_at_every_width_from_version_2_on():
    """A loss whose chance level is ln K: under version 1 it grows with the width, encoders of no worth alike."""

    def loss(recipe: str, width: int) -> float:
        cell = make_cell(
            None, recipe, width=width, resolution=56, overrides=(("koleo_weight", 0.0), ("local_crops", 0))
        )
        objective = build_objective(cell)
        images = torch.randint(
            0, 255, (8, 1, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        flags = torch.zeros(8, dtype=torch.bool)
        batch = Batch(images=images, orientation_free=flags, labels=flags.long())
        with torch.no_grad():
            return float(objective.module(*objective.draw(batch, Rows(generator(0, "t"), slice(0, 8), 8))))

    small, large = (loss("dinov2@1", width) for width in (16, 64))
    assert large - small == pytest.approx(
        1.5 * math.log(4), rel=0.1
    )  # K times 4: DINO's term, iBOT's on half the crops
    small, large = (loss("dinov2@2", width) for width in (16, 64))
    assert large == pytest.approx(small, rel=0.03)
