"""Runs written by MLflow's table models equal those written by its client, as MlflowClient reads both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from mirrored import client, runs_of

from orch.tracking import track
from orch.tracking.track import writers
from orch.tracking.track.writers import ClientWriter
from orch_core.study.folder import Study, create_study

Make = Callable[..., Study]


def through_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every store be written as an HTTP server is."""

    def writer_of(client, study, *, local):
        place = study.artifacts.resolve().as_uri() if local else None
        return ClientWriter(client=client, experiment=writers.experiment_of(client, study, place))

    monkeypatch.setattr(track, "writer_of", writer_of)


def shown(study: Study) -> dict[str, object]:
    """Everything that MlflowClient shows of the runs, without their ids."""
    api, found = client(track.local_uri(study)), {}
    for cell, run in runs_of(study).items():
        info = run.info
        history = {
            key: sorted((m.step, m.timestamp, m.value) for m in api.get_metric_history(info.run_id, key))
            for key in run.data.metrics
        }
        root = study.root / "mlruns" / info.run_id / "artifacts"
        assert info.artifact_uri == root.as_uri()
        found[cell] = {
            "info": (info.run_name, info.status, info.start_time, info.end_time, info.user_id),
            "stage": info.lifecycle_stage,
            "params": run.data.params,
            "metrics": run.data.metrics,
            "history": history,
            "tags": run.data.tags,
            "datasets": sorted(
                json.dumps([one.dataset.to_dictionary(), [dict(tag) for tag in one.tags]])
                for one in run.inputs.dataset_inputs
            ),
            "files": {
                path.relative_to(root).as_posix(): path.read_bytes()
                for path in root.rglob("*")
                if path.is_file()
            },
            "listed": sorted(one.path for one in api.list_artifacts(info.run_id)),
        }
    return found


def test_the_two_ways_of_writing_give_equal_runs(
    recorded: Make,
    write: SimpleNamespace,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_tables = recorded(3, 1)
    failed = write.fail_probe(by_tables, write.a_cell(0), "extra")
    (by_tables.root / "report").mkdir()
    (by_tables.root / "report" / "report.html").write_text("<p>report</p>")
    by_client = Study(Path(shutil.copytree(by_tables.root, tmp_path / "copy")))
    for study in (by_tables, by_client):
        shutil.copy(empty_database, study.root / "mlflow.db")
    assert track.sync(by_tables).added == 5
    with monkeypatch.context() as patched:
        through_the_client(patched)
        assert track.sync(by_client).added == 5
    assert shown(by_tables) == shown(by_client)
    assert len(shown(by_tables)) == 5
    for study in (by_tables, by_client):  # the same again for runs that are completed or replaced
        shutil.rmtree(study.root / failed.relative_to(by_tables.root).parents[1])
        shutil.rmtree(study.cell_folder(write.a_cell(3).id))
        write.cell(study, 3)
    assert track.sync(by_tables).updated == 2
    with monkeypatch.context() as patched:
        through_the_client(patched)
        assert track.sync(by_client).updated == 2
    assert shown(by_tables) == shown(by_client)
    deleted = [
        len(client(track.local_uri(one)).search_runs(["1"], run_view_type=2))
        for one in (by_tables, by_client)
    ]
    assert deleted[0] == deleted[1] == 1


def test_tags_that_a_user_set_on_a_run_stay(study: Study, write: SimpleNamespace) -> None:
    track.sync(study)
    cell = write.a_cell(0)
    api = client(track.local_uri(study))
    api.set_tag(runs_of(study)[cell.id].info.run_id, "favourite", "yes")
    write.fail_probe(study, cell, "extra")
    assert track.sync(study).updated == 1
    assert runs_of(study)[cell.id].data.tags["favourite"] == "yes"


@pytest.mark.parametrize("name", ["with space", "100%", "a%20b", "what?x=1", "hash#1", "ünïcode", "a&b=c;d"])
def test_a_study_in_a_path_with_special_characters_is_mirrored(
    name: str, tmp_path: Path, write: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    study = create_study(tmp_path / name / "study", "demo")
    write.cell(study, 0)
    assert track.sync(study).added == 1
    assert track.sync(study).unchanged == 1
    (run,) = list((study.root / "mlruns").iterdir())
    assert (run / "artifacts" / "record.json").exists()
    assert (study.root / "mlflow.db").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "work"})
    assert not list((tmp_path / "work").iterdir())
