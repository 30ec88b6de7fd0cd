"""Reading a study: rows, numbers, and what is left out."""

from __future__ import annotations

from dataclasses import asdict, replace

import polars as pl
import pytest

from orch_analysis.tables.study_tables import read_curves, read_results
from orch_core.cell import Model
from orch_core.study.record import Reason, Record
from orch_core.study.stored import publish

WIDE = Model(name="w32", width=32, depth=4, heads=4)


def test_a_row_per_run_and_per_cell_and_task(make_study):
    study = make_study().whole()
    results = read_results(study)
    cells = (
        4 + 4 * 2 * 5 + 1
    )  # random; sizes x algorithms x (4 data sizes of one mix, 1 of the other); pixels
    assert results.pretraining.height == cells
    assert results.probes.height == cells * 4
    assert results.ledger.is_empty()


def test_numbers_are_those_of_the_records(make_study):
    study = make_study().whole()
    results = read_results(study)
    for record in study.records():
        table = results.probes if record.task else results.pretraining
        rows = table.filter(
            pl.col("cell") == record.cell, *([pl.col("task") == record.task] if record.task else [])
        )
        assert rows.height == 1
        row = rows.row(0, named=True)
        assert {key: row[key] for key in record.values} == dict(record.values)


def test_probes_carry_their_cells_size_and_labels(make_study):
    maker = make_study()
    cell = maker.cell("mae", WIDE, "all", 500)
    row = read_results(maker.study).probes.row(0, named=True)
    assert (row["algorithm"], row["model"], row["mix"], row["images"]) == ("mae", "w32", "all", 500.0)
    assert row["params_encoder"] == 12 * 4 * 32**2
    assert row["samples_seen"] == cell.samples_seen


def test_curves_follow_metrics_and_survive_a_torn_line(make_study):
    maker = make_study()
    cell = maker.cell("mae", WIDE, "all", 500)
    with (maker.study.cell_folder(cell.id) / "metrics.ndjson").open("a") as file:
        file.write('{"step": 51, "lo')
    curves = read_curves(maker.study, read_results(maker.study).pretraining)
    assert curves.height == 10
    assert curves["flops_spent"].max() == 300 * 12 * 4 * 32**2 * 5000
    assert curves["samples_seen"].max() == 5000


def test_what_gave_nothing_is_in_the_ledger_with_its_reason(make_study):
    maker = make_study()
    failed = maker.fail(WIDE)
    begun = maker.cell("mae", WIDE, "all", 500, probes=False)
    (maker.study.cell_folder(begun.id) / "record.json").unlink()
    diverged = maker.cell("moco-v3", WIDE, "all", 500, probes=False)
    (maker.study.cell_folder(diverged.id) / "record.json").unlink()
    reason = Reason(cause="diverged", message="loss is nan at step 7")
    publish(
        maker.study.cell_folder(diverged.id),
        Record(cell=diverged.id, name=diverged.name, status="diverged", reason=reason),
    )
    results = read_results(maker.study)
    causes = dict(results.ledger.select("cell", "cause").iter_rows())
    assert causes == {failed.id: "out_of_memory", begun.id: "missing", diverged.id: "diverged"}
    assert results.ledger.filter(cell=failed.id)["log"].item() == "cells/x/attempts/1/log.txt"
    assert results.pretraining.is_empty()


def test_planned_but_unstarted_work_is_missing(make_study):
    maker = make_study()
    cell = maker.cell("mae", WIDE, "all", 500)
    other = replace(cell, model=Model(name="w64", width=64, depth=4, heads=4))
    tasks = [maker.probe_of("tissue"), replace(maker.probe_of("tissue"), task="new", fingerprint="new")]
    maker.plan([cell, other], tasks)
    results = read_results(maker.study)
    missing = results.ledger.filter(cause="missing")
    assert missing.select("name", "task").rows() == [
        ("mae-w32-all-500-s0", "new"),
        ("mae-w64-all-500-s0", ""),
    ]
    assert list(results.tasks) == ["tissue", "new"]


def test_scores_of_a_replaced_task_or_another_limit_are_not_pooled_with_the_old_ones(make_study):
    maker = make_study()
    cell = maker.cell("mae", WIDE, "all", 500)
    changed = [
        replace(maker.probe_of("tissue"), fingerprint="replaced"),
        replace(maker.probe_of("blood"), train_limit=100),
    ]
    for probe, auc in zip(changed, (0.6, 0.7), strict=True):
        folder = maker.study.probe_folder(cell.id, probe)
        folder.mkdir()
        record = Record(
            cell=cell.id, name=cell.name, status="done", task=probe.task, probe=probe.id, values={"auc": auc},
            provenance={"probe": asdict(probe)},
        )  # fmt: skip
        publish(folder, record)
    maker.plan([cell], changed)
    results = read_results(maker.study)
    assert dict(results.probes.select("task", "auc").iter_rows()) == {"tissue": 0.6, "blood": 0.7}
    assert set(results.probes["probe"]) == {probe.id for probe in changed}
    assert results.probes.filter(task="blood")["train_limit"].item() == 100
    outdated = results.ledger.filter(cause="outdated")
    assert sorted(outdated["task"]) == sorted(
        probe.task for probe in maker.probes()
    )  # the old probes of these two, and those that were taken out
    assert set(results.ledger["cause"]) == {"outdated"}


def test_cells_that_the_plan_dropped_are_named_and_fitted_no_more(make_study):
    maker = make_study()
    kept, dropped = (maker.cell("mae", WIDE, "all", images, probes=False) for images in (500, 1000))
    maker.plan([kept], [])
    results = read_results(maker.study)
    assert results.pretraining["cell"].to_list() == [kept.id]
    assert results.ledger.select("cell", "name", "cause").rows() == [(dropped.id, dropped.name, "outdated")]
    assert read_results(maker.study, planned_only=False).pretraining.height == 2


def test_two_probes_of_a_task_are_two_rows_that_say_which(make_study):
    maker = make_study()
    cell = maker.cell("mae", WIDE, "all", 500)
    few = replace(maker.probe_of("blood"), train_limit=10)
    folder = maker.study.probe_folder(cell.id, few)
    folder.mkdir()
    record = Record(
        cell=cell.id, name=cell.name, status="done", task="blood", probe=few.id, values={"auc": 0.5}
    )
    publish(folder, record)
    probes = read_results(maker.study).probes
    whole = maker.probe_of("blood").id
    blood = dict(probes.filter(pl.col("task").str.starts_with("blood")).select("probe", "task").iter_rows())
    assert blood == {few.id: f"blood-{few.id[:8]}", whole: f"blood-{whole[:8]}"}
    assert "tissue" in set(probes["task"])


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cell": "a'])
def test_a_damaged_record_or_plan_is_named_in_the_ledger_and_the_rest_is_read(make_study, text):
    study = make_study().whole()
    before = read_results(study)
    cell, probe = before.probes.select("cell", "task").row(7)
    path = next(study.cell_folder(cell).glob(f"probes/{probe}-*/record.json"))
    path.write_text(text)
    results = read_results(study)
    assert results.ledger.select("cell", "task", "cause").rows() == [(cell, probe, "unreadable")]
    assert results.ledger["message"].item().startswith(f"{study.relative(path)} is damaged")
    assert results.probes.height == before.probes.height - 1
    for plan_file in (study.plan_table, study.plan_file):
        whole = plan_file.read_bytes()
        plan_file.write_text(text)
        assert set(read_results(study).ledger["cause"]) == {"unreadable"}
        assert read_results(study).probes.height == results.probes.height
        plan_file.write_bytes(whole)


def test_digest_changes_with_any_record(make_study):
    maker = make_study()
    maker.cell("mae", WIDE, "all", 500)
    before = read_results(maker.study).digest
    assert read_results(maker.study).digest == before
    maker.cell("mae", WIDE, "all", 1000)
    assert read_results(maker.study).digest != before


def test_an_empty_study_gives_empty_tables_with_their_columns(make_study):
    results = read_results(make_study().study)
    assert results.probes.is_empty()
    assert {"cell", "task", "auc", "params_encoder"} <= set(results.probes.columns)


def test_provenance_counts_distinct_parts(make_study):
    study = make_study().whole()
    provenance = read_results(study).provenance
    assert sum(provenance["code"].values()) == 45
    assert len(provenance["versions"]) == 2
