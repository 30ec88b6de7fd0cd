"""Reading a study: rows, numbers, and what is left out."""

from __future__ import annotations

import json

import polars as pl

from orch_analysis.tables.study_tables import read_curves, read_results, study_table
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
    assert study_table(study).equals(results.probes)


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
    plan = {
        "id": [cell.id, "f" * 32],
        "algorithm": ["mae", "mae"],
        "model": ["w32", "w64"],
        "mix": ["all", "all"],
    }
    pl.DataFrame({**plan, "images": [500, 500], "seed": [0, 0]}).write_parquet(
        maker.study.root / "plan.parquet"
    )
    tasks = [{"task": task} for task in ("tissue", "new")]
    (maker.study.root / "plan.json").write_text(json.dumps({"probes": tasks}))
    results = read_results(maker.study)
    assert results.ledger.select("name", "task", "cause").rows() == [
        ("mae-w32-all-500-s0", "new", "missing"),
        ("mae-w64-all-500-s0", "", "missing"),
    ]
    assert list(results.tasks) == ["tissue", "new"]


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
