"""The mirror of a study that comes from somebody else, was copied, or is written with a password."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from mirrored import runs_of

from orch.cli import main
from orch.tracking import track
from orch_core.errors import OrchError
from orch_core.study.folder import Study

Make = Callable[..., Study]
SECRET = "the secret of another user"


def everything_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "way", ["upwards", "absolute", "link to a file", "link to a folder", "through a folder"]
)
def test_no_file_from_outside_the_study_is_copied(
    study: Study, write: SimpleNamespace, tmp_path: Path, way: str
) -> None:
    outside = tmp_path / "home"
    outside.mkdir()
    (outside / "log.txt").write_text(SECRET)
    attempt = study.cell_folder(write.a_cell(2).id) / "attempts" / "0"
    record = json.loads((attempt / "record.json").read_text())
    if way == "upwards":
        record["reason"]["log"] = "../home/log.txt"
    elif way == "absolute":
        record["reason"]["log"] = str(outside / "log.txt")
    elif way == "link to a file":
        (attempt / "log.txt").unlink()
        (attempt / "log.txt").symlink_to(outside / "log.txt")
    elif way == "link to a folder":
        (study.root / "linked").symlink_to(outside)
        record["reason"]["log"] = "linked/log.txt"
    else:
        record["reason"]["log"] = f"cells/{write.a_cell(2).id}/../../../home/log.txt"
    (attempt / "record.json").write_text(json.dumps(record))
    (study.root / "report").mkdir()
    (study.root / "report" / "report.html").write_text("<p>report</p>")
    (study.root / "report" / "notes.txt").symlink_to(outside / "log.txt")
    assert track.sync(study).added == 4
    assert not [
        name for name, data in everything_under(study.root / "mlruns").items() if SECRET.encode() in data
    ]
    run = runs_of(study)[write.a_cell(2).id]
    assert SECRET not in run.data.tags["mlflow.note.content"]
    assert "needs 3.1 GB" in run.data.tags["mlflow.note.content"]
    assert everything_under(outside) == {"log.txt": SECRET.encode()}


def test_a_log_elsewhere_in_the_study_is_not_copied_above_the_artifacts(
    study: Study, write: SimpleNamespace
) -> None:
    cell = write.a_cell(2)
    attempt = study.cell_folder(cell.id) / "attempts" / "0"
    record = json.loads((attempt / "record.json").read_text())
    record["reason"]["log"] = f"cells/{cell.id}/../../study.json"
    (attempt / "record.json").write_text(json.dumps(record))
    track.sync(study)
    artifacts = study.root / "mlruns" / runs_of(study)[cell.id].info.run_id / "artifacts"
    assert (artifacts / "logs" / "study.json").exists()
    assert {path.name for path in (study.root / "mlruns").iterdir()} == {
        run.info.run_id for run in runs_of(study).values()
    }


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_a_study_that_was_copied_or_moved_keeps_to_itself(
    study: Study, write: SimpleNamespace, tmp_path: Path, how: str
) -> None:
    track.sync(study)
    old = {cell: run.info.run_id for cell, run in runs_of(study).items()}
    place = tmp_path / "elsewhere" / "study"
    place.parent.mkdir()
    if how == "copied":
        shutil.copytree(study.root, place)
    else:
        shutil.move(study.root, place)
        study.root.mkdir()
    before = everything_under(study.root)
    new = Study(place)
    write.cell(new, 5)
    write.fail_probe(new, write.a_cell(0), "extra")
    summary = track.sync(new)
    assert (summary.added, summary.updated, summary.unchanged) == (1, 1, 2)
    assert everything_under(study.root) == before
    found = runs_of(new)
    assert old.items() <= {cell: run.info.run_id for cell, run in found.items()}.items()
    for cell, run in found.items():
        artifacts = place / "mlruns" / run.info.run_id / "artifacts"
        assert run.info.artifact_uri == artifacts.as_uri()
        if new.record(cell):
            assert (artifacts / "record.json").read_bytes() == new.record_file(cell).read_bytes()


@pytest.fixture
def nobody() -> str:
    """A host and port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("command", ["sync", "fit-laws"])
def test_an_error_shows_no_password(study: Study, nobody: str, command: str, options: list[str]) -> None:
    words = [command, str(study.root), "--tracking-uri", f"http://ann:s3cret@{nobody}", *options]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "s3cret" not in done.output
    assert nobody in done.output
    assert "MLFLOW_TRACKING_PASSWORD" in done.output


@pytest.mark.parametrize(
    "uri", ["postgresql://ann:s3cret@127.0.0.1:1/orch", "mysql://ann:s3cret@127.0.0.1:1/orch"]
)
def test_a_database_that_does_not_answer_shows_no_password(study: Study, uri: str) -> None:
    with pytest.raises(OrchError) as caught:
        track.sync(study, uri)
    assert "s3cret" not in str(caught.value)
    assert caught.value.hint


def test_the_cell_whose_probe_failed_has_the_same_state_in_mlflow_and_in_status(
    study: Study, write: SimpleNamespace
) -> None:
    write.fail_probe(study, write.a_cell(0), "extra")
    track.sync(study)
    found = {cell: run.info.status for cell, run in runs_of(study).items()}
    assert found == {
        write.a_cell(0).id: "FAILED",
        write.a_cell(1).id: "FINISHED",
        write.a_cell(2).id: "FAILED",
    }
