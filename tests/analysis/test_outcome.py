"""One enumeration of outcomes: each with a meaning, and compared by identity everywhere."""

from __future__ import annotations

import re
from pathlib import Path

from orch_analysis.fitting.outcome import Outcome

ROOT = Path(__file__).parents[2]


def test_every_outcome_is_its_word_and_says_cause_and_remedy() -> None:
    assert [Outcome(member.value) for member in Outcome] == list(Outcome)
    assert f"{Outcome.AT_BOUND}" == "at_bound"
    for member in Outcome:
        assert member.meaning.endswith(".")
        assert member is Outcome.OK or ":" in member.meaning


def test_no_code_compares_an_outcome_with_text() -> None:
    packages = [ROOT / "core", ROOT / "analysis", ROOT / "orchestrator"]
    pattern = re.compile(r"outcome\)? *(==|!=) ")
    found = [
        f"{path.name}: {line.strip()}"
        for folder in packages
        for path in folder.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    ]
    assert not found
