"""The published scaling laws, by name; `load("my_law.py")` reads a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

from orch_analysis.laws import curve, joint, metric
from orch_analysis.laws.law import Law, load
from orch_core.errors import OrchError

__all__ = ["LAWS", "Law", "get", "load"]

LAWS: Mapping[str, Law] = MappingProxyType(
    {
        law.name: law
        for law in (
            curve.POWER,
            curve.POWER_OFFSET,
            curve.M2,
            curve.M4,
            curve.BNSL1,
            curve.BNSL2,
            joint.KAPLAN,
            joint.CHINCHILLA,
            joint.DATA_CONSTRAINED,
            joint.DATA_CONSTRAINED_FULL,
            joint.GADRE,
            metric.GADRE_ERROR,
            metric.SIGMOID,
            metric.AUC,
            metric.ACCURACY,
        )
    }
)


def get(name: str) -> Law:
    """A law by its name, or by the path of a file that defines one; raises OrchError for neither."""
    if name in LAWS:
        return LAWS[name]
    if name.endswith(".py"):
        return load(name)
    close = get_close_matches(name, LAWS, n=1)
    msg = f"unknown law {name!r}; known: {', '.join(LAWS)}"
    raise OrchError(
        msg, hint=f"did you mean {close[0]!r}?" if close else "or give the path of a file that sets LAW"
    )
