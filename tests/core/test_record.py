"""Records: published once, whole or not at all, and readable by those whom the umask lets."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orch_core.errors import OrchError
from orch_core.files import dumps, publish_once, write_atomic
from orch_core.study.record import Cause, Reason, Record, parse_record
from orch_core.study.stored import publish, read_record, repair


def test_a_record_survives_json():
    reason = Reason(cause="diverged", message="loss is nan", log="cells/x/log.txt")
    record = Record(
        cell="ff", name="a", status="diverged", values={"loss": 1.5, "steps": 3, "se": None}, reason=reason
    )
    assert parse_record(dumps(record.to_json()).encode()) == record


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_json_is_refused(value: float):
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(Record(cell="ff", name="a", status="done", values={"loss": value}).to_json())


def test_of_many_writers_at_once_one_publishes_and_the_file_is_whole(tmp_path: Path):
    path = tmp_path / "record.json"
    texts = [str(index) * 20_000 for index in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda text: publish_once(path, text), texts))
    assert sum(won) == 1
    assert path.read_text() == texts[won.index(True)]
    assert [other.name for other in tmp_path.iterdir()] == ["record.json"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path):
    path = tmp_path / "plan.json"
    write_atomic(path, "old")
    script = (
        "import resource, sys; from pathlib import Path; from orch_core.files import write_atomic\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"  # a disk that takes 1,000 bytes
        f"write_atomic(Path({str(path)!r}), 'new' * 1000)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "OSError" in run.stderr
    assert path.read_text() == "old"
    assert [other.name for other in tmp_path.iterdir()] == ["plan.json"]


def test_files_have_the_permissions_of_the_umask(tmp_path: Path):
    script = (
        "import os; os.umask(0o027); from pathlib import Path; from orch_core.files import write_atomic\n"
        f"write_atomic(Path({str(tmp_path / 'a')!r}), 'x')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_record_of_another_version_is_read_with_what_this_one_knows():
    document = Record(cell="ff", name="a", status="failed").to_json() | {
        "reason": {"cause": "gremlins"},
        "new": 1,
    }
    assert parse_record(json.dumps(document).encode()).reason == Reason(cause="gremlins", message="")


def test_causes_are_words_in_json():
    assert json.loads(dumps({"cause": Cause.OUT_OF_MEMORY})) == {"cause": "out_of_memory"}


WHOLE = dumps(Record(cell="ff", name="a", status="done", values={"loss": 1.5}).to_json())
DAMAGED = {
    "empty": "",
    "cut": WHOLE[: len(WHOLE) // 2],
    "object": "{}",
    "list": "[]",
    "torn inside": WHOLE.replace('"loss"', '"lo'),
    "no status": WHOLE.replace('"done"', '"perhaps"'),
    "values are a list": WHOLE.replace('{\n  "loss": 1.5\n }', "[]"),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_record_is_named_and_made_again(tmp_path: Path, text: str):
    folder = tmp_path / "cells" / "ff"
    folder.mkdir(parents=True)
    assert read_record(folder / "record.json") is None
    (folder / "record.json").write_text(text)
    with pytest.raises(OrchError, match=f"{folder}/record.json is damaged"):
        read_record(folder / "record.json")
    assert repair(tmp_path) == [folder / "record.json.damaged-1"]
    assert publish(folder, Record(cell="ff", name="a", status="done"))
    assert (folder / "record.json.damaged-1").read_text() == text


def test_repair_takes_the_copy_that_the_attempt_left(tmp_path: Path):
    folder = tmp_path / "cells" / "ff"
    for number, text in ((1, WHOLE), (2, WHOLE.replace('"done"', '"failed"'))):
        (folder / "attempts" / str(number)).mkdir(parents=True)
        (folder / "attempts" / str(number) / "record.json").write_text(text)
    (folder / "record.json").write_text(WHOLE[:9])
    assert repair(tmp_path)
    assert not (folder / "record.json").exists()  # the last attempt failed
    (folder / "attempts" / "2" / "record.json").write_text(WHOLE)
    (folder / "record.json").write_text(WHOLE[:9])
    assert repair(tmp_path)
    assert (folder / "record.json").read_text() == WHOLE
    assert repair(tmp_path) == []
