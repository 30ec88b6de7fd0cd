"""What a run leaves behind, for every recipe; and what stops it."""

import json
import math

import numpy as np
import pytest
import torch
from learn_cells import TRAINED, make_cell, make_probe, write_images
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from orch_core.cost import price
from orch_core.errors import OrchError
from orch_core.learn import data as data_module
from orch_core.learn import pretrain, pretraining, probe
from orch_core.learn.encoders import build_encoder
from orch_core.learn.health import collapse, health
from orch_core.learn.objectives import build_objective
from orch_core.learn.readout import accuracies
from orch_core.recipes import RECIPES


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "bars.npz")


def test_every_recipe_that_trains_is_tested():
    assert set(TRAINED) == {name for name, recipe in RECIPES.items() if recipe.uses_data}


@pytest.mark.parametrize("recipe", TRAINED)
def test_a_run_leaves_its_encoder_curve_and_ledger(bars, tmp_path, recipe):
    cell = make_cell(bars, recipe)
    result, cost = pretrain(cell, tmp_path), price(cell)
    assert (result.status, result.reason) == ("done", None)
    values = result.values
    assert (values["steps"], values["samples_seen"], values["images"]) == (10, 160, 96)
    assert values["flops_train_measured"] == pytest.approx(cost.flops_hardware, rel=1e-3)
    assert values["params_encoder"] == cost.params_encoder
    assert math.isfinite(values["heldout_loss"])
    assert result.cost["images_per_second"] > 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.ndjson").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert rows[-1]["heldout_loss"] == values["heldout_loss"]
    assert rows[-1]["eta_seconds"] == 0
    assert sum("heldout_loss" in row for row in rows) >= 5
    assert set(load_file(tmp_path / "encoder.safetensors")) == set(build_encoder(cell).state_dict())
    [(_, read)] = probe(cell, tmp_path, [make_probe(bars)])
    assert 0 <= read.values["auc_lo"] <= read.values["auc"] <= read.values["auc_hi"] <= 1


@pytest.mark.parametrize("recipe", TRAINED)
def test_the_same_cell_gives_the_same_numbers_and_another_seed_others(bars, tmp_path, recipe):
    first, again = (pretrain(make_cell(bars, recipe, samples=48), tmp_path / name) for name in "ab")
    other = pretrain(make_cell(bars, recipe, samples=48, seed=1), tmp_path / "c")
    assert first.values == again.values
    assert first.values["heldout_loss"] != other.values["heldout_loss"]


@pytest.mark.parametrize("recipe", ["mae@1", "simmim@1", "supervised@1"])
def test_training_lowers_the_held_out_loss(bars, tmp_path, recipe):
    rate = (("lr", 3e-3),)
    result = pretrain(make_cell(bars, recipe, samples=960, overrides=rate), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.ndjson").read_text().splitlines()]
    losses = [row["heldout_loss"] for row in rows if "heldout_loss" in row]
    assert result.values["heldout_loss"] < 0.95 * losses[0]


def test_bf16_trains_and_is_another_cell(bars, tmp_path):
    half, full = (make_cell(bars, precision=precision) for precision in ("bf16", "fp32"))
    assert half.id != full.id
    a, b = pretrain(half, tmp_path / "half").values, pretrain(full, tmp_path / "full").values
    assert a["heldout_loss"] == pytest.approx(b["heldout_loss"], rel=0.02)
    assert a["heldout_loss"] != b["heldout_loss"]


def test_a_diverged_run_is_reported_and_records_no_number_of_it(bars, tmp_path):
    cell = make_cell(bars, "mae@1", samples=1600)
    original = pretraining.build_objective

    def broken(cell):
        objective = original(cell)
        objective.module.decoder.predict.bias.data.fill_(math.inf)
        return objective

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "build_objective", broken)
        result = pretrain(cell, tmp_path)
    assert (result.status, result.reason.cause) == ("diverged", "diverged")
    assert "step 1 of 100" in result.reason.message
    assert "heldout_loss" not in result.values
    assert not (tmp_path / "encoder.safetensors").exists()


def one_point(objective):
    objective.encoder.norm.weight.data.zero_()
    objective.encoder.norm.bias.data.fill_(1)


def not_a_number(objective):
    objective.encoder.patch_embed.proj.bias.data.fill_(math.nan)


def one_prototype(objective):
    objective.module.class_centre[:, 1:] = 1e3


def all_prototypes_alike(objective):
    objective.module.teacher_head.prototypes.data[:] = objective.module.teacher_head.prototypes.data[:1]


@pytest.mark.parametrize(
    ("recipe", "broken", "cause", "evidence"),
    [
        ("mae@1", one_point, "collapsed", "feature_std"),
        ("moco-v3@1", one_point, "collapsed", "feature_std"),
        ("mae@1", not_a_number, "diverged", "not finite"),
        ("dinov2@1", one_prototype, "collapsed", "teacher_usage"),
        ("dinov2@1", all_prototypes_alike, "collapsed", "pinned at ln K"),
    ],
)
@pytest.mark.parametrize("when", [0, 101])
def test_a_collapse_is_found_within_a_hundredth_of_the_budget(
    bars, tmp_path, recipe, broken, cause, evidence, when
):
    original = pretraining._one_step

    def one_step(run):
        original(run)
        if run.step == when + 1:
            broken(run.objective)

    still = (
        ("lr", 0.0),
        *((("momentum", 1.0), ("centre_momentum", 1.0), ("warmup", 0.0)) if recipe == "dinov2@1" else ()),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "_one_step", one_step)
        result = pretrain(make_cell(bars, recipe, samples=16 * 200, overrides=tuple(sorted(still))), tmp_path)
    assert (result.status, result.reason.cause) == ("diverged", cause)
    assert evidence in result.reason.message
    assert (
        f"step {when + 2 + when % 2} of 200" in result.reason.message
        or f"step {when + 1} of" in result.reason.message
    )
    assert "heldout_loss" not in result.values or math.isfinite(result.values["heldout_loss"])


@pytest.mark.parametrize("recipe", TRAINED)
def test_untrained_encoders_are_not_called_collapsed(bars, recipe):
    for width in (32, 128):
        for patch in (4, 7):
            cell = make_cell(bars, recipe, width=width, heads=1, patch=patch)
            assert not collapse(health(build_objective(cell), data_module.held_out_set(cell), patch))


def test_read_outs_find_neighbours_and_linear_maps():
    """Against scikit-learn's nearest neighbours and ridge regression."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    points = rng.standard_normal((3, 16))[labels] + 1.2 * rng.standard_normal((400, 16))
    known, asked = torch.from_numpy(points[:300]).float(), torch.from_numpy(points[300:]).float()
    figures = accuracies(known, asked, *(torch.from_numpy(part) for part in (labels[:300], labels[300:])))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    votes = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    wanted = votes.fit(unit[:300], labels[:300]).score(unit[300:], labels[300:])
    assert figures["knn_accuracy"] == pytest.approx(wanted)
    scaled = (points - points[:300].mean(0)) / points[:300].std(0, ddof=1)
    ridge = Ridge(alpha=1e-3 * 300).fit(scaled[:300], np.eye(3)[labels[:300]])
    assert figures["linear_accuracy"] == pytest.approx(
        (ridge.predict(scaled[300:]).argmax(1) == labels[300:]).mean()
    )
    assert (
        accuracies(known, asked, torch.zeros(300, dtype=torch.long), torch.zeros(100, dtype=torch.long)) == {}
    )


def test_controls_train_nothing(tmp_path):
    random = pretrain(make_cell(None, "random@1"), tmp_path / "random")
    assert (random.values["samples_seen"], random.values["flops_train"]) == (0, 0)
    assert (tmp_path / "random" / "encoder.safetensors").exists()
    pixels = pretrain(make_cell(None, "pixels@1"), tmp_path / "pixels")
    assert pixels.values["params_encoder"] == 0
    assert not (tmp_path / "pixels" / "encoder.safetensors").exists()


def test_subsets_are_nested_and_exclude_held_out_images(tmp_path):
    path = write_images(tmp_path / "bars.npz")
    arrays = dict(np.load(path))
    arrays["train_images"][:5] = arrays["test_images"][:5]
    np.savez(path, **arrays)
    large = data_module.pretraining_set(make_cell(path)).images
    small = data_module.pretraining_set(make_cell(path, images=30)).images
    assert len(large) == 91
    assert torch.equal(large[:30], small)
    with pytest.raises(OrchError, match="95 images requested, but only 91 exist"):
        data_module.pretraining_set(make_cell(path, images=95))


def test_grey_and_colour_and_sizes_become_what_the_cell_asks_for():
    colour = np.zeros((2, 10, 10, 3), np.uint8)
    colour[..., 1] = 200
    grey = data_module.as_tensor(colour, resolution=10, channels=1)
    assert grey.unique().tolist() == [round(0.587 * 200)]
    assert data_module.as_tensor(colour, resolution=28, channels=3).shape == (2, 3, 28, 28)
    assert data_module.as_tensor(colour[..., :1], resolution=10, channels=3).shape == (2, 3, 10, 10)
