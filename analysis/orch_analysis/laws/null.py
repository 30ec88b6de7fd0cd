"""The null model: the value does not depend on scale."""

from __future__ import annotations

from orch_analysis.laws.law import Array, Law, Values


def _level(x: Values, p: Values) -> Array:
    return p["level"] + 0.0 * next(iter(x.values()))


def constant(variables: tuple[str, ...]) -> Law:
    """One level at every scale of `variables`, which `--law auto` compares its forms with."""
    return Law(
        name="constant",
        formula="value = level",
        params=("level",),
        x=variables,
        source="null model: no dependence on scale",
        f=_level,
        linear=("level",),
        bounded=True,
    )
