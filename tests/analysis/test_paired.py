"""Paired comparisons of predictions, against definitions and other packages."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from orch_analysis.tasks.paired import holm, mcnemar, paired
from orch_core.errors import OrchError
from orch_core.protocols.ranking import delong_difference
from orch_core.study.predictions import predictions_of, read_predictions


def two_encoders(seed=0, n=300, kind="binary-class", gain=0.7):
    """A weak and a better encoder whose errors are correlated."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, 1)) if kind == "binary-class" else rng.integers(0, 3, (n, 1))
    columns = labels == (1 if kind == "binary-class" else np.arange(3))
    common, ids = rng.standard_normal(columns.shape), np.arange(n, dtype=np.uint64)
    found = []
    for strength in (0.6, 0.6 + gain):
        odds = strength * columns + common + 0.3 * rng.standard_normal(columns.shape)
        scores = (
            1 / (1 + np.exp(-odds))
            if kind == "binary-class"
            else np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
        )
        found.append(predictions_of(scores, labels, ids, kind=kind, classes=max(2, columns.shape[1])))
    return *found, labels[:, 0]


def test_delongs_difference_is_the_variance_of_paired_placements():
    """DeLong et al. 1988, equation 5, by all pairs: var of the difference from the 2 x 2 covariances of placements."""
    first, second, truth = two_encoders()
    scores = [one.scores[:, 0] for one in (first, second)]
    difference, error = delong_difference(*scores, truth)
    assert difference == pytest.approx(
        roc_auc_score(truth, scores[1]) - roc_auc_score(truth, scores[0]), abs=1e-12
    )
    placed = []
    for score in scores:
        x, y = score[truth == 1], score[truth == 0]
        psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        placed.append((psi.mean(1), psi.mean(0)))
    contrast = np.array([-1, 1])
    s10, s01 = np.cov([one[0] for one in placed]), np.cov([one[1] for one in placed])
    m, n = len(placed[0][0]), len(placed[0][1])
    assert error == pytest.approx(np.sqrt(contrast @ (s10 / m + s01 / n) @ contrast), rel=1e-12)


def test_the_auc_of_a_binary_task_has_delongs_p_value_and_a_bootstrap_that_agrees():
    first, second, truth = two_encoders()
    found = paired(first, second, "auc")
    difference, error = delong_difference(first.scores[:, 0], second.scores[:, 0], truth)
    assert found.test == "DeLong"
    assert found.p_value == pytest.approx(2 * norm.sf(abs(difference) / error))
    assert found.second - found.first == pytest.approx(found.difference) == pytest.approx(difference)
    assert (found.hi - found.lo) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_mcnemar_is_statsmodels_exact_test():
    rng = np.random.default_rng(1)
    first, second = rng.random(90) < 0.6, rng.random(90) < 0.75
    table = [
        [(first & second).sum(), (first & ~second).sum()],
        [(~first & second).sum(), (~first & ~second).sum()],
    ]
    assert mcnemar(first, second) == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    assert mcnemar(first, first) == 1


def test_holm_is_statsmodels():
    values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.6}
    expected = multipletests(list(values.values()), method="holm")[1]
    assert list(holm(values).values()) == pytest.approx(sorted(expected))
    assert holm(values) == pytest.approx(dict(zip(values, expected, strict=True)))


def test_an_encoder_does_not_differ_from_itself():
    first, _, _ = two_encoders(kind="multi-class")
    for metric in ("auc", "accuracy", "log_loss", "f1"):
        found = paired(first, first, metric, resamples=50)
        assert (found.difference, found.lo, found.hi) == (0, 0, 0)


def test_a_better_encoder_is_better_by_every_metric():
    first, second, _ = two_encoders(kind="multi-class", gain=2.0, n=500)
    for metric, sign in {
        "auc": 1,
        "accuracy": 1,
        "balanced_accuracy": 1,
        "log_loss": -1,
        "brier": -1,
    }.items():
        found = paired(first, second, metric, resamples=200)
        assert min(sign * found.lo, sign * found.hi) > 0, metric


def test_other_images_are_refused_and_so_is_an_unknown_metric():
    first, second, _ = two_encoders()
    other, _, _ = two_encoders(seed=3)
    with pytest.raises(OrchError, match="other images or labels"):
        paired(first, other, "auc")
    with pytest.raises(OrchError, match="no metric is called 'acu'"):
        paired(first, second, "acu")


@pytest.mark.parametrize("kind", ["binary-class", "multi-class"])
def test_predictions_on_disk_are_the_predictions(tmp_path, kind):
    first, _, truth = two_encoders(kind=kind)
    path = tmp_path / "predictions.npz"
    path.write_bytes(first.to_bytes())
    read = read_predictions(path)
    assert read.split == first.split
    np.testing.assert_array_equal(read.logs, first.logs)
    np.testing.assert_array_equal(read.labels[:, 0], truth)
    assert path.stat().st_size < 300 * (2 * first.logs.shape[1] + 8 + 2) + 2000
    path.write_bytes(first.to_bytes()[:-40])
    with pytest.raises(OrchError, match="damaged"):
        read_predictions(path)
    with pytest.raises(OrchError, match="no predictions"):
        read_predictions(tmp_path / "other.npz")


def test_float16_logarithms_keep_the_auc_of_confident_scores():
    """Probabilities that float16 itself would round to one: the order survives."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (400, 1))
    odds = 9 + 1.5 * labels + rng.standard_normal((400, 1))
    scores = 1 / (1 + np.exp(-odds))
    kept = predictions_of(scores, labels, np.arange(400, dtype=np.uint64), kind="binary-class", classes=2)
    exact = roc_auc_score(labels[:, 0], scores[:, 0])
    assert len(np.unique(scores.astype(np.float16))) < 10
    assert roc_auc_score(labels[:, 0], kept.scores[:, 0]) == pytest.approx(exact, abs=2e-3)
