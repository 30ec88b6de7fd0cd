"""The GPU kit, run on the CPU with small cells; on a GPU `make gpu` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KIT = Path(__file__).with_name("kit.py")
SECTIONS = {"steps", "throughput", "memory", "resume", "probes"}


def kit(out: Path, minutes: float) -> tuple[int, dict]:
    words = [
        sys.executable,
        str(KIT),
        "--device",
        "cpu",
        "--small",
        "--out",
        str(out),
        "--minutes",
        str(minutes),
    ]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60 * minutes + 240,
        env=os.environ | {"PYTHONPATH": str(KIT.parents[1] / "core")},
    )
    assert done.stderr.count("Traceback") == 0, done.stderr
    return done.returncode, json.loads((out / "gpu.json").read_text())


@pytest.mark.skipif("ORCH_LONG" not in os.environ, reason="takes minutes: ORCH_LONG=1 runs it")
def test_every_section_of_the_kit_runs_and_agrees_on_the_cpu(tmp_path):
    code, report = kit(tmp_path, 10)
    assert code == 0
    assert report.keys() >= SECTIONS
    rows = [row for section in SECTIONS for row in report[section]]
    assert all(row.get("ok", True) and "error" not in row and "stopped" not in row for row in rows)
    assert {row["precision"] for row in report["steps"]} == {"fp32", "bf16", "fp16"}
    assert [row["model"] for row in report["throughput"]][:2] == ["mae ViT-S", "dinov2 ViT-S"]
    assert all(len(row["kernels"]) == 10 for row in report["throughput"])
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"## {section}\n" in page for section in SECTIONS)


def test_what_was_measured_before_the_time_was_up_is_kept(tmp_path):
    _, report = kit(tmp_path, 0.75)
    assert report.keys() >= SECTIONS
    assert any("stopped" in row for section in SECTIONS for row in report[section])
    assert report["steps"][0]["ok"]
