"""Factors against measurements on the shipped images and against independent formulas."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from orch_analysis.reports.blocks import page_figures
from orch_analysis.reports.study_findings import study_findings
from orch_analysis.tasks import factors
from orch_analysis.tasks.factors import BY_NAME, FACTORS, Factor, factors_of, task_factors

IMAGES = Path(__file__).parents[2] / "experiments" / "images"


def save(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    cut = len(images) // 2
    parts = {"train": slice(0, cut), "val": slice(cut, cut + 10), "test": slice(cut + 10, None)}
    arrays = {f"{k}_images": images[s] for k, s in parts.items()} | {
        f"{k}_labels": labels[s] for k, s in parts.items()
    }
    np.savez(path, **arrays)
    return path


def davies_bouldin(points: np.ndarray, labels: np.ndarray) -> float:
    """Davies & Bouldin 1979: mean over clusters of the worst (s_i + s_j) / d_ij."""
    groups = [points[labels == label] for label in np.unique(labels)]
    centres = [group.mean(0) for group in groups]
    spread = [np.linalg.norm(g - c, axis=1).mean() for g, c in zip(groups, centres, strict=True)]
    pairs = range(len(groups))
    return float(
        np.mean(
            [
                max(
                    (spread[i] + spread[j]) / np.linalg.norm(centres[i] - centres[j]) for j in pairs if j != i
                )
                for i in pairs
            ]
        )
    )


# Whole source sets: gzip/raw as RGB, gzip bytes, Davies-Bouldin on pixels, measured once and noted in the reference
# study's anchors. breast is shipped whole; blood and tissue are subsets, whose medians lie within a percent.
@pytest.mark.parametrize(
    ("task", "rgb", "bytes_", "dbi"),
    [
        ("breast", 0.583, 787, 6.16),
        ("blood", 0.859, 2020, None),
        ("tissue", 0.396, 572, None),
        ("pneumonia", 0.560, 757, None),
    ],
)
def test_shipped_images_give_the_measured_factors(task, rgb, bytes_, dbi):
    found = factors_of(IMAGES / f"{task}.npz")
    assert found["gzip_rgb"] == pytest.approx(rgb, rel=0.015)
    assert found["gzip_bytes"] == pytest.approx(bytes_, rel=0.015)
    if dbi:
        assert found["dbi_pixels"] == pytest.approx(dbi, abs=0.005)
        assert found["dbi_pca50"] == pytest.approx(5.81, abs=0.02)


def test_definitions_by_independent_formulas(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    images = np.clip(rng.normal(100 + 40 * labels[:, None, None], 20, (90, 8, 8)), 0, 255).astype(np.uint8)
    found = factors_of(save(tmp_path / "t.npz", images, labels[:, None]))
    share = np.bincount(labels) / 90
    assert found["entropy"] == pytest.approx(float(-(share * np.log(share)).sum()))
    assert found["entropy_ratio"] == pytest.approx(found["entropy"] / np.log(3))
    assert found["gzip_bytes"] == np.median([len(gzip.compress(i.tobytes())) for i in images])
    assert found["gzip_native"] == pytest.approx(found["gzip_bytes"] / 64)
    assert found["dbi_pixels"] == pytest.approx(
        davies_bouldin(images.reshape(90, -1) / 255, labels), rel=1e-5
    )
    assert (found["n_train"], found["n_total"], found["classes"], found["classes_binary"]) == (45, 90, 3, 3)


def test_multi_label_tasks_have_two_class_counts_and_no_cluster_index(tmp_path):
    rng = np.random.default_rng(1)
    path = save(
        tmp_path / "m.npz", rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), rng.integers(0, 2, (60, 14))
    )
    found = factors_of(path)
    assert (found["classes"], found["classes_binary"]) == (14, 2)
    assert found["dbi_pixels"] is None
    assert found["entropy"] is None
    assert "multi-label" in found["notes"]


def test_one_class_has_no_cluster_index(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    found = factors_of(save(tmp_path / "m.npz", images, np.zeros((60, 1), int)))
    assert (found["dbi_pixels"], found["entropy"], found["entropy_ratio"]) == (None, 0.0, None)


def test_a_missing_file_gives_a_note_not_an_error(tmp_path):
    table = task_factors({"gone": (tmp_path / "gone.npz", "")})
    assert table["n_train"].item() is None
    assert "does not exist" in table["notes"].item()


def test_every_factor_has_its_words_and_the_report_documents_it():
    assert len(BY_NAME) == len(FACTORS)
    for factor in FACTORS:
        assert all((factor.label, factor.definition, factor.unit, factor.source))
    readme = (Path(factors.__file__).parents[1] / "reports" / "README.md").read_text(encoding="utf-8")
    assert [factor.name for factor in FACTORS if f"`{factor.name}`" not in readme] == []


def test_a_registered_factor_reaches_table_correlations_and_figure(monkeypatch, make_study):
    """One entry in FACTORS is all that a new factor takes."""
    mean = Factor(
        name="brightness", label="mean pixel", definition="mean pixel value", unit="grey levels", source="this test",
        of=lambda task: float(task.images.mean()), drawn=True,
    )  # fmt: skip
    monkeypatch.setattr(factors, "FACTORS", (*FACTORS, mean))
    monkeypatch.setattr(factors, "BY_NAME", {**BY_NAME, "brightness": mean})
    monkeypatch.setattr(page_figures, "BY_NAME", factors.BY_NAME)
    monkeypatch.setattr("orch_analysis.reports.study_findings.FACTORS", factors.FACTORS)
    maker = make_study()
    maker.whole()
    found = study_findings(maker.study, bootstrap=20)
    assert "brightness" in found.factor_names
    assert "brightness" in found.correlations["auc"]["factor"].to_list()
    figure = page_figures.factor_scatter(
        found.main_slopes("auc"), found.grouped, found.correlations["auc"], found.factor_names, "AUC"
    )
    assert "mean pixel" in [axes.get_title(loc="left") for axes in figure.axes]
