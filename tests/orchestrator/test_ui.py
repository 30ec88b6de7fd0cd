"""`orch ui`, in processes of its own and in a real browser."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orch.tracking import track
from orch.tracking.ui import ui
from orch_core.errors import OrchError
from orch_core.study.folder import Study, create_study

Make = Callable[..., Study]
SERVE = (
    "import sys; from pathlib import Path; from orch.tracking.ui import ui; from orch_core.study.folder import Study;"
    "ui(Study(Path(sys.argv[1])), int(sys.argv[2]), tell=lambda address: print(address, flush=True))"
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(study: Study, port: int) -> tuple[subprocess.Popen[str], str]:
    """`orch ui` in a process of its own, and the address it prints once the server answers."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(study.root), str(port)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return process, process.stdout.readline().strip()


def stop(process: subprocess.Popen[str], sent: signal.Signals) -> int:
    process.send_signal(sent)
    try:
        return process.wait(60)
    finally:
        process.stdout.close()


def test_a_busy_port_is_named_with_a_free_one(recorded: Make) -> None:
    study = recorded(0)
    (study.root / "mlflow.db").touch()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(OrchError, match=f"port {port} is in use") as caught:
            ui(study, port)
    free = int(caught.value.hint.rpartition("--port ")[2].rstrip("`"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free))


def test_a_study_that_was_never_mirrored_is_named(tmp_path: Path) -> None:
    with pytest.raises(OrchError, match=r"no mlflow\.db") as caught:
        ui(create_study(tmp_path / "study", "demo"), free_port())
    assert "orch sync" in caught.value.hint


def test_a_server_that_cannot_start_is_explained(recorded: Make) -> None:
    study = recorded(0)
    (study.root / "mlflow.db").write_text("no database " * 100)
    with pytest.raises(OrchError, match="ended with status") as caught:
        ui(study, free_port())
    assert "delete mlflow.db" in caught.value.hint
    assert (study.root / "logs" / "mlflow-ui.log").exists()


def test_it_serves_the_study_on_loopback_and_ends_without_a_trace(recorded: Make) -> None:
    study = recorded(1)
    track.sync(study)
    port = free_port()
    process, address = serve(study, port)
    try:
        assert address.startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs")
        assert listeners(port) == {"127.0.0.1"}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
            assert b"MLflow" in page.read()
        workers = children(process.pid)
        assert workers
    finally:
        status = stop(process, signal.SIGINT)
    assert status == 0
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def listeners(port: int) -> set[str]:
    """Addresses that listen on a port, as the kernel says (/proc/net/tcp, state 0A; proc(5))."""
    lines = (
        Path("/proc/net/tcp").read_text().splitlines()[1:]
        + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    )
    found = set()
    for fields in (line.split() for line in lines):
        address, _, number = fields[1].partition(":")
        if fields[3] == "0A" and int(number, 16) == port:
            found.add(socket.inet_ntoa(bytes.fromhex(address)[::-1]) if len(address) == 8 else address)
    return found


def children(pid: int) -> list[int]:
    """Every descendant of a process."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                child = int(path.parent.name)
                found += [child, *children(child)]
    return found


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[object]:
    """A headless Chromium without a network of its own."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver on PATH (Debian: chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    quiet = "gpu quic background-networking component-update sync dev-shm-usage"
    flags = ["headless", "no-sandbox", "no-first-run", *(f"disable-{word}" for word in quiet.split())]
    for flag in (*flags, "window-size=2400,1400", f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def shown(driver, *words: str) -> str:
    """The page's text, once it shows all the words; what it shows after two minutes otherwise."""
    text, deadline = "", time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):  # the page is being drawn anew
            text = driver.find_element("tag name", "body").text
        if all(word in text for word in words):
            break
        time.sleep(0.3)
    return text


@pytest.mark.browser
def test_people_see_runs_params_and_metrics(recorded: Make, browser) -> None:
    study = recorded(4, 1)
    track.sync(study)
    process, address = serve(study, free_port())
    try:
        browser.get(address)
        wanted = [
            "mae-w128-all-1000-s0",
            "moco-v3-w32-all-1000-s0",
            "Parameters",
            "algorithm",
            "params_encoder",
        ]
        wanted += ["heldout_loss", "auc/tissue", "786432", "0.77", "5 matching runs"]
        text = shown(browser, *wanted)
        assert [word for word in wanted if word not in text] == []
        browser.find_element("link text", "mae-w128-all-1000-s0").click()
        wanted = ["Metrics (", "auc/blood", "Finished", "25.0s", "orch launch", "tissue-1000", "Parameters ("]
        text = shown(browser, *wanted)
        assert [word for word in wanted if word not in text] == []
        base, _, query = address.partition("/runs?")
        browser.get("about:blank")
        browser.get(f"{base}/runs?{query.replace('orch-scaling', 'orch-failed')}")
        wanted = ["1 matching run", "orch.reason", "needs 3.1 GB"]
        text = shown(browser, *wanted)
        assert [word for word in wanted if word not in text] == []
    finally:
        assert stop(process, signal.SIGTERM) == 0
