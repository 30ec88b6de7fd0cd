import importlib
import io
import math
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learn_cells import make_cell, make_probe, write_images
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from orch_core.errors import OrchError
from orch_core.images.npz import inspect_npz, read_split
from orch_core.learn import Stopped, pretrain, probe
from orch_core.learn.logistic import fit_path, problem
from orch_core.learn.probes import knn, projection
from orch_core.learn.probes.subject import Subject
from orch_core.learn.probes.task import limited
from orch_core.protocols import PROTOCOLS, protocol_named
from orch_core.protocols.linear import strengths
from orch_core.protocols.ranking import auc, bootstrap, correct, delong_se, indicator
from orch_core.recipes import pixels


def separable_by_chance(n=300, d=20, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, d)) @ np.diag(np.linspace(0.2, 3, d))
    labels = (features[:, :classes] + 1.5 * rng.standard_normal((n, classes))).argmax(1)
    return features, labels


@pytest.mark.parametrize("classes", [2, 4])
def test_every_strength_reaches_scikit_learns_optimum(classes):
    x, y = separable_by_chance(classes=classes)
    targets = np.eye(classes)[y] if classes > 2 else y[:, None].astype(float)
    task = problem(torch.from_numpy(x), torch.from_numpy(targets), softmax=classes > 2)
    fitted = fit_path(task, strengths()[:10], tolerance=1e-7)
    logits = fitted.scores(torch.from_numpy(x))
    for index, strength in enumerate(strengths()[:10]):
        model = LogisticRegression(C=1 / (strength * len(x)), tol=1e-10, max_iter=10_000).fit(x, y)
        if classes > 2:
            ours = torch.from_numpy(logits[index]).softmax(1).numpy()
        else:
            p = 1 / (1 + np.exp(-logits[index][:, 0]))
            ours = np.stack([1 - p, p], 1)
        penalty = strength / 2 * (fitted.weights[index] ** 2).sum().item()
        theirs = strength / 2 * (model.coef_**2).sum()
        best = log_loss(y, model.predict_proba(x)) + theirs
        assert log_loss(y, ours) + penalty <= best + 1e-7
        np.testing.assert_allclose(ours, model.predict_proba(x), atol=2e-4)


def test_independent_labels_are_independent_problems():
    x, y = separable_by_chance(classes=2)
    both = torch.from_numpy(np.stack([y, 1 - y], 1).astype(float))
    fitted = fit_path(problem(torch.from_numpy(x), both, softmax=False), (0.01, 0.001), tolerance=1e-8)
    torch.testing.assert_close(fitted.weights[:, :, 0], -fitted.weights[:, :, 1], atol=1e-5, rtol=0)


def test_a_warm_start_reaches_the_same_solution():
    x, y = separable_by_chance()
    task = problem(torch.from_numpy(x), torch.from_numpy(np.eye(4)[y]), softmax=True)
    cold = fit_path(task, (0.003,), tolerance=1e-8)
    warm = fit_path(task, (0.003,), fit_path(task, (1.0, 0.1)), tolerance=1e-8)
    np.testing.assert_allclose(
        warm.scores(torch.from_numpy(x)) - warm.scores(torch.from_numpy(x)).mean(2, keepdims=True),
        cold.scores(torch.from_numpy(x)) - cold.scores(torch.from_numpy(x)).mean(2, keepdims=True),
        atol=1e-4,
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 5), st.sampled_from([2, 7, 1000]))
def test_auc_is_medmnists_on_scores_with_ties(seed, classes, levels):
    # medmnist 3.0.2, evaluator.getAUC: binary the last column, multi-label each column, else one against the rest
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 50)])[:, None]
    scores = rng.integers(0, levels, (len(labels), classes)) / levels
    expected = np.mean([roc_auc_score(labels[:, 0] == k, scores[:, k]) for k in range(classes)])
    assert auc(scores, indicator(labels, "multi-class", classes))[0] == pytest.approx(expected, abs=1e-12)
    assert auc(scores, indicator(labels, "ordinal-regression", classes))[0] == pytest.approx(
        expected, abs=1e-12
    )
    binary = (labels > 0).astype(np.int64)
    assert auc(scores[:, -1:], indicator(binary, "binary-class", 2))[0] == pytest.approx(
        roc_auc_score(binary[:, 0], scores[:, -1]), abs=1e-12
    )
    several = rng.integers(0, 2, (len(labels), classes))
    several[0], several[1] = 0, 1
    expected = np.mean([roc_auc_score(several[:, k], scores[:, k]) for k in range(classes)])
    assert auc(scores, indicator(several, "multi-label", classes))[0] == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_weighted_auc_is_that_of_the_repeated_images(seed):
    rng = np.random.default_rng(seed)
    labels, scores = np.arange(40) % 2, rng.integers(0, 9, 40) / 9
    weights = rng.integers(0, 3, (3, 40))
    got = auc(scores[:, None], labels[:, None], weights.astype(float))
    for row, value in zip(weights, got, strict=True):
        assert value == pytest.approx(
            roc_auc_score(np.repeat(labels, row), np.repeat(scores, row)), abs=1e-12
        )


def test_a_class_without_positives_is_ignored_and_an_empty_mean_is_nan():
    truth = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    scores = np.array([[0.9, 0.1], [0.2, 0.2], [0.7, 0.3], [0.1, 0.4]])
    assert auc(scores, truth)[0] == 1.0
    assert np.isnan(auc(scores[:, 1:], truth[:, 1:])[0])


def test_accuracy_is_medmnists():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 3, (60, 1)), rng.random((60, 3))
    assert correct(scores, labels, "multi-class").mean() == accuracy_score(labels[:, 0], scores.argmax(1))
    several = rng.integers(0, 2, (60, 3))
    expected = np.mean([accuracy_score(several[:, k], scores[:, k] > 0.5) for k in range(3)])
    assert correct(scores, several, "multi-label").mean() == pytest.approx(expected)
    binary = rng.integers(0, 2, (60, 1))
    assert correct(scores[:, :1], binary, "binary-class").mean() == accuracy_score(
        binary[:, 0], scores[:, 0] > 0.5
    )


def test_delong_is_the_variance_of_placements():
    # DeLong, DeLong, Clarke-Pearson 1988, equations 3 and 5: by pairs, without ranks
    rng = np.random.default_rng(1)
    truth = np.arange(50) % 3 == 0
    score = np.round(rng.standard_normal(50) + truth, 1)
    x, y = score[truth], score[~truth]
    psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    expected = np.sqrt(psi.mean(1).var(ddof=1) / len(x) + psi.mean(0).var(ddof=1) / len(y))
    assert delong_se(score, truth.astype(np.int64)) == pytest.approx(expected, rel=1e-12)


def test_the_bootstrap_agrees_with_delong_and_with_the_binomial():
    rng = np.random.default_rng(2)
    labels = (np.arange(400) % 2)[:, None]
    scores = 1 / (1 + np.exp(-(rng.standard_normal((400, 1)) + 1.2 * labels - 0.6)))
    area, accuracy, draws = bootstrap(scores, labels, "binary-class", 2, rng)
    assert area.se == pytest.approx(delong_se(scores[:, 0], labels[:, 0]), rel=0.1)
    p = correct(scores, labels, "binary-class").mean()
    assert accuracy.se == pytest.approx(np.sqrt(p * (1 - p) / 400), rel=0.1)
    assert area.lo < auc(scores, labels)[0] < area.hi
    assert area.se == pytest.approx(draws.std(ddof=1))
    assert area.hi - area.lo == pytest.approx(2 * 1.96 * area.se, rel=0.1)


def test_components_span_scikit_learns():
    rng = np.random.default_rng(3)
    images = {
        split: rng.integers(0, 256, (n, 6, 6, 1)).astype(np.uint8)
        for split, n in (("train", 50), ("test", 9))
    }
    got = projection.principal_components(images, 10)
    flat = {split: array.reshape(len(array), -1) / 255 for split, array in images.items()}
    expected = PCA(10, svd_solver="full").fit(flat["train"]).transform(flat["test"])
    np.testing.assert_allclose(np.abs(got["test"]), np.abs(expected), atol=1e-9)


@pytest.mark.parametrize("by", ["images", "pixels", "iteration"])
def test_components_are_those_of_a_singular_value_decomposition(monkeypatch, by):
    """Images of rank 12 and noise: [n, pixels] is wide, tall, or larger than what is decomposed exactly."""
    rng = np.random.default_rng(0)
    n, side = (60, 10) if by == "images" else (150, 10)
    low = rng.random((n, 12)) @ rng.random((12, side * side)) * np.linspace(30, 1, 12).sum() / 60
    train = (low / low.max() * 240 + rng.integers(0, 4, low.shape)).astype(np.uint8)
    images = {"train": train.reshape(n, side, side, 1), "test": train[::7].reshape(-1, side, side, 1)}
    monkeypatch.setattr(projection, "BATCH_BYTES", 8 * side * side * 16)
    monkeypatch.setattr(projection, "EXACT", 40 if by == "iteration" else 1000)
    got = projection.principal_components(images, 6)
    centred = train / 255 - (train / 255).mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(got["train"]), np.abs(left[:, :6] * values[:6]), atol=1e-9)
    np.testing.assert_allclose(got["test"], got["train"][::7], atol=1e-9)


def test_components_of_large_images_take_little_memory_and_stop_when_asked():
    """220 images of 224 x 224 in colour: their pixels' covariance would be 181 GB."""
    rng = np.random.default_rng(0)
    images = {
        split: rng.integers(0, 256, (n, 224, 224, 3), dtype=np.uint8)
        for split, n in (("train", 120), ("val", 40), ("test", 60))
    }
    tracemalloc.start()
    got = projection.principal_components(images, 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got["test"].shape == (60, 100)
    held = sum(array.nbytes for array in images.values())
    assert held + peak < pixels.projection_bytes(120, 220, 224 * 224 * 3, 100) < 1e9
    calls = []

    def stop():
        calls.append(1)
        if len(calls) > 3:
            raise Stopped

    with pytest.raises(Stopped):
        projection.principal_components(images, 100, stop)


def test_nearest_neighbours_vote_as_scikit_learns_classifier():
    rng = np.random.default_rng(1)
    train, asked = rng.standard_normal((200, 12)), rng.standard_normal((31, 12))
    labels = rng.integers(0, 3, 200)
    temperature = 0.07  # DINO's eval_knn.py; 20 neighbours
    model = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda far: np.exp((1 - far) / temperature)
    )
    expected = model.fit(train, labels).predict_proba(asked)
    got = knn.vote(knn.unit(asked) @ knn.unit(train).T, np.eye(3, dtype=np.int64)[labels])
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_protocols_share_a_tasks_features_and_give_scores_of_their_own(tmp_path, monkeypatch):
    path = write_images(tmp_path / "bars.npz", classes=4)
    cell, runs = make_cell(None, "random@1"), []
    pretrain(cell, tmp_path / "run")
    original = Subject.encoded
    monkeypatch.setattr(Subject, "encoded", lambda *given: runs.append(1) or original(*given))
    probes = [make_probe(path, "multi-class", protocol=name) for name in ("linear@1", "knn@1")]
    results = {one.protocol: result.values for one, result in probe(cell, tmp_path / "run", probes)}
    assert len(runs) == 3  # train, val, test, once for both
    assert probes[0].id != probes[1].id
    assert 0.5 < results["knn@1"]["auc_lo"] + 0.1 < results["linear@1"]["auc"]
    assert "C" not in results["knn@1"]
    assert results["knn@1"]["auc"] != results["linear@1"]["auc"]


def test_every_protocol_has_its_code_and_its_constants_their_sources():
    for protocol in PROTOCOLS.values():
        module = importlib.import_module(f"orch_core.learn.probes.{protocol.name.replace('-', '_')}")
        assert callable(module.evaluate)
        assert all(constant.source for constant in protocol.constants.values())
    with pytest.raises(OrchError, match="did you mean 'linear@1'"):
        protocol_named("linaer@1")
    text = Path(__file__).parents[2].joinpath("docs", "evaluation.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+@\d+)` \|", text, re.MULTILINE)) == set(PROTOCOLS)


def test_a_probe_stops_between_two_batches(tmp_path):
    cell, one = make_cell(None, "random@1"), make_probe(write_images(tmp_path / "bars.npz"))
    pretrain(cell, tmp_path)
    with pytest.raises(Stopped):
        list(probe(cell, tmp_path, [one], should_stop=lambda: True))


def test_a_score_that_is_not_defined_is_none(tmp_path):
    path = write_images(tmp_path / "bars.npz", classes=2)
    arrays = dict(np.load(path))
    arrays["test_labels"] = (np.arange(60) == 7)[:, None].astype(
        np.uint8
    )  # one positive: DeLong's variance needs two
    np.savez(path, **arrays)
    values = run(make_cell(None, "random@1"), tmp_path / "run", [make_probe(path)])["binary-class"].values
    assert values["auc_se_delong"] is None
    assert all(math.isfinite(value) for value in values.values() if isinstance(value, float))


def test_a_limited_train_split_is_stratified_and_nested(tmp_path):
    path = write_images(tmp_path / "bars.npz", train=200, classes=4)
    images, labels = read_split(path, "train")
    small, large = (limited(images, labels, n) for n in (40, 100))
    assert set(small) < set(large)
    assert np.bincount(labels[small, 0]).tolist() == [10] * 4
    assert len(large) == 100
    order = np.random.default_rng(0).permutation(200)
    assert set(order[limited(images[order], labels[order], 40)]) == set(small)


def run(cell, folder, probes):
    pretrain(cell, folder)
    return {one.kind: result for one, result in probe(cell, folder, probes)}


def test_an_encoder_and_pixels_read_bars_and_the_values_repeat(tmp_path):
    path = write_images(tmp_path / "bars.npz", classes=2)
    one = make_probe(path)
    for recipe in ("random@1", "pixels@1"):
        cell = make_cell(None, recipe)
        first, second = (run(cell, tmp_path / recipe, [one])["binary-class"] for _ in range(2))
        assert first.values == second.values
        assert first.values["auc"] > 0.95
        assert first.values["auc_lo"] <= first.values["auc"] <= first.values["auc_hi"]
        assert (first.values["n_train"], first.values["n_test"]) == (96, 60)
        assert first.cost["seconds"] > 0


def test_two_encoders_are_resampled_alike_so_that_their_difference_is_paired(tmp_path):
    path = write_images(tmp_path / "bars.npz", classes=4, test=120)
    one, draws = make_probe(path, "multi-class"), []
    for seed in (0, 1):
        result = run(make_cell(None, "random@1", seed=seed), tmp_path / str(seed), [one])["multi-class"]
        draws.append((np.load(io.BytesIO(result.files["auc_draws.npy"])), result.values["auc_se"]))
    (first, se_first), (second, se_second) = draws
    assert first.std(ddof=1) == pytest.approx(se_first, rel=1e-4)
    assert (first - second).std() < 0.95 * np.hypot(se_first, se_second)


def test_random_labels_give_chance(tmp_path):
    path = write_images(tmp_path / "bars.npz", classes=2, train=200, val=100, test=200)
    arrays = dict(np.load(path))
    rng = np.random.default_rng(4)
    for split in ("train", "val", "test"):
        arrays[f"{split}_labels"] = rng.permutation(arrays[f"{split}_labels"])
    np.savez(path, **arrays)
    values = run(make_cell(None, "random@1"), tmp_path / "run", [make_probe(path)])["binary-class"].values
    assert abs(values["auc"] - 0.5) < 3 * values["auc_se"]


def test_several_labels_and_ordered_classes_are_read_out_too(tmp_path):
    path = write_images(tmp_path / "bars.npz", classes=4)
    arrays = dict(np.load(path))
    several = tmp_path / "several.npz"
    for split in ("train", "val", "test"):
        labels = arrays[f"{split}_labels"]
        arrays[f"{split}_labels"] = np.concatenate([labels < 2, labels % 2], axis=1).astype(np.uint8)
    np.savez(several, **arrays)
    probes = [make_probe(path, "ordinal-regression"), make_probe(several, "multi-label")]
    results = run(make_cell(None, "random@1"), tmp_path / "run", probes)
    for result in results.values():
        assert result.values["auc_lo"] > 0.5
    assert results["multi-label"].values["classes"] == 2


def test_unusable_tasks_and_encoders_are_reported(tmp_path):
    path = write_images(tmp_path / "bars.npz")
    cell = make_cell(None, "random@1")
    with pytest.raises(OrchError, match=r"encoder.safetensors is missing"):
        list(probe(cell, tmp_path, [make_probe(path)]))
    pretrain(cell, tmp_path)
    with pytest.raises(OrchError, match="is missing, damaged, or not the encoder"):
        list(probe(make_cell(None, "random@1", width=64, heads=2), tmp_path, [make_probe(path)]))
    one = make_probe(path)
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"train_labels": np.zeros_like(arrays["train_labels"])})
    with pytest.raises(OrchError, match="has changed since the plan was made"):
        list(probe(cell, tmp_path, [one]))
    with pytest.raises(OrchError, match="single class"):
        list(probe(cell, tmp_path, [replace(one, fingerprint=inspect_npz(path).fingerprint)]))
