"""The sentences on correlations of slopes with task factors, for a study and for a table of points."""

from __future__ import annotations

import polars as pl

from orch_analysis.reports.page import Answer
from orch_analysis.tasks.correlation import critical_correlation
from orch_analysis.tasks.factors import label_of
from orch_core.formatting import listed, number, plural


def factor_answer(correlations: pl.DataFrame, slopes: str) -> list[Answer]:
    """How many correlations of `slopes` (a phrase) with factors are significant, or an empty list."""
    tested = correlations.filter(pl.col("p").is_not_null())
    if tested.is_empty():
        return []
    raw, kept = tested.filter(pl.col("p") < 0.05).height, tested.filter(pl.col("p_holm") < 0.05)
    names = [
        f"{label_of(factor)} ({group or 'all'}, r = {number(r, 2)})"
        for factor, group, r in kept.select("factor", "group", "pearson").iter_rows()
    ]
    claim = (
        f"Task factors: {kept.height or 'none'} of {plural(tested.height, 'correlation')} with {slopes} "
        f"{'is' if kept.height < 2 else 'are'} significant after Holm's correction."
    )
    text = f"{listed(names)}. " if names else ""
    text += f"{family(tested)} {raw} of them {'has' if raw == 1 else 'have'} p < .05 before correction. "
    most = int(tested["n"].max())  # type: ignore[arg-type]
    return [Answer(verdict="yes" if kept.height else "unclear", claim=claim, numbers=text + strength(most))]


def chance(tests: int) -> str:
    """A sentence on the intervals that would exclude zero by chance among so many 95% intervals."""
    expected = f"about {number(0.05 * tests, 1)} of {tests} intervals"
    return f"If every slope were zero, {expected} would still exclude zero."


def family(correlations: pl.DataFrame) -> str:
    """A sentence on the family of tests that are corrected together: its size, factors and groups."""
    tested = correlations.filter(pl.col("p").is_not_null())
    if tested.is_empty():
        return "None of the correlations can be tested."
    factors, groups = (plural(tested[name].n_unique(), name) for name in ("factor", "group"))
    return f"The family is {plural(tested.height, 'test')}: {factors} in {groups} of slopes."


def strength(tasks: int) -> str:
    """A sentence on the smallest correlation that so many tasks can distinguish from zero."""
    if tasks < 4:
        return f"The interval of a correlation needs 4 tasks; there are {tasks}."
    critical = number(critical_correlation(tasks), 2)
    return f"With {tasks} tasks the 95% interval of r excludes zero only if |r| exceeds {critical}."


def factor_notes(correlations: pl.DataFrame) -> list[str]:
    """Limitations of these correlations."""
    found = ["Correlations over a few tasks are uncertain: read the interval, not only the estimate."]
    if "headroom" in correlations["factor"]:
        found.append(
            "The correlation with headroom is partly arithmetic: a score near 1 cannot rise much, so its "
            "slope in log AUC is small for every pretraining. A factor that is correlated with headroom "
            "inherits this correlation."
        )
    both = correlations.filter(
        pl.col("factor").is_in(["classes", "classes_binary"]), pl.col("pearson").is_not_null()
    )
    for (group,), rows in both.group_by("group", maintain_order=True):
        r = dict(rows.select("factor", "pearson").iter_rows())
        if len(r) > 1:
            found.append(
                f"The number of classes depends on how a multi-label task is counted: for {group}, r is "
                f"{number(r['classes'], 2, signed=True)} if each label counts as a class, and "
                f"{number(r['classes_binary'], 2, signed=True)} if the task counts as binary."
            )
    return found
