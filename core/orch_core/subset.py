"""How a data size is shared among the sources of a mix, so that a smaller subset lies in every larger one."""

from __future__ import annotations

from collections.abc import Mapping


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole images per source in proportion to `weights`, summing to `total`.

    Webster's method (divisors 1/2, 3/2, 5/2, ...): the only kind of rule under which no source loses an
    image when the total grows (house monotonicity; Balinski & Young 1982), which is what makes subsets nested.
    """
    scale = total / sum(weights.values())
    counts = {name: int(weight * scale + 0.5) for name, weight in weights.items()}
    while (excess := sum(counts.values()) - total) > 0:
        name = max(counts, key=lambda name: ((counts[name] - 0.5) / weights[name], list(weights).index(name)))
        counts[name] -= min(1, excess)
    while sum(counts.values()) < total:
        name = min(counts, key=lambda name: ((counts[name] + 0.5) / weights[name], list(weights).index(name)))
        counts[name] += 1
    return counts
