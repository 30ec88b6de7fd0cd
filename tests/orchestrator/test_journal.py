"""The journal and the manifest: durable, in order, and readable after a crash in the middle of a line."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch.launching import freeze, journal
from orch.launching.journal import Event, JobRequest, Step
from orch_core.errors import OrchError
from orch_core.study.folder import create_study


def test_a_manifest_gives_back_the_jobs(launching, tmp_path):
    study = create_study(tmp_path, "s")
    entries = [
        journal.ManifestEntry(id=job.cell.id, job=job, group="big" if number else "default", after=number)
        for number, job in enumerate(launching.jobs(3, pause=0.5))
    ]
    launch = journal.Launch(
        token="20260101-000000-aaaaaaaa",
        created=1.5,
        cluster="slurm",
        attempts=5,
        code={"commit": "c0ffee", "dirty": False},
        argv=("orch", "launch"),
        requests={"default": JobRequest(options={"partition": "main"}, minutes=15.0, longest=60.0, cells=4)},
    )
    journal.begin(study, launch, entries)
    assert journal.manifest(tmp_path, "20260101-000000-aaaaaaaa") == entries
    assert journal.manifest(tmp_path, "20260101-000000-aaaaaaaa", "big") == entries[1:]
    assert journal.cell_ids(tmp_path, "20260101-000000-aaaaaaaa") == {entry.id for entry in entries}
    some = {entry.id: entry.job for entry in entries[1:]}
    assert list(journal.entries_of(tmp_path, "20260101-000000-aaaaaaaa", some).values()) == entries[1:]
    assert journal.read_launch(tmp_path, launch.token) == launch


OLD_LAUNCH = """{
 "token": "20260101-000000-aaaaaaaa", "created": 1767225600.0, "cluster": "slurm", "parallel": 3, "attempts": 3,
 "options": {"default": {"partition": "main", "gpus-per-node": 2, "time": 120}, "big": {"nodes": 2, "time": 60}},
 "minutes": {"default": [120, 1440.0], "big": [60, 60.0]}, "cells_per_job": {"default": 4}, "gpus": 1,
 "argv": ["orch", "launch"], "code": {"commit": "c0ffee", "snapshot": "code/ab.zip"}
}"""
OLD_JOURNAL = """\
{"event": "intent", "token": "t", "time": 1.0, "name": "orch-t-default", "group": "default", "workers": 3, "minutes": 10}
{"event": "refused", "token": "t", "time": 2.0, "name": "orch-t-default", "words": "sbatch says: no"}
{"event": "intent", "token": "t", "time": 3.0, "name": "orch-t-big", "group": "big", "workers": 1, "minutes": 10}
{"event": "submitted", "token": "t", "time": 4.0, "name": "orch-t-big", "job": "7", "workers": 1}
"""


def test_launches_and_journals_of_earlier_versions_are_read(tmp_path):
    folder = journal.launch_folder(tmp_path, "20260101-000000-aaaaaaaa")
    folder.mkdir(parents=True)
    (folder / "launch.json").write_text(OLD_LAUNCH)
    launch = journal.read_launch(tmp_path, "20260101-000000-aaaaaaaa")
    assert (launch.attempts, launch.code["snapshot"], launch.argv) == (3, "code/ab.zip", ("orch", "launch"))
    options = {"partition": "main", "gpus-per-node": 2}
    assert launch.request("default") == JobRequest(options=options, minutes=120, longest=1440.0, cells=4)
    assert launch.request("big") == JobRequest(options={"nodes": 2}, minutes=60, longest=60.0)
    (tmp_path / "journal.ndjson").write_text(OLD_JOURNAL)
    assert [(event.step, event.job) for event in journal.events(tmp_path)] == [
        ("intent", ""),
        ("refused", ""),
        ("intent", ""),
        ("submitted", "7"),
    ]
    assert journal.open_intents(tmp_path) == []


def write(root, words):
    journal.write(root, Event(step=Step.INTENT, token="t", name="n", words=words))


def test_tokens_are_unique_and_in_the_order_of_time(tmp_path):
    tokens = [journal.new_token() for _ in range(100)]
    assert len(set(tokens)) == 100
    for token in tokens:
        journal.launch_folder(tmp_path, token).mkdir(parents=True)
    assert journal.tokens(tmp_path) == sorted(tokens)


@settings(deadline=None)  # every line is fsynced
@given(st.lists(st.text(max_size=20), max_size=5), st.integers(0, 30))
def test_a_line_cut_short_by_a_crash_is_skipped(tmp_path_factory, words, cut):
    root = tmp_path_factory.mktemp("journal")
    for word in words:
        write(root, word)
    write(root, "the last one, of which a part was written")
    path = root / "journal.ndjson"
    os.truncate(path, path.stat().st_size - 1 - cut)
    found = [event.words for event in journal.events(root)]
    assert found[: len(words)] == words
    write(root, "after")
    assert [event.words for event in journal.events(root)] == [*found, "after"]


def test_intents_stay_open_until_their_outcome_is_known(tmp_path):
    assert journal.open_intents(tmp_path) == []
    for name in ("a", "b", "c"):
        journal.write(tmp_path, Event(step=Step.INTENT, token="t", name=name))
    journal.write(tmp_path, Event(step=Step.SUBMITTED, token="t", name="a", job="1"))
    journal.write(tmp_path, Event(step=Step.REFUSED, token="t", name="b"))
    assert [intent.name for intent in journal.open_intents(tmp_path)] == ["c"]
    journal.write(tmp_path, Event(step=Step.ADOPTED, token="t", name="c", job="2"))
    assert journal.open_intents(tmp_path) == []


def test_a_node_is_bad_when_deaths_gather_on_it_and_not_when_they_are_everywhere(tmp_path):
    for cell in "abc":
        journal.note_death(tmp_path, "t", "gpu1", cell)
    journal.note_death(tmp_path, "t", "gpu1", "a")
    journal.note_death(tmp_path, "t", "gpu2", "a")
    assert journal.bad_nodes(tmp_path, "t") == ["gpu1"]
    for node in ("gpu2", "gpu3", "gpu4"):
        for cell in "abc":
            journal.note_death(tmp_path, "t", node, cell)
    assert journal.bad_nodes(tmp_path, "t") == []
    assert journal.bad_nodes(tmp_path, "another launch") == []


def test_equal_code_is_frozen_once_and_other_code_beside_it(tmp_path, monkeypatch):
    study = create_study(tmp_path, "s")
    sources = {"orch/__init__.py": b"", "orch/a.py": b"A = 1\n"}
    monkeypatch.setattr(freeze, "sources", lambda: sources)
    first = freeze.freeze(study)
    content = first.read_bytes()
    assert freeze.freeze(study) == first
    sources["orch/a.py"] = b"A = 2\n"
    assert freeze.freeze(study) != first
    assert first.read_bytes() == content
    assert len(list((tmp_path / "code").iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"PK of somebody else"])
def test_code_that_does_not_match_its_hash_is_refused_and_kept(tmp_path, monkeypatch, content):
    """Somebody else's study may hold any code under the name of ours."""
    study = create_study(tmp_path, "s")
    monkeypatch.setattr(freeze, "sources", lambda: {"orch/__init__.py": b""})
    path = freeze.freeze(study)
    path.write_bytes(content)
    with pytest.raises(OrchError, match="damaged or changed") as caught:
        freeze.freeze(study)
    assert "delete it" in caught.value.hint
    assert path.read_bytes() == content
    path.unlink()
    assert freeze.freeze(study) == path
