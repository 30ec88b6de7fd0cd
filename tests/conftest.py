"""`launching`: the stand-in study of orchestrator/launching.py, as a module and as a process."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import orch_core
from orch.launching import freeze

DRIVER = Path(__file__).parent / "orchestrator" / "launching.py"


@pytest.fixture(scope="session")
def launching():
    import launching

    return launching


@pytest.fixture
def fake_learn(launching, monkeypatch):
    """The stand-in for `orch_core.learn` in this process, for one test."""
    monkeypatch.setattr(freeze, "sources", freeze.sources)
    monkeypatch.setitem(sys.modules, "orch_core.learn", None)
    monkeypatch.setattr(orch_core, "learn", None, raising=False)
    launching.use_fake_learn()


@pytest.fixture
def start():
    """Start `launching.py` as a process of its own group, as a shell does; all are gone after the test."""
    running = []

    def start(*arguments: object, prefix: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [*prefix, sys.executable, str(DRIVER), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"NO_COLOR": "1"} | environment,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # its workers too
        process.wait()
        process.stdout.close()
        process.stderr.close()
