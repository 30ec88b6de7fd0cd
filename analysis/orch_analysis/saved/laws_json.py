"""laws.json: every fit of a table, with what is needed to trust it, repeat it and predict from it.

`laws.schema.json` beside this module is the JSON Schema of the file, with a description of every key; its version is
`schema_version`. The bootstrap draws behind the bands lie in `draws.npz`, the provenance cards in `cards/card-<n>.json`
and `cards/card-<n>.md`, in the same folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from orch_analysis import laws
from orch_analysis.fitting.estimates import Dropped, Fit, Identifiability, Line
from orch_analysis.fitting.fit import Interval, Loss, fit
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.laws.law import Array, Law
from orch_analysis.saved import card as cards
from orch_analysis.tables.points_file import Points
from orch_core.errors import OrchError

if TYPE_CHECKING:
    from orch_analysis.forecast.auto import Choice

SCHEMA_VERSION = 1
FILE, DRAWS, CARDS = "laws.json", "draws.npz", "cards"


def fit_points(
    points: Points,
    *,
    law: Law | str,
    value: str,
    x: Mapping[str, str | float] | None = None,
    group_by: Sequence[str] = (),
    loss: Loss = "auto",
    delta: float | Literal["auto"] = "auto",
    weights: str | None = None,
    stderr: str | None = None,
    bootstrap: int = 1000,
    cluster: str | None = None,
    interval: Interval = "auto",
    level: float = 0.95,
    seed: int = 0,
    ceiling: float | None = None,
) -> list[Fit | Choice]:
    """One fit per group, in order of first appearance; `law="auto"` chooses a form for each (`choose.auto`).

    Rows that could not be read belong to no group, so every fit lists them. Arguments as for `fit.fit`; `ceiling` is
    that of a metric that grows, for "auto". Raises OrchError for unknown columns, and for options that the law does
    not take.
    """
    from orch_analysis.fitting.usable import require

    for name in group_by:
        require(points.frame, name)
    if law == "auto":
        given = {"loss": loss != "auto", "delta": delta != "auto", "weights": weights, "stderr": stderr}
        _refuse(
            [name for name, told in given.items() if told], "auto fits every form its own way", "a law's name"
        )
        if ceiling is not None and not math.isfinite(ceiling):
            msg = f"the ceiling must be a finite number, got {ceiling}"
            raise OrchError(msg, hint="1 for fractions, 100 for percent")
    elif ceiling is not None:
        _refuse(["ceiling"], "laws by name describe errors, or know theirs", "auto, accuracy or auc")
    found: list[Fit | Choice] = []
    for group in _groups(points.frame, group_by):
        table = cards.select(points, group)
        if law == "auto":
            one: Fit | Choice = _chosen(
                table, value, x or {}, group=group, bootstrap=bootstrap, cluster=cluster, interval=interval,
                level=level, seed=seed, ceiling=ceiling,
            )  # fmt: skip
        else:
            one = fit(
                law, table, value=value, x=x, loss=loss, delta=delta, weights=weights, stderr=stderr,
                bootstrap=bootstrap, cluster=cluster, interval=interval, level=level, seed=seed, group=group,
            )  # fmt: skip
        found.append(_with_dropped(one, points.dropped))
    return found


def _refuse(names: Sequence[str], why: str, instead: str) -> None:
    if names:
        msg = f"{' and '.join(names)} cannot be set here: {why}"
        raise OrchError(msg, hint=f"leave {'it' if len(names) == 1 else 'them'} out, or use {instead}")


def _chosen(table: pl.DataFrame, value: str, x: Mapping[str, str | float], **options: Any) -> Choice:
    from orch_analysis.forecast import auto

    return auto.auto(table, value=value, x={name: str(column) for name, column in x.items()}, **options)


def _groups(frame: pl.DataFrame, names: Sequence[str]) -> list[dict[str, str]]:
    if not names:
        return [{}]
    keys = frame.select(pl.col(name).cast(pl.String).fill_null(cards.MISSING) for name in names)
    return [dict(row) for row in keys.unique(maintain_order=True).iter_rows(named=True)]


def _with_dropped(one: Fit | Choice, unreadable: tuple[Dropped, ...]) -> Fit | Choice:
    from dataclasses import replace

    if not unreadable:
        return one
    fitted = one if isinstance(one, Fit) else one.fit
    dropped = tuple(sorted((*fitted.dropped, *unreadable), key=lambda item: item.row))
    fitted = replace(fitted, dropped=dropped)
    return fitted if isinstance(one, Fit) else replace(one, fit=fitted)


def write(found: Iterable[Fit | Choice], out_dir: str | Path, provenance: Mapping[str, Any]) -> Path:
    """Write laws.json, draws.npz and the cards to a folder, and return the path of laws.json.

    `provenance` goes into every card; see `card.make`.
    """
    folder = Path(out_dir)
    (folder / CARDS).mkdir(parents=True, exist_ok=True)
    entries, draws = [], {}
    for number, item in enumerate(found):
        one, choice = (item, None) if isinstance(item, Fit) else (item.fit, item.to_dict())
        card = cards.make(one, provenance)
        page = cards.markdown(card, one)
        (folder / CARDS / f"card-{number}.md").write_text(page, encoding="utf-8")
        (folder / CARDS / f"card-{number}.json").write_text(_json(card), encoding="utf-8")
        draws[str(number)] = one.draws
        entries.append(_entry(one) | {"card": f"{CARDS}/card-{number}.json", "choice": choice})
    np.savez_compressed(folder / DRAWS, **draws)  # type: ignore[arg-type]
    path = folder / FILE
    path.write_text(_json({"schema_version": SCHEMA_VERSION, "fits": entries}), encoding="utf-8")
    return path


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _entry(one: Fit) -> dict[str, Any]:
    return {
        "law": one.law.name,
        "formula": one.law.formula,
        "file": one.law.file or None,
        "fixed": dict(one.law.fixed),
        "group": dict(one.group),
        "value": one.value,
        "x": dict(one.x),
        "loss": one.loss,
        "link": one.link,
        "delta": one.delta,
        "estimates": dict(one.estimates),
        "intervals": {name: [_finite(lo), _finite(hi)] for name, (lo, hi) in one.intervals.items()},
        "level": one.level,
        "interval": one.interval,
        "objective": one.objective,
        "n": one.n,
        "sd": one.sd,
        "residuals": list(one.residuals),
        "dropped": [{"row": item.row, "reason": item.reason} for item in one.dropped],
        "outcome": str(one.outcome),
        "message": one.message,
        "certificate": one.certificate,
        "identifiability": {
            name: {
                "identified": item.identified,
                "range": [_finite(item.range[0]), _finite(item.range[1])],
                "words": item.words,
            }
            for name, item in one.identifiability.items()
        },
        "ranges": {name: list(ends) for name, ends in one.ranges.items()},
        "bootstrap": one.bootstrap,
        "seed": one.seed,
        "warnings": list(one.warnings),
        "settings": dict(one.settings),
        "line": asdict(one.line) if one.line else None,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def read(folder: str | Path, *, trust: bool = False) -> list[Fit | Choice]:
    """The fits that `write` wrote, ready to predict.

    Raises OrchError for another folder or schema version, and for a law in a Python file unless `trust` allows to
    execute it.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        msg = f"no {FILE} in {folder}"
        raise OrchError(msg, hint="give the folder that `orch fit-laws --out` wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, entries = content["schema_version"], content["fits"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        msg = f"{path} is not a laws file: {error}"
        raise OrchError(msg, hint="write it again with `orch fit-laws`") from error
    if version != SCHEMA_VERSION:
        msg = f"{path} has schema version {version}; this version of orch reads {SCHEMA_VERSION}"
        raise OrchError(msg, hint="fit again, or use the version of orch that wrote it")
    with np.load(path.with_name(DRAWS)) as draws:
        return [_restored(entry, draws[str(number)], trust=trust) for number, entry in enumerate(entries)]


def _restored(entry: Mapping[str, Any], draws: Array, *, trust: bool) -> Fit | Choice:
    law = laws.restored(entry, tuple(entry["x"]), trust=trust)
    one = Fit(
        law=law,
        intervals={name: _pair(ends) for name, ends in entry["intervals"].items()},
        residuals=tuple(entry["residuals"]),
        dropped=tuple(Dropped(**item) for item in entry["dropped"]),
        outcome=Outcome(entry["outcome"]),
        identifiability={
            name: Identifiability(
                identified=item["identified"], range=_pair(item["range"]), words=item["words"]
            )
            for name, item in entry["identifiability"].items()
        },
        ranges={name: (ends[0], ends[1]) for name, ends in entry["ranges"].items()},
        warnings=tuple(entry["warnings"]),
        line=Line(**entry["line"]) if entry["line"] else None,
        draws=draws,
        **{name: entry[name] for name in PLAIN},
    )
    if entry.get("choice") is None:
        return one
    from orch_analysis.forecast import auto

    return auto.from_dict(entry["choice"], one)


PLAIN = (
    "group", "value", "x", "loss", "link", "delta", "estimates", "level", "interval", "objective", "n", "sd",
    "message", "certificate", "bootstrap", "seed", "settings",
)  # fmt: skip


def _pair(ends: Sequence[float | None]) -> tuple[float, float]:
    low, high = ends
    return (-math.inf if low is None else low, math.inf if high is None else high)
