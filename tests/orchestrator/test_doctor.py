"""The doctor, on machines made ill on purpose."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from orch import doctor
from orch_core.study.folder import create_study


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH that holds nothing but what a test writes, and git."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def script(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def module(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def find(name: str, found: list[doctor.Check]) -> doctor.Check:
    return next(check for check in found if check.name == name)


def test_every_part_of_a_sound_machine_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ask_torch", lambda: ({"torch": "2.0", "cuda": None, "gpus": []}, ""))
    study = create_study(tmp_path / "study", "demo")
    found = doctor.checks(study.root)
    names = [check.name for check in found]
    assert names == ["python", "torch", "timm", "slurm", "disk", "folder", "study", "mlflow", "git"]
    assert all(check.message for check in found)
    assert all(check.remedy for check in found if check.status != "ok")
    assert {path.name for path in study.root.iterdir()} == {"study.json", "cells", "logs"}  # left as it was


def test_without_a_study_the_working_directory_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_ask_torch", lambda: ({"torch": "2.0", "cuda": None, "gpus": []}, ""))
    monkeypatch.chdir(tmp_path)
    found = doctor.checks()
    assert "study" not in [check.name for check in found]
    assert str(tmp_path) in find("folder", found).message


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from orch import doctor; doctor._mlflow(doctor.Path('.')); doctor._git(); doctor._slurm();"
        "print([m for m in ('torch', 'timm', 'mlflow', 'sqlalchemy', 'scipy', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_real_torch_answers() -> None:
    answer, error = doctor._ask_torch()
    assert error == ""
    assert str(answer["torch"]).startswith(doctor._version("torch").split("+")[0])


def test_absent_training_packages_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name == "timm" else "1")
    (check,) = doctor._training()
    assert check.status == "warning"
    assert "timm" in check.message
    assert "orch-scaling[train]" in check.remedy


def test_a_torch_that_cannot_be_imported_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "torch", "raise ImportError('libcudart.so.12: cannot open')", monkeypatch)
    (check,) = doctor._training()
    assert check.status == "error"
    assert "libcudart.so.12" in check.message
    assert check.remedy


FAKE_TORCH = """
__version__ = "2.9.0"
class version: cuda = {cuda!r}
class cuda:
    device_count = staticmethod(lambda: {count})
    get_device_name = staticmethod(lambda i: "NVIDIA H100")
"""


def test_gpus_that_torch_sees_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "torch", FAKE_TORCH.format(cuda="12.8", count=2), monkeypatch)
    for name in ("torchvision", "timm"):
        module(tmp_path, name, "", monkeypatch)
    check = doctor._training()[0]
    assert (check.status, check.message) == ("ok", "2.9.0, CUDA 12.8: NVIDIA H100, NVIDIA H100")


def test_gpus_that_torch_does_not_see_are_an_error(
    tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, "torch", FAKE_TORCH.format(cuda=None, count=0), monkeypatch)
    for name in ("torchvision", "timm"):
        module(tmp_path, name, "", monkeypatch)
    script(commands, "nvidia-smi", "echo 'NVIDIA A100'")
    doctor.provenance.gpus.cache_clear()
    check = doctor._training()[0]
    doctor.provenance.gpus.cache_clear()
    assert check.status == "error"
    assert "NVIDIA A100" in check.message


@pytest.mark.usefixtures("commands")
def test_no_slurm_is_a_warning() -> None:
    assert doctor._slurm().status == "warning"


def test_a_controller_that_does_not_answer_is_an_error(commands: Path) -> None:
    script(commands, "sbatch", "exit 0")
    script(commands, "sinfo", "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    check = doctor._slurm()
    assert check.status == "error"
    assert "Unable to contact slurm controller" in check.message


def test_slurm_without_accounting_is_a_warning(commands: Path) -> None:
    script(commands, "sbatch", "exit 0")
    script(commands, "sinfo", "printf 'gpu\\ncpu\\ngpu\\n'")
    script(commands, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    check = doctor._slurm()
    assert check.status == "warning"
    assert "disabled" in check.message
    script(commands, "sacct", "exit 0")
    assert doctor._slurm() == doctor.Check(name="slurm", status="ok", message="partitions cpu, gpu")


@pytest.mark.parametrize(("free", "status"), [(50e9, "ok"), (5e9, "warning"), (1e8, "error")])
def test_a_disk_by_what_is_free(
    free: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(100_000_000_000, 0, int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    check = doctor._disk(tmp_path / "not" / "there" / "yet")
    assert check.status == status
    assert f"{free / 1e9:.1f} GB free" in check.message


def test_a_folder_that_cannot_be_written_is_an_error() -> None:
    check = doctor._writable(Path("/proc/study"))  # read-only for root too
    assert check.status == "error"
    assert "/proc" in check.message


@pytest.mark.parametrize("call", ["link", "flock"])
def test_a_file_system_without_links_or_locks_is_an_error(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(*((os, "link") if call == "link" else (doctor.fcntl, "flock")), refuse)
    check = doctor._writable(tmp_path)
    assert check.status == "error"
    assert (
        check.message
        == f"cannot {'link' if call == 'link' else 'lock'} in {tmp_path}: Operation not supported"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_study_is_an_error(tmp_path: Path) -> None:
    check = doctor._study(tmp_path)
    assert check.status == "error"
    assert "study.json" in check.message
    assert check.remedy


def database(path: Path, version: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table alembic_version (version_num text)")
    connection.execute("insert into alembic_version values (?)", (version,))
    connection.commit()
    connection.close()


def test_the_schema_head_is_the_one_mlflow_itself_finds() -> None:
    code = "from mlflow.store.db.utils import _get_latest_schema_revision as head; print(head())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert doctor._schema_head() == done.stdout.strip()


def test_a_database_of_another_mlflow_is_an_error(tmp_path: Path) -> None:
    database(tmp_path / "mlflow.db", "451aebb31d03")
    check = doctor._mlflow(tmp_path)
    assert check.status == "error"
    assert "451aebb31d03" in check.message
    assert "orch sync" in check.remedy


def test_a_damaged_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("nothing" * 100)
    assert doctor._mlflow(tmp_path).status == "error"


def test_a_database_of_this_mlflow_is_ok_and_on_a_network_disk_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database(tmp_path / "mlflow.db", doctor._schema_head())
    assert doctor._mlflow(tmp_path).status == "ok"
    monkeypatch.setattr(doctor, "network_filesystem", lambda _path: "nfs4")
    check = doctor._mlflow(tmp_path)
    assert check.status == "warning"
    assert "nfs4" in check.message


def test_no_git_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._git().status == "warning"
