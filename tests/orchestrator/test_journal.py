"""The journal and the manifest: durable, in order, and readable after a crash in the middle of a line."""

import os

from hypothesis import given
from hypothesis import strategies as st

from orch.launching import freeze, journal
from orch_core.study.folder import create_study


def test_a_manifest_gives_back_the_jobs(launching, tmp_path):
    study = create_study(tmp_path, "s")
    entries = [
        journal.ManifestEntry(id=job.cell.id, job=job, group="big" if number else "default", after=number)
        for number, job in enumerate(launching.jobs(3, pause=0.5))
    ]
    journal.begin(study, "20260101-000000-aaaaaaaa", entries, {"attempts": 3})
    assert journal.manifest(tmp_path, "20260101-000000-aaaaaaaa") == entries
    assert journal.manifest(tmp_path, "20260101-000000-aaaaaaaa", "big") == entries[1:]
    assert journal.cell_ids(tmp_path, "20260101-000000-aaaaaaaa") == {entry.id for entry in entries}
    some = {entry.id: entry.job for entry in entries[1:]}
    assert list(journal.entries_of(tmp_path, "20260101-000000-aaaaaaaa", some).values()) == entries[1:]
    assert journal.about(tmp_path, "20260101-000000-aaaaaaaa")["attempts"] == 3


def test_tokens_are_unique_and_in_the_order_of_time(tmp_path):
    tokens = [journal.new_token() for _ in range(100)]
    assert len(set(tokens)) == 100
    for token in tokens:
        journal.launch_folder(tmp_path, token).mkdir(parents=True)
    assert journal.tokens(tmp_path) == sorted(tokens)


@given(st.lists(st.text(max_size=20), max_size=5), st.integers(0, 30))
def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path_factory, words, cut):
    root = tmp_path_factory.mktemp("journal")
    for word in words:
        journal.write(root, "intent", "t", word=word)
    journal.write(root, "intent", "t", word="the last one, of which a part was written")
    path = root / "journal.ndjson"
    os.truncate(path, path.stat().st_size - 1 - cut)
    found = [event["word"] for event in journal.events(root)]
    assert found[: len(words)] == words
    journal.write(root, "submitted", "t", word="after")
    assert [event["word"] for event in journal.events(root)] == [*found, "after"]


def test_intents_stay_open_until_their_outcome_is_known(tmp_path):
    assert journal.open_intents(tmp_path) == []
    for name in ("a", "b", "c"):
        journal.write(tmp_path, "intent", "t", name=name)
    journal.write(tmp_path, "submitted", "t", name="a", job="1")
    journal.write(tmp_path, "refused", "t", name="b")
    assert [intent["name"] for intent in journal.open_intents(tmp_path)] == ["c"]
    journal.write(tmp_path, "adopted", "t", name="c", job="2")
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
