"""Records: published once, whole or not at all, and readable by those whom the umask lets."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orch_core.files import dumps, publish_once, write_atomic
from orch_core.study.record import Reason, Record, read_record, record_from_json


def test_a_record_survives_json():
    reason = Reason(cause="diverged", message="loss is nan", log="cells/x/log.txt")
    record = Record(
        cell="ff", name="a", status="diverged", values={"loss": 1.5, "steps": 3, "se": None}, reason=reason
    )
    assert record_from_json(json.loads(dumps(record.to_json()))) == record


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


def test_files_are_as_open_as_the_umask_says(tmp_path: Path):
    script = (
        "import os; os.umask(0o027); from pathlib import Path; from orch_core.files import write_atomic\n"
        f"write_atomic(Path({str(tmp_path / 'a')!r}), 'x')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_no_record_is_none_and_another_file_is_an_error(tmp_path: Path):
    assert read_record(tmp_path / "record.json") is None
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(KeyError):
        read_record(tmp_path / "record.json")
