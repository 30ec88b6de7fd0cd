"""Several probing protocols in one study: which slopes and differences keep their sign."""

from dataclasses import asdict, replace

import numpy as np
import polars as pl
import pytest

from orch_analysis.reports.study_report import report_study
from orch_analysis.tables.study_tables import read_results
from orch_analysis.tasks.across_protocols import across_protocols, by_main_protocol
from orch_core.study.rows import task_labels
from orch_core.study.stored import publish


def with_second_protocol(maker, auc_of, protocol="knn@1"):
    """Every probe of the study once more by another protocol, its AUC a function of the first's record."""
    study = maker.whole()
    linear = maker.probes()
    for record in [one for one in study.records() if one.task]:
        first = next(one for one in linear if one.task == record.task)
        second = replace(first, protocol=protocol)
        auc = auc_of(record, study.cell(record.cell))
        values = {**record.values, "auc": auc, "auc_lo": auc - 0.01, "auc_hi": auc + 0.01}
        folder = study.probe_folder(record.cell, second)
        folder.mkdir(parents=True)
        provenance = {**record.provenance, "probe": asdict(second)}
        publish(folder, replace(record, probe=second.id, values=values, provenance=provenance))
    maker.plan(probes=[*linear, *(replace(one, protocol=protocol) for one in linear)])
    return study


def mirrored(record, _cell):
    """An error of 0.01 / error: its slopes are the opposite."""
    return 1 - 0.01 / (1 - record.values["auc"])


def test_probes_of_one_task_by_two_protocols_never_share_a_label(make_study):
    study = with_second_protocol(make_study(), mirrored)
    results = read_results(study)
    labels = results.probes.select("task", "task_name", "protocol").unique()
    assert set(labels.filter(pl.col("protocol") == "linear@1")["task"]) == {
        "blood",
        "breast",
        "pneumonia",
        "tissue",
    }
    assert "blood (knn@1)" in labels["task"].to_list()
    assert labels.select("task").n_unique() == labels.height == 8
    assert results.ledger.is_empty()


def test_laws_are_those_of_the_first_protocol_alone(make_study):
    alone = read_results(make_study().whole())
    both = read_results(with_second_protocol(make_study(), mirrored))
    kept = by_main_protocol(both).probes.sort("cell", "task").drop("draws")
    assert kept.equals(alone.probes.sort("cell", "task").drop("draws"))
    assert across_protocols(alone) == []


@pytest.mark.parametrize("same", [True, False])
def test_the_sign_of_a_slope_under_each_protocol_is_compared(make_study, same):
    function = (lambda record, _: record.values["auc"]) if same else mirrored
    rows = across_protocols(read_results(with_second_protocol(make_study(), function)))
    slopes = [row for row in rows if row.quantity == "slope"]
    differences = [row for row in rows if row.quantity == "difference"]
    assert slopes
    assert differences
    for row in slopes:
        (first, ends), (second, _) = row.estimates["linear@1"], row.estimates["knn@1"]
        assert second == pytest.approx(first if same else -first, abs=1e-9)
        assert row.keeps_sign is same
        assert row.reverses is (not same and not ends[0] <= 0 <= ends[1])
    assert all(np.isfinite(value) for row in differences for value, _ in row.estimates.values())
    assert {row.subject.split(":")[0] for row in differences} == {"algorithm", "mix"}


def test_the_report_contains_the_table_of_signs(make_study, tmp_path):
    study = with_second_protocol(make_study(), mirrored)
    page = report_study(study.root, tmp_path / "out", bootstrap=20).read_text(encoding="utf-8")
    assert "0 of" in page
    assert "slopes and differences have one sign under knn@1 and linear@1" in page
    assert "Slopes and differences under every probing protocol." in page
    table = pl.read_csv(tmp_path / "out" / "tables" / "protocols.csv")
    assert set(table["protocol"]) == {"linear@1", "knn@1"}


def test_a_protocol_that_is_added_does_not_change_the_labels_of_the_first(make_study):
    study = with_second_protocol(make_study(), mirrored)
    records = [one for one in study.records() if one.task]
    before = task_labels(one for one in records if "probe" not in one.provenance)  # made by the first
    after = task_labels(records)
    assert before.items() <= after.items()
