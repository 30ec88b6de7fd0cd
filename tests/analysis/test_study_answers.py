"""The answers of a study's report: every axis that the grid varies has a sentence, and numbers agree with each other."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from orch_analysis.reports import study_figures, study_sentences
from orch_analysis.reports.blocks.page_figures import draw_all
from orch_analysis.reports.study_findings import study_findings
from orch_analysis.reports.study_page import study_page
from orch_analysis.tasks.contrasts import contrasts
from orch_analysis.tasks.slopes import loss_obstacle, pretraining_slopes
from orch_core.cell import Model

SIZES = tuple(Model(name=f"w{width}", width=width, depth=4, heads=4) for width in (32, 64, 128, 192))
FILES = dict.fromkeys(
    (
        "pretraining",
        "scores",
        "slopes",
        "joint",
        "contrasts",
        "protocols",
        "factors",
        "correlations",
        "ledger",
    ),
    (),
)


def findings(maker):
    maker.plan()
    return study_findings(maker.study, bootstrap=20)


def texts(found) -> str:
    answers = study_sentences.answers(found)
    return " ".join([study_sentences.lead(found), *(f"{one.claim} {one.numbers}" for one in answers)])


@pytest.fixture(scope="module")
def lengths(make_study):
    """Four sizes at five lengths on one number of images."""
    maker = make_study(noise=0.003, seed=2)
    for model in SIZES:
        maker.cell("random", model, "", 0)
        for passes in (5, 10, 20, 40, 80):
            maker.cell("mae", model, "all", 1000, passes=passes)
    return findings(maker)


def test_a_study_of_sizes_and_lengths_answers_for_both(lengths):
    text = texts(lengths)
    assert "Held-out pretraining loss falls with encoder parameters (MAE) and samples seen (MAE)." in text
    assert "MAE: held-out loss falls with encoder parameters, samples seen and training FLOPs." in text
    (slope,) = [row.slope for row in lengths.loss if row.axis == "samples_seen"]
    assert slope == pytest.approx(-0.2, abs=0.01)
    assert "Along samples seen: slope −0.2" in text
    assert "with samples seen in" in text  # the tasks' slopes too
    assert {row.axis for row in lengths.probes if row.algorithm == "mae"} == {
        "params_encoder",
        "samples_seen",
        "flops_train",
    }


def test_figures_of_the_tasks_follow_every_axis_that_varies(lengths, tmp_path):
    drawn = draw_all(study_figures.FIGURES, lengths, tmp_path)
    names = [picture.name for picture in drawn.of("tasks")]
    assert "scores-samples" in names
    assert "scores-images" not in names


def test_two_values_are_named_and_compared_pair_by_pair(make_study):
    maker = make_study(noise=0.01)
    for model in SIZES[:3]:
        for images in (500, 4000):
            maker.cell("mae", model, "all", images)
    found = findings(maker)
    text = texts(found)
    assert "Pretraining images take 2 values (500 and 4k); a slope needs 3." in text
    assert "Samples seen change only together with pretraining images" in text
    assert "In cells that differ in pretraining images alone, test AUC" in text
    assert "4k minus 500" in text


def test_axes_that_grow_together_are_one_law(make_study):
    maker = make_study()
    for model, images in zip(SIZES, (500, 1000, 2000, 4000), strict=True):
        maker.cell("mae", model, "all", images)
    found = findings(maker)
    assert {row.axis for row in (*found.loss, *found.probes)} == {"params_encoder"}
    assert (
        "Pretraining images change only together with encoder parameters: one slope describes both."
        in texts(found)
    )


def test_flops_are_no_second_law_of_sizes_that_see_as_many_samples(make_study):
    maker = make_study()
    for model in SIZES:
        maker.cell("mae", model, "all", 500)
    found = findings(maker)
    assert [row.axis for row in found.loss] == ["params_encoder"]


def test_algorithms_mixes_and_resolutions_have_an_answer(make_study):
    maker = make_study(noise=0.01)
    maker.whole()
    text = texts(findings(maker))
    assert "In cells that differ in algorithm alone, test AUC" in text
    assert "MoCo v3 minus MAE: " in text
    assert "In cells that differ in mix alone, test AUC" in text


def test_algorithms_without_equal_cells_cannot_be_compared(make_study):
    maker = make_study()
    for model in SIZES[:3]:
        maker.cell("mae", model, "all", 500)
        maker.cell("moco-v3", model, "all", 1000)
    assert "Algorithms cannot be compared: no two cells differ in algorithm alone." in texts(findings(maker))


def test_contrasts_are_paired_and_their_interval_is_student_t_over_tasks():
    rng = np.random.default_rng(0)
    tasks = {f"t{i}": rng.normal(0.05, 0.02) for i in range(6)}
    rows = [
        {
            "algorithm": name, "mix": "all", "model": f"w{size}", "params_encoder": 12.0 * size, "images": 500.0,
            "samples_seen": 5000.0, "resolution": 28, "patch": 4, "seed": seed, "task": task,
            "auc": 0.6 + size / 1000 + seed / 100 + (gap if name == "b" else 0.0),
        }
        for task, gap in tasks.items() for name in "ab" for size in (32, 64, 128) for seed in (0, 1)
    ]  # fmt: skip
    (found,) = contrasts(pl.DataFrame(rows))
    assert (found.axis, found.first, found.second, found.pairs) == ("algorithm", "a", "b", 6)
    assert found.tasks == pytest.approx(tasks)
    theirs = stats.ttest_1samp(list(tasks.values()), 0).confidence_interval()
    assert found.interval == pytest.approx(tuple(theirs))
    assert found.differs is bool(theirs.low > 0)


def test_device_time_is_one_number_everywhere(make_study):
    maker = make_study()
    maker.cell("mae", SIZES[0], "all", 500)  # 15 s of pretraining and 4 probes of 1 s
    found = findings(maker)
    assert found.device_time.total * 3600 == pytest.approx(19)
    assert float(found.cells["minutes"].sum()) * 60 == pytest.approx(19)
    page = study_page(found, draw_all((), found, maker.study.root), FILES)
    assert ("19 s", "device time (4 s of it probes)") in page.facts
    assert any("The whole study took 19 s of device time." in text for text in study_sentences.caveats(found))
    blocks = [block for section in page.sections for block in section.blocks]
    (sizes,) = [block for block in blocks if getattr(block, "name", "") == "table-sizes"]
    assert sizes.rows[0][-2:] == ("15 s", "4 s")


def test_every_figure_belongs_to_a_section_of_the_page(make_study):
    maker = make_study()
    maker.cell("mae", SIZES[0], "all", 500)
    found = findings(maker)
    page = study_page(found, draw_all((), found, maker.study.root), FILES)
    sections = {section.id for section in page.sections} | {
        "benefits"
    }  # which a study of one task does not have
    assert {figure.section for figure in study_figures.FIGURES} <= sections


def test_a_factor_can_be_selected(make_study):
    maker = make_study(noise=0.01)
    maker.whole()
    found = study_findings(maker.study, factors=("headroom",), bootstrap=20)
    assert found.correlations["auc"]["factor"].unique().to_list() == ["headroom"]


def runs_of(recipe: str, batches=(100,), readout: bool = True) -> pl.DataFrame:
    rows = [
        {"algorithm": recipe.removesuffix("@1"), "mix": "all", "recipe": recipe, "batch": batch, "params_encoder": size,
         "images": 1000.0, "samples_seen": seen, "flops_train": size * seen, "heldout_loss": seen**-0.1 * size**0.06,
         **({"knn_accuracy": 1 - 0.5 * size**-0.08 * seen**-0.02} if readout else {})}
        for size in (1e5, 1e6, 1e7) for seen in (1e4, 1e5, 1e6) for batch in batches
    ]  # fmt: skip
    return pl.DataFrame(rows)


def loss_slopes(runs: pl.DataFrame) -> dict[str, tuple[str, float]]:
    found = pretraining_slopes(SimpleNamespace(pretraining=runs))
    return {row.axis: (row.value, round(row.slope, 6)) for row in found}


def test_a_loss_whose_unit_changes_with_size_has_no_law_along_size():
    """dinov2@1 has 64 x width prototypes: its loss grows with ln K, whatever the encoder learns."""
    found = loss_slopes(runs_of("dinov2@1"))
    assert found["params_encoder"] == ("readout_error", -0.08)
    assert found["samples_seen"] == ("heldout_loss", -0.1)
    assert "prototypes" in loss_obstacle(runs_of("dinov2@1"), "params_encoder")
    assert "params_encoder" not in loss_slopes(runs_of("dinov2@1", readout=False))
    assert loss_slopes(runs_of("mae@1"))["params_encoder"] == ("heldout_loss", 0.06)


def test_contrastive_losses_of_different_batches_are_not_pooled():
    assert {value for value, _ in loss_slopes(runs_of("moco-v3@1", (100, 200))).values()} == {"readout_error"}
    assert loss_slopes(runs_of("moco-v3@1"))["params_encoder"][0] == "heldout_loss"


def test_outdated_records_are_counted_apart_from_missing_results():
    ledger = pl.DataFrame({"task": ["", "blood", "blood"], "cause": ["missing", "outdated", "outdated"]})
    missing, outdated = study_sentences.missing_answer(ledger)
    assert missing.claim == "1 result of the plan is missing: 1 missing."
    assert outdated.claim == "2 records are outdated: 2 blood."
