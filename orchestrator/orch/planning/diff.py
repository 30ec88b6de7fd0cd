"""The changes from an old plan to a new one: cells to create, keep, drop, and changed cells with reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_core.cell import Probe, identity_of_data
from orch_core.grid.columns import COLUMNS, data_of

Places = NDArray[np.intp]

LABELS = ("algorithm", "model", "mix", "images", "seed", "resolution", "patch")
FIELDS = tuple(column.name for column in COLUMNS if column.field and column.name not in LABELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """create, keep, drop: rows of the frames; changed: labels, `id`, `old_id` and `reason` per pair of cells.

    A cell is changed if the old plan has one with the same algorithm, model, mix, data size, seed, resolution
    and patch under another id; the reason names every field that changed the id.
    """

    create: pl.DataFrame
    keep: pl.DataFrame
    drop: pl.DataFrame
    changed: pl.DataFrame

    def counts(self) -> dict[str, int]:
        """The number of cells to create, keep, drop and change."""
        return {name: getattr(self, name).height for name in ("create", "keep", "drop", "changed")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeChange:
    """A probe that a new plan adds, changes or drops, for each of the `cells` that it keeps."""

    task: str
    change: Literal["added", "changed", "dropped"]
    reason: str
    cells: int


def diff_probes(old: Sequence[Probe], new: Sequence[Probe], cells: int) -> tuple[ProbeChange, ...]:
    """Compare the probes of two plans task by task; `cells` is how many cells both have."""
    before, after = ({probe.task: probe for probe in probes} for probes in (old, new))
    found = []
    for task in dict.fromkeys((*after, *before)):
        was, now = before.get(task), after.get(task)
        if was and now and was.id == now.id:
            continue
        change: Literal["added", "changed", "dropped"] = (
            "changed" if was and now else "added" if now else "dropped"
        )
        reason = _probe_reason(was, now) if was and now else ""
        found.append(ProbeChange(task=task, change=change, reason=reason, cells=cells))
    return tuple(found)


def _probe_reason(old: Probe, new: Probe) -> str:
    reasons = ["another file"] if old.fingerprint != new.fingerprint else []
    for name in ("kind", "train_limit", "protocol"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            reasons.append(f"{name} {was} -> {now}")
    return "; ".join(reasons)


def diff(old: pl.DataFrame, new: pl.DataFrame) -> Diff:
    """Compare two frames of plans (see `orch_core.grid.cells`) by id."""
    if new["id"].equals(old["id"]):
        return Diff(
            create=new.clear(), keep=new, drop=old.clear(), changed=_changed(old.clear(), new.clear())
        )
    ours, theirs = _matches(new["id"].hash().to_numpy(), old["id"].hash().to_numpy())
    same = (new["id"][ours] == old["id"][theirs]).to_numpy()
    kept_of_new, kept_of_old = np.zeros(new.height, dtype=bool), np.zeros(old.height, dtype=bool)
    kept_of_new[ours[same]], kept_of_old[theirs[same]] = True, True
    created, dropped = new.filter(~kept_of_new), old.filter(~kept_of_old)
    ours, theirs = _pairs(created, dropped)
    columns = ["id", *dict.fromkeys((*LABELS, *FIELDS))]
    return Diff(
        create=created.filter(_others(created.height, ours)),
        keep=new.filter(kept_of_new),
        drop=dropped.filter(_others(dropped.height, theirs)),
        changed=_changed(_rows(dropped.select(columns), theirs), _rows(created.select(columns), ours)),
    )


def _rows(frame: pl.DataFrame, places: Places) -> pl.DataFrame:
    whole = places.size == frame.height and bool((places == np.arange(places.size)).all())
    return frame if whole else frame[places]


def _matches(ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> tuple[Places, Places]:
    """Places of equal keys in both, in the order of the first; keys of a side are distinct."""
    order, other = np.argsort(ours), np.argsort(theirs)
    if not (ours.size and theirs.size):
        return order[:0], other[:0]
    at = np.minimum(np.searchsorted(theirs[other], ours[order]), theirs.size - 1)
    found = theirs[other[at]] == ours[order]
    first, second = order[found], other[at[found]]
    back = np.argsort(first)
    return first[back], second[back]


def _pairs(created: pl.DataFrame, dropped: pl.DataFrame) -> tuple[Places, Places]:
    """Places of rows with equal labels in both; rows with the same labels are paired in order."""
    ours, theirs = (frame.select(LABELS).hash_rows().to_numpy() for frame in (created, dropped))
    if np.array_equal(ours, theirs):
        return np.arange(ours.size), np.arange(ours.size)
    return _matches(_numbered(ours), _numbered(theirs))


def _numbered(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Another key per row: the one it has, and how many rows before it have the same."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = (
        np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        if keys.size
        else np.zeros(0, dtype=np.intp)
    )
    nth = np.empty(keys.size, dtype=np.uint64)
    nth[order] = np.arange(keys.size) - np.repeat(starts, np.diff(np.append(starts, keys.size)))
    return np.asarray(keys + nth * np.uint64(0x9E3779B97F4A7C15))


def _others(height: int, places: Places) -> NDArray[np.bool_]:
    rest = np.ones(height, dtype=bool)
    rest[places] = False
    return rest


def _changed(dropped: pl.DataFrame, created: pl.DataFrame) -> pl.DataFrame:
    """Rows of the two frames are pairs: labels, both ids, and every field in which they differ."""
    pairs = created.hstack(dropped.select(pl.col("id", *FIELDS).name.suffix("_old")))
    differ = [field for field in FIELDS if not created[field].equals(dropped[field])]
    reasons = [_reason(field) for field in differ] or [pl.lit("", pl.String)]
    reason = pl.concat_str(reasons, separator="; ", ignore_nulls=True)
    return pairs.select("id", pl.col("id_old").alias("old_id"), *LABELS, reason.alias("reason"))


def _reason(field: str) -> pl.Expr:
    new, old = pl.col(field), pl.col(f"{field}_old")
    if field == "data":
        words = pl.lit("other images under the same names")
        new, old = (side.map_batches(_identities, return_dtype=pl.String) for side in (new, old))
    else:
        texts = (side.cast(pl.String).fill_null("-") for side in (old, new))
        words = pl.format(field + " {} -> {}", *texts)
    return pl.when(new.ne_missing(old)).then(words)


def _identities(texts: pl.Series) -> pl.Series:
    """The identity of data: fingerprints and counts, without names and places."""
    distinct = texts.unique()
    plain = [str(identity_of_data(data_of(text))) for text in distinct]
    return texts.replace_strict(distinct, pl.Series(plain, dtype=pl.String), return_dtype=pl.String)
