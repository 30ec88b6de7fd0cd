"""Metrics against medmnist's own evaluator (tests/data/medmnist/expected.json, and how it was made) and scikit-learn."""

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from orch_core.protocols import classification as ours
from orch_core.protocols.ranking import auc, correct, indicator

HERE = Path(__file__).parents[1] / "data" / "medmnist"
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
SPEC = importlib.util.spec_from_file_location("medmnist_make", HERE / "make.py")
MAKE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MAKE)
KINDS = list(MAKE.KINDS)


@pytest.mark.parametrize("name", EXPECTED)
def test_auc_and_accuracy_are_what_medmnists_evaluator_gave(name):
    kind, form, seed = name.split()
    labels, scores = MAKE.case(kind, form, int(seed))
    classes = 2 if kind == "binary-class" else scores.shape[1]
    area, accuracy = EXPECTED[name]
    assert auc(scores, indicator(labels, kind, classes))[0] == pytest.approx(area, abs=1e-12)
    assert correct(scores, labels, kind).mean() == pytest.approx(accuracy, abs=1e-12)


def drawn(kind, seed, form):
    labels, scores = MAKE.case(kind, form, seed)
    if kind in {"multi-class", "ordinal-regression"}:
        scores = scores / scores.sum(1, keepdims=True)
    return labels, scores


def each(kind, labels, scores):
    """Truth and score, label by label; one pair for a task of one label."""
    return list(zip(labels.T, scores.T, strict=True)) if kind == "multi-label" else [(labels[:, 0], scores)]


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(KINDS), st.integers(0, 10_000), st.sampled_from(["continuous", "ties", "half", "rare"])
)
def test_metrics_are_scikit_learns(kind, seed, form):
    labels, scores = drawn(kind, seed, form)
    if kind in {"multi-class", "ordinal-regression"} and not np.isfinite(scores).all():
        return
    binary = kind in {"binary-class", "multi-label"}
    classes = scores.shape[1]
    found = {name: [] for name in ours.METRICS}
    for truth, score in each(kind, labels, scores):
        positive = score.reshape(len(truth), -1)[:, 0] if binary else None
        guess = (positive > 0.5).astype(int) if binary else score.argmax(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found["balanced_accuracy"].append(sk.balanced_accuracy_score(truth, guess))
            found["f1"].append(
                sk.f1_score(truth, guess, average="binary" if binary else "macro", zero_division=0)
            )
            if binary:
                found["average_precision"].append(sk.average_precision_score(truth, positive))
                found["brier"].append(sk.brier_score_loss(truth, positive))
                found["log_loss"].append(sk.log_loss(truth, positive, labels=[0, 1]))
            else:
                columns = [
                    sk.average_precision_score(truth == k, score[:, k])
                    for k in range(classes)
                    if (truth == k).any()
                ]
                found["average_precision"].append(np.mean(columns))
                found["brier"].append(((np.eye(classes)[truth] - score) ** 2).sum(1).mean())
                found["log_loss"].append(sk.log_loss(truth, score, labels=range(classes)))
                if kind == "ordinal-regression":
                    found["quadratic_kappa"].append(sk.cohen_kappa_score(truth, guess, weights="quadratic"))
    for name, values in found.items():
        if values and np.isfinite(values).all():
            assert ours.METRICS[name](scores, labels, kind) == pytest.approx(np.mean(values), abs=1e-9), name


def test_the_calibration_error_is_that_of_bins_by_hand():
    """Ten images at confidence .9 of which 6 are right, ten at .6 of which 6 are right: (|.6 - .9| + 0) / 2."""
    scores = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array(([0] * 6 + [1] * 4) * 2)[:, None]
    assert ours.calibration_error(scores, labels, "multi-class") == pytest.approx(0.15)
    assert ours.calibration_error(scores[:, 1:], labels, "binary-class") == pytest.approx(0.15)


def test_what_is_not_defined_is_not_a_number():
    labels, scores = np.zeros((5, 1), int), np.full((5, 1), 0.2)
    assert np.isnan(ours.average_precision(scores, labels, "binary-class"))
    assert np.isnan(ours.quadratic_kappa(scores, labels, "binary-class"))
    assert ours.log_loss(np.array([[1.0, 0.0]]), np.array([[1]]), "multi-class") == pytest.approx(
        -np.log(2.0**-52)
    )
