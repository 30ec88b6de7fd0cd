"""`orch frontier`: compute-optimal size and data of a study's runs or of a table of points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from orch.console import Exit
from orch.fit_laws import Fitted, is_table
from orch.studies import find_study
from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.used_rows.selection import selected
from orch_analysis.fitting.used_rows.variables import VALUES, as_numbers, require
from orch_analysis.frontiers import approaches
from orch_analysis.frontiers.approaches import Frontier, disagreements, optimum
from orch_analysis.frontiers.run_columns import complete_rows
from orch_analysis.tables.points_file import load_points
from orch_analysis.tables.study_tables import read_curves, read_results
from orch_core.errors import OrchError
from orch_core.formatting import quantity

UNITS = {"MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15, "EFLOP": 1e18, "PFLOP/s-days": 8.64e19}
LEAST_FACTOR, MOST_FACTOR = 0.1, 1e5  # compute over 6 N D beyond which its unit is not FLOP
MAPPED = ("value", "params", "samples", "compute", "run")  # what --map can name


def budget(flops: float | None, gpu_hours: float | None, rate: float | None) -> float | None:
    """FLOPs of a budget in either unit, or None; raises OrchError for an incomplete or a double budget."""
    if flops and (gpu_hours or rate):
        message = "--flops and --gpu-hours both give the budget"
        raise OrchError(message, hint="give only one of them")
    if bool(gpu_hours) != bool(rate):
        given, missing = "gpu-hours", "flops-per-gpu-hour"
        if not gpu_hours:
            given, missing = missing, given
        message = f"--{given} requires --{missing}"
        raise OrchError(message, hint="give both; --flops-per-gpu-hour is the achieved speed, not the peak")
    return flops or (gpu_hours * rate if gpu_hours and rate else None)


def frontier(
    target: Path | None,
    mapping: Mapping[str, str],
    group_by: tuple[str, ...],
    flops: float | None,
    where: str = "",
) -> Fitted:
    """Every approach that the points allow, per group; a study's curves are grouped by algorithm and mix.

    flops: a budget to size a run for. where: an expression that chooses rows of a table. Raises OrchError for
    a missing table, study or column.
    """
    if target is not None and is_table(target):
        x = {name: column for name, column in mapping.items() if name != "value"}
        options = FitOptions(value=mapping.get("value", ""), x=x, where=where)
        frame = selected(load_points(target), options).frame
        columns = _columns(frame, mapping)
    else:
        study = find_study(target)
        frame = read_curves(study, read_results(study).pretraining).filter(pl.col("heldout_loss") > 0)
        if frame.is_empty():
            message = f"{study.name} has no training curve yet"
            raise OrchError(message, hint="run `orch launch`; `orch status` shows the progress")
        group_by = group_by or ("algorithm", "mix")
        columns = {"value": "heldout_loss", "params": "params_encoder", "samples": "samples_seen"}
        columns |= {"flops": "flops_spent", "run": "cell"}
    lines, groups, failed = [], [], True
    for label, part in _groups(frame, group_by):
        found = approaches.frontier(part, **columns)  # type: ignore[arg-type]
        warnings = [*_compute_warnings(part, columns, flops), *(disagreements(found, flops) if flops else ())]
        wanted = {name: column for name, column in columns.items() if name != "run"}
        left_out = part.height - complete_rows(part, wanted).height
        lines += [
            label,
            *([f"  left out: {left_out} rows without positive numbers"] if left_out else []),
            *(_line(one, flops) for one in found),
            *(f"  warning: {warning}" for warning in warnings),
        ]
        groups.append(
            {
                "group": label,
                "left_out": left_out,
                "frontiers": [_json(one, flops) for one in found],
                "warnings": warnings,
            }
        )
        failed = failed and all(one.outcome is not Outcome.OK for one in found)
    exit_code = Exit.NO_FIT if failed else Exit.OK
    return Fitted(document={"groups": groups}, text="\n".join(lines), exit_code=exit_code)


def _columns(frame: pl.DataFrame, mapping: Mapping[str, str]) -> dict[str, str | None]:
    unknown = sorted(set(mapping) - set(MAPPED))
    if unknown:
        message = f"a frontier reads {', '.join(MAPPED)}, not {unknown[0]}"
        raise OrchError(message, hint=f"remove {unknown[0]} from --map")
    return {
        "value": mapping.get("value") or next((name for name in VALUES if name in frame.columns), "loss"),
        "params": mapping.get("params", "params"),
        "samples": mapping.get("samples") or ("samples" if "samples" in frame.columns else None),
        "flops": mapping.get("compute") or ("flops" if "flops" in frame.columns else None),
        "run": mapping.get("run"),
    }


def _compute_warnings(
    part: pl.DataFrame, columns: Mapping[str, str | None], flops: float | None
) -> Iterator[str]:
    """Compute that cannot be in FLOPs, by 6 N D (Kaplan et al. 2020, eq. 2.2), and a budget beyond the data.

    An image is many tokens, so compute may be a thousand times 6 N D where samples are images, but not less.
    """
    params, samples, compute = (columns[name] for name in ("params", "samples", "flops"))
    rule = 6 * as_numbers(part, params) * as_numbers(part, samples) if params and samples else None
    given = as_numbers(part, compute) if compute else None
    if rule is not None and given is not None:
        ratios = given / rule
        factor = float(np.median(ratios[np.isfinite(ratios)])) if np.isfinite(ratios).any() else 1.0
        if not LEAST_FACTOR <= factor <= MOST_FACTOR:
            unit = next((name for name, size in UNITS.items() if 1 / 3 < factor * size < 3), "")
            remedy = (
                f'{unit}, so map "compute={compute} * {UNITS[unit]:g}"' if unit else "another unit than FLOP"
            )
            yield f"{compute} is {factor:.2g} times 6 x params x samples: it seems to be in {remedy}"
    spent = given if given is not None else rule
    if flops and spent is not None and np.isfinite(spent).any():
        beyond = flops / float(np.nanmax(spent[np.isfinite(spent)]))
        if beyond > 1:
            yield f"{quantity(flops, 'FLOP')} is {beyond:.2g} times the largest compute of the data"


def _groups(frame: pl.DataFrame, names: tuple[str, ...]) -> Iterator[tuple[str, pl.DataFrame]]:
    if not names:
        yield "all", frame
        return
    for name in names:
        require(frame, name)
    for key, part in frame.group_by(*dict.fromkeys(names), maintain_order=True):
        yield " ".join(str(value) for value in key), part


def _line(one: Frontier, flops: float | None) -> str:
    if one.outcome is not Outcome.OK:
        return f"  {one.approach:11} {one.outcome}: {one.message}"
    low, high = one.a_interval
    line = f"  {one.approach:11} N* ~ C^{one.a:.3f} [{low:.3f}, {high:.3f}], D* ~ C^{one.b:.3f}, n={one.n}"
    if flops:
        best = optimum(one, flops)
        line += f"\n    at {quantity(flops, 'FLOP')}: N* {_ranged(best.params)}, D* {_ranged(best.samples)}"
    return "\n".join([line, *(f"    warning: {warning}" for warning in one.warnings)])


def _ranged(numbers: tuple[float, float, float]) -> str:
    value, low, high = map(quantity, numbers)
    return f"{value} [{low}, {high}]"


def _json(one: Frontier, flops: float | None) -> dict[str, Any]:
    said: dict[str, Any] = {
        "approach": one.approach,
        "outcome": one.outcome,
        "message": one.message,
        "n": one.n,
    }
    if one.outcome is not Outcome.OK:
        return said
    said |= {"a": one.a, "a_interval": list(one.a_interval), "b": one.b, "b_interval": list(one.b_interval)}
    return said | ({"optimum": asdict(optimum(one, flops))} if flops else {})
