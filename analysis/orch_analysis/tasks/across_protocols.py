"""Whether the answers of a study depend on the protocol that its encoders are probed by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from orch_analysis.tables.study_tables import Results
from orch_analysis.tasks.contrasts import contrasts
from orch_analysis.tasks.slopes import probe_slopes, with_controls
from orch_core.study.rows import main_protocol

Estimate = tuple[float, tuple[float, float] | None]
"""A value with its 95% interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcrossProtocols:
    """One quantity under every protocol.

    quantity: `slope` of the error (1 - AUC) in encoder parameters, or `difference` in AUC
              of `second` minus `first`
    subject:  the algorithm and mix of a slope, the axis and its two values of a difference;
              task: empty for a difference
    """

    quantity: str
    subject: str
    task: str
    estimates: Mapping[str, Estimate]

    @property
    def keeps_sign(self) -> bool:
        """True where the estimates of all protocols have one sign."""
        return len({value > 0 for value, _ in self.estimates.values()}) == 1

    @property
    def reverses(self) -> bool:
        """True where two intervals that exclude zero lie on different sides of it."""
        sides = {value > 0 for value, ends in self.estimates.values() if ends and not ends[0] <= 0 <= ends[1]}
        return len(sides) == 2


def by_main_protocol(results: Results) -> Results:
    """The results with the probes of one protocol: the one that laws and comparisons are of."""
    protocols = results.probes["protocol"].drop_nulls().unique().to_list()
    if len(protocols) < 2:
        return results
    return replace(results, probes=results.probes.filter(pl.col("protocol") == main_protocol(protocols)))


def across_protocols(results: Results) -> list[AcrossProtocols]:
    """Slopes and differences that two protocols or more give; none if the study has one protocol."""
    found: dict[tuple[str, str, str], dict[str, Estimate]] = {}
    protocols = results.probes["protocol"].drop_nulls().unique().sort().to_list()
    for protocol in protocols if len(protocols) > 1 else ():
        rows = results.probes.filter(pl.col("protocol") == protocol).with_columns(task=pl.col("task_name"))
        for key, estimate in _estimates(replace(results, probes=rows)):
            found.setdefault(key, {})[protocol] = estimate
    return [
        AcrossProtocols(quantity=quantity, subject=subject, task=task, estimates=estimates)
        for (quantity, subject, task), estimates in found.items()
        if len(estimates) > 1
    ]


def _estimates(results: Results) -> Iterator[tuple[tuple[str, str, str], Estimate]]:
    for row in probe_slopes(results):
        if row.value == "error" and row.axis == "params_encoder" and row.slope is not None:
            subject = f"{row.algorithm} on {row.mix}" if row.mix else row.algorithm
            yield ("slope", subject, row.task), (row.slope, row.interval)
    for one in contrasts(with_controls(results.probes)):
        subject = f"{one.axis.replace('_', ' ')}: {one.second} minus {one.first}"
        yield ("difference", subject, ""), (one.mean, one.interval)


def protocol_table(rows: Sequence[AcrossProtocols]) -> pl.DataFrame:
    """One row per quantity and protocol.

    Columns: quantity, subject, task, protocol, value, lo, hi, keeps_sign, reverses.
    """
    found = [
        {
            "quantity": row.quantity, "subject": row.subject, "task": row.task, "protocol": protocol,
            "value": value, "lo": ends and ends[0], "hi": ends and ends[1],
            "keeps_sign": row.keeps_sign, "reverses": row.reverses,
        }
        for row in rows
        for protocol, (value, ends) in row.estimates.items()
    ]  # fmt: skip
    words = dict.fromkeys(("quantity", "subject", "task", "protocol"), pl.String)
    numbers = dict.fromkeys(("value", "lo", "hi"), pl.Float64)
    return pl.DataFrame(found, schema={**words, **numbers, "keeps_sign": pl.Boolean, "reverses": pl.Boolean})
