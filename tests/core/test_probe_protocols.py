"""The protocols few-shot, attentive, BioVFM's linear probe and fine-tuning, against formulas and published packages."""

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from learn_cells import make_cell, make_probe, write_images
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.neighbors import NearestCentroid
from torch import nn

from orch_core.errors import OrchError
from orch_core.images import npz, source
from orch_core.learn import Stopped, pretrain, probe
from orch_core.learn.probes import attentive, biovfm_linear, fewshot, finetune, heads
from orch_core.learn.probes.heads import Trainer, Training
from orch_core.learn.probes.subject import Subject
from orch_core.learn.probes.task import load_task
from orch_core.protocols.fewshot import SHOTS

SHORT = {"attentive@1": attentive, "biovfm-linear@1": biovfm_linear, "finetune@1": finetune}


@pytest.fixture
def short(monkeypatch):
    """Protocols that train with as many epochs as a test has time for, on batches of a small task."""

    def shorten(epochs: int, batch: int = 16):
        for module in SHORT.values():
            constants = dict(module.PROTOCOL.constants)
            for name, value in (("epochs", epochs), ("batch", batch)):
                constants[name] = replace(constants[name], value=value)
            if "warmup" in constants:
                constants["warmup"] = replace(constants["warmup"], value=1)
            monkeypatch.setattr(module, "PROTOCOL", replace(module.PROTOCOL, constants=constants))

    return shorten


def untrained(tmp_path, recipe="random@1", classes=4, **sizes):
    path = write_images(tmp_path / "bars.npz", classes=classes, **sizes)
    cell = make_cell(None, recipe)
    pretrain(cell, tmp_path / "run")
    return cell, tmp_path / "run", path


def scores_of(cell, folder, probes):
    return {one.protocol: result for one, result in probe(cell, folder, probes)}


@pytest.mark.parametrize("protocol", ["fewshot@1", *SHORT])
def test_every_protocol_reads_bars_and_its_values_repeat(tmp_path, short, protocol):
    short(12)
    cell, folder, path = untrained(tmp_path, train=160, classes=2)
    one = make_probe(path, protocol=protocol)
    first, second = (scores_of(cell, folder, [one])[protocol] for _ in range(2))
    assert first.values == second.values
    assert first.status == "done"
    assert first.values["auc"] > 0.5
    assert first.values["auc_lo"] <= first.values["auc"] <= first.values["auc_hi"]
    assert np.isfinite(first.values["accuracy"])


def test_raw_pixels_are_scored_by_every_protocol_but_fine_tuning_which_records_why(tmp_path, short):
    short(3)
    cell, folder, path = untrained(tmp_path, "pixels@1")
    probes = [make_probe(path, "multi-class", protocol=name) for name in ("fewshot@1", *SHORT)]
    results = scores_of(cell, folder, probes)
    assert {name: result.status for name, result in results.items()} == {
        "fewshot@1": "done", "attentive@1": "done", "biovfm-linear@1": "done", "finetune@1": "failed",
    }  # fmt: skip
    assert results["finetune@1"].reason.cause == "not_defined"
    assert "no encoder to train" in results["finetune@1"].reason.message


@pytest.mark.parametrize("kind", ["binary-class", "multi-label", "ordinal-regression"])
def test_every_kind_of_task_is_scored_by_every_protocol(tmp_path, short, kind):
    short(2)
    cell, folder, path = untrained(tmp_path, classes=2 if kind == "binary-class" else 3)
    if kind == "multi-label":
        arrays = dict(np.load(path))
        for split in ("train", "val", "test"):
            labels = arrays[f"{split}_labels"]
            arrays[f"{split}_labels"] = np.concatenate([labels == 0, labels > 0], 1).astype(np.uint8)
        np.savez(path, **arrays)
    probes = [make_probe(path, kind, protocol=name) for name in ("fewshot@1", *SHORT)]
    for result in scores_of(cell, folder, probes).values():
        assert result.status == "done"
        assert 0.3 < result.values["auc"] <= 1


def test_few_shots_are_the_nearest_centroid_of_centred_unit_features():
    rng = np.random.default_rng(0)
    features = {split: rng.standard_normal((n, 8)) + 3 for split, n in (("train", 60), ("test", 40))}
    labels = np.arange(60) % 3
    made = fewshot.centred(features)
    by_hand = features["test"] - features["train"].mean(0)
    np.testing.assert_allclose(made["test"], by_hand / np.linalg.norm(by_hand, axis=1, keepdims=True))
    chosen = fewshot.draw([np.flatnonzero(labels == k) for k in range(3)], 5, 7)
    rows = np.concatenate(chosen)
    model = NearestCentroid().fit(made["train"][rows], labels[rows])
    centroids = np.stack([made["train"][some].mean(0) for some in chosen])
    shares = fewshot.centroid_shares(made["test"], centroids)
    assert (shares.argmax(1) == model.predict(made["test"])).all()
    distance = ((made["test"][:, None] - centroids) ** 2).sum(2)
    np.testing.assert_allclose(shares, np.exp(-distance) / np.exp(-distance).sum(1, keepdims=True))


def test_draws_are_nested_in_shots_and_differ_from_each_other():
    classes = [np.arange(0, 40), np.arange(40, 90)]
    few, many = (fewshot.draw(classes, shots, 3) for shots in (5, 10))
    assert all(set(a) < set(b) for a, b in zip(few, many, strict=True))
    assert [len(rows) for rows in many] == [10, 10]
    assert not np.array_equal(fewshot.draw(classes, 10, 4)[0], many[0])


def test_more_shots_score_higher_and_shots_that_a_class_lacks_are_not_scored(tmp_path):
    cell, folder, path = untrained(tmp_path, train=96)  # 24 of each of 4 classes
    values = scores_of(cell, folder, [make_probe(path, "multi-class", protocol="fewshot@1")])[
        "fewshot@1"
    ].values
    assert values["shots"] == 10
    assert values["fewest_of_a_class"] == 24
    assert values["auc_shots_1"] < values["auc_shots_5"] < values["auc_shots_10"]
    assert values["auc"] == pytest.approx(values["auc_shots_10"], abs=1e-6)
    assert [values[f"auc_shots_{shots}"] is None for shots in SHOTS] == [False, False, False, True, True]
    assert values["auc_shots_1_sd"] > values["auc_shots_10_sd"] > 0


def test_query_pooling_is_attention_with_one_head_per_query():
    """Against torch's scaled dot product: query j attends to the tokens and reads slice j of the projected values."""
    pooling = attentive.QueryPooling(12, 3, 1.0)
    tokens = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(0))
    values = pooling.values(tokens).view(5, 7, 3, 4).transpose(1, 2)
    queries = pooling.queries[None, :, None].expand(5, -1, -1, -1)
    keys = tokens[:, None].expand(-1, 3, -1, -1)
    expected = nn.functional.scaled_dot_product_attention(queries, keys, values)  # [5, 3, 1, 4]
    torch.testing.assert_close(pooling(tokens), expected[:, :, 0].flatten(1))


def test_attentive_tokens_are_those_of_the_encoder_and_their_file_is_gone_afterwards(tmp_path):
    cell, folder, path = untrained(tmp_path)
    subject, task = Subject(cell, folder), load_task(make_probe(path, "multi-class"), tmp_path)
    width = cell.model.width
    before = sorted(folder.iterdir())
    with subject.tokens(task) as tokens:
        mean = tokens["test"].astype(np.float64).mean(1)
        assert tokens["test"].shape == (60, 16, width)
        np.testing.assert_allclose(mean, subject.features(task)["test"][:, width:], atol=2e-3)
    assert sorted(folder.iterdir()) == before


def linear_trainer(features, labels, epochs, **more):
    module = nn.Linear(features["train"].shape[1], int(labels["train"].max()) + 1)
    heads.normal_(module, 0.01, "test")

    class Anything:
        task, kind = "bars", "multi-class"

    return Trainer(
        module=module,
        optimiser=torch.optim.AdamW(module.parameters(), lr=0.05),
        inputs={
            split: lambda rows, part=part: torch.from_numpy(part[rows]) for split, part in features.items()
        },
        labels=labels,
        probe=Anything,
        training=Training(stream="test", epochs=epochs, batch=32, rate=lambda _: 1.0, **more),
        check_stop=lambda: None,
    )


def noisy(seed=0):
    rng = np.random.default_rng(seed)
    features, labels = {}, {}
    for split, n in (("train", 64), ("val", 40), ("test", 400)):
        labels[split] = rng.integers(0, 2, (n, 1))
        features[split] = (rng.standard_normal((n, 30)) + 0.4 * labels[split]).astype(np.float32)
    return features, labels


def test_the_epoch_of_the_smallest_loss_on_validation_is_kept_and_patience_ends_the_rest():
    features, labels = noisy()
    losses = []
    for epochs in range(1, 40):
        trainer = linear_trainer(features, labels, epochs)
        trainer.train()
        losses.append(trainer.best_loss)
        best = trainer.best_epoch
    assert best < 39  # it overfits, so that the last epoch is not the best
    assert losses[best - 1] == min(losses)
    scores = trainer.scores()["val"]
    assert log_loss(labels["val"][:, 0], scores) == pytest.approx(trainer.best_loss, rel=1e-5)
    patient = linear_trainer(features, labels, 39, patience=3)
    patient.train()
    assert patient.epoch == patient.best_epoch + 3 < 39
    assert patient.best_loss >= trainer.best_loss


def test_the_biovfm_probe_is_its_published_module_trained_by_its_schedule(tmp_path, short, monkeypatch):
    """The same steps by torch's own classes: BatchNorm without affine and Linear, AdamW, CosineAnnealingLR by epochs."""
    short(5, batch=128)
    cell, folder, path = untrained(tmp_path, train=256)
    one = make_probe(path, "multi-class", protocol="biovfm-linear@1")
    task, subject = load_task(one, tmp_path), Subject(cell, folder)
    tokens = {
        split: part[:, cell.model.width :].astype(np.float32)
        for split, part in subject.features(task).items()
    }
    layer = heads.normal_(nn.Linear(32, 4), 0.01, "biovfm-linear@1")
    module = nn.Sequential(nn.BatchNorm1d(32, affine=False, eps=1e-6), layer)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=5, eta_min=0)
    truth = {split: torch.from_numpy(labels[:, 0]) for split, labels in task.labels.items()}
    kept = (math.inf, None)
    for epoch in range(5):
        module.train()
        order = heads.generator(0, "biovfm-linear@1|order", epoch).permutation(256)
        for batch in (order[:128], order[128:]):
            optimiser.zero_grad()
            nn.functional.cross_entropy(
                module(torch.from_numpy(tokens["train"][batch])), truth["train"][batch]
            ).backward()
            optimiser.step()
        schedule.step()
        module.eval()
        loss = nn.functional.cross_entropy(module(torch.from_numpy(tokens["val"])), truth["val"]).item()
        if loss < kept[0]:
            kept = (loss, module(torch.from_numpy(tokens["test"])).softmax(1).detach().numpy())
    values = scores_of(cell, folder, [one])["biovfm-linear@1"].values
    assert values["val_loss"] == pytest.approx(kept[0], rel=1e-4)
    areas = [roc_auc_score(task.labels["test"][:, 0] == k, kept[1][:, k]) for k in range(4)]
    assert values["auc"] == pytest.approx(np.mean(areas), abs=1e-4)


def test_fine_tuning_goes_on_after_a_stop_as_if_there_had_been_none(tmp_path, short):
    short(4)
    cell, folder, path = untrained(tmp_path)
    one = make_probe(path, "multi-class", protocol="finetune@1")
    whole = scores_of(cell, folder, [one])["finetune@1"].values
    for calls in (9, 23):
        seen = []
        with pytest.raises(Stopped):
            list(
                probe(
                    cell,
                    folder,
                    [one],
                    should_stop=lambda calls=calls, seen=seen: seen.append(1) or len(seen) > calls,
                )
            )
    state = folder / "probes" / one.folder / "finetune.safetensors"
    assert state.exists()
    resumed = scores_of(cell, folder, [one])["finetune@1"].values
    assert resumed == whole
    assert not state.exists()


def test_a_damaged_state_of_fine_tuning_starts_again(tmp_path, short):
    short(2)
    cell, folder, path = untrained(tmp_path)
    one = make_probe(path, "multi-class", protocol="finetune@1")
    state = folder / "probes" / one.folder / "finetune.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"half a file")
    assert scores_of(cell, folder, [one])["finetune@1"].status == "done"


def test_fine_tuning_trains_every_layer_with_its_rate_and_leaves_the_encoder_as_it_was(tmp_path, short):
    short(2)
    cell, folder, path = untrained(tmp_path)
    before = (folder / "encoder.safetensors").read_bytes()
    subject = Subject(cell, folder)
    module = finetune._classifier(subject, make_probe(path, "multi-class", protocol="finetune@1"))
    groups = {name: group for (name, part), group in zip(
        ((n, p) for n, p in module.named_parameters() if p.requires_grad),
        finetune._optimiser(module).param_groups, strict=True,
    )}  # fmt: skip
    top = 1e-3 * 16 / 256
    assert groups["layer.weight"]["lr"] == groups["encoder.norm.weight"]["lr"] == top
    assert groups["encoder.blocks.1.mlp.fc1.weight"]["lr"] == pytest.approx(top * 0.75)
    assert groups["encoder.blocks.0.mlp.fc1.weight"]["lr"] == pytest.approx(top * 0.75**2)
    assert groups["encoder.patch_embed.proj.weight"]["lr"] == pytest.approx(top * 0.75**3)
    decays = {name: group["weight_decay"] for name, group in groups.items()}
    assert decays["encoder.cls_token"] == decays["layer.bias"] == decays["encoder.norm.weight"] == 0
    assert decays["encoder.blocks.0.attn.qkv.weight"] == 0.05
    scores_of(cell, folder, [make_probe(path, "multi-class", protocol="finetune@1")])
    assert (folder / "encoder.safetensors").read_bytes() == before


def test_a_large_task_is_mapped_from_a_file_that_is_gone_afterwards_and_scores_the_same(
    tmp_path, monkeypatch
):
    cell, folder, path = untrained(tmp_path, train=400, side=112)
    one = make_probe(path, "multi-class")
    small = scores_of(cell, folder, [one])["linear@1"].values
    monkeypatch.setattr(npz, "_kept", {})
    monkeypatch.setattr(source, "LARGE", 2**16)
    before = sorted(folder.iterdir())
    tracemalloc.start()
    task = load_task(one, folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(task.images["train"], np.memmap)
    assert peak < task.images["train"].nbytes / 4
    assert sorted(folder.iterdir()) == before
    assert scores_of(cell, folder, [one])["linear@1"].values == small


def test_a_large_task_that_changed_or_lost_labels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "LARGE", 0)
    path = write_images(tmp_path / "bars.npz")
    one = make_probe(path)
    with pytest.raises(OrchError, match="has changed since the plan was made"):
        load_task(replace(one, fingerprint="0" * 32), tmp_path)
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "test_labels": arrays["test_labels"][1:]})
    monkeypatch.setattr(npz, "require_unchanged", lambda *_: None)
    with pytest.raises(OrchError, match="60 test images but 59 labels"):
        load_task(one, tmp_path)
