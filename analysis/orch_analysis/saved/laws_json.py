"""laws.json: every fit of a table, with what is needed to trust it, repeat it and predict from it.

`laws.schema.json` in this package is the JSON Schema of the file, with a description of every key; its
version is `schema_version`. Version 1 is still read. The bootstrap draws behind the bands are in `draws.npz`,
the provenance cards in `cards/card-<n>.json` and `cards/card-<n>.md`, in the same folder.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from orch_analysis.fitting.estimates import Fit
from orch_analysis.saved import card as cards
from orch_core.errors import OrchError

SCHEMA_VERSION = 2
FILE, DRAWS, CARDS = "laws.json", "draws.npz", "cards"


def write(
    fits: Sequence[Fit],
    out_dir: str | Path,
    provenance: Mapping[str, Any],
    benefits: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write laws.json, draws.npz and the cards to a folder, and return the path of laws.json.

    `provenance` goes into every card; see `card.make`. `benefits`: of `BenefitAnalysis.to_json`.
    """
    folder = Path(out_dir)
    (folder / CARDS).mkdir(parents=True, exist_ok=True)
    path, partial, comma = folder / FILE, folder / f".{FILE}.partial", ""
    with partial.open("w", encoding="utf-8") as file:  # fit by fit: a table may have ten thousand groups
        file.write(f'{{\n  "schema_version": {SCHEMA_VERSION},\n  "fits": [')
        for number, one in enumerate(fits):
            card = cards.make(one, provenance)
            page = cards.markdown(card, one)
            (folder / CARDS / f"card-{number}.md").write_text(page, encoding="utf-8")
            (folder / CARDS / f"card-{number}.json").write_text(_json(card) + "\n", encoding="utf-8")
            entry = one.to_json(draws=False) | {"card": f"{CARDS}/card-{number}.json"}
            file.write(f"{comma}\n{_json(entry)}".replace("\n", "\n    "))
            comma = ","
        pooled = _json(list(benefits)).replace("\n", "\n  ")
        file.write(f'\n  ],\n  "benefits": {pooled}\n}}\n')
    draws = {str(number): one.draws for number, one in enumerate(fits)}
    np.savez_compressed(folder / DRAWS, **draws)  # type: ignore[arg-type]  # its other argument is a flag
    partial.replace(path)
    return path


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def load_laws(folder: str | Path, *, trust: bool = False) -> list[Fit]:
    """The fits that `write` wrote, ready to predict.

    Raises OrchError for another folder or schema version, a damaged file, and for a law in a Python file
    unless `trust` allows to execute it.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        msg = f"no {FILE} in {folder}"
        raise OrchError(msg, hint="give the folder that `orch fit-laws --out` wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, entries = content["schema_version"], content["fits"]
        if version not in {1, SCHEMA_VERSION}:
            msg = f"{path} has schema version {version}; this version of orch reads 1 and {SCHEMA_VERSION}"
            raise OrchError(msg, hint="fit again, or use the version of orch that wrote it")
        upgraded = [_from_version_1(entry) if version == 1 else entry for entry in entries]
        draws = _draws(path.with_name(DRAWS), len(upgraded))
        return [_fit(*pair, trust=trust) for pair in zip(upgraded, draws, strict=True)]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        msg = f"{path} is not a laws file: {error}"
        raise OrchError(msg, hint="write it again with `orch fit-laws`") from error


def _draws(path: Path, count: int) -> list[Any]:
    """The draws of every fit; raises OrchError if the file is missing or damaged."""
    try:
        with np.load(path) as draws:
            return [draws[str(number)] for number in range(count)]
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{path} cannot be read: {error}"
        raise OrchError(msg, hint="write it again with `orch fit-laws`") from error


def predict(
    folder: str | Path, at: pl.DataFrame | None = None, *, trust: bool = False, **x: float | Sequence[float]
) -> pl.DataFrame:
    """What every law of a folder predicts, as `Fit.predict` gives it, beside the columns of the groups.

    Fits without estimates predict nothing. Raises OrchError as `load_laws` and `Fit.predict` do.
    """
    if at is None:
        at = pl.DataFrame(dict(zip(x, np.broadcast_arrays(*map(np.atleast_1d, x.values())), strict=True)))
    frames = [
        one.predict(at).with_columns(pl.lit(word).alias(name) for name, word in one.group.items())
        for one in load_laws(folder, trust=trust)
        if one.estimates
    ]
    return pl.concat(frames, how="diagonal") if frames else pl.DataFrame()


def _fit(entry: Mapping[str, Any], draws: Any, *, trust: bool) -> Fit:
    if "choice" not in entry:
        return Fit.from_json(entry, draws=draws, trust=trust)
    from orch_analysis.forecast.auto import AutoFit

    return AutoFit.from_json(entry, draws=draws, trust=trust)


def _from_version_1(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the first version in today's form: options were fields, and the rows used were not kept."""
    settings = entry["settings"]
    ceiling = settings.get("ceiling")
    given = settings["delta"]
    options = {
        **{name: settings[name] for name in ("weights", "stderr", "cluster", "interval")},
        **{name: entry[name] for name in ("x", "loss", "bootstrap", "level", "seed")},
        "value": entry["value"] if ceiling is None else settings["metric"],
        "huber_delta": None if given == "auto" else given,
        "ceiling": ceiling,
    }
    known = {
        name: {**item, "range": _infinite(item["range"])} for name, item in entry["identifiability"].items()
    }
    upgraded = {
        **entry,
        "options": options,
        "start_agreement": entry["certificate"],
        "held": settings.get("held", []),
        "intervals": {name: _infinite(ends) for name, ends in entry["intervals"].items()},
        "identifiability": known,
    }
    choice = upgraded.pop("choice")
    if choice is None:
        return upgraded
    numbers = ("error", "aicc")
    scores = [
        {name: math.nan if score[name] is None and name in numbers else score[name] for name in score}
        for score in choice["scores"]
    ]
    coverage = math.nan if choice["coverage"] is None else choice["coverage"]
    return upgraded | {
        "choice": {**choice, "scores": scores, "coverage": coverage},
        "x_data": choice["x"],
        "y_data": [value if ceiling is None else ceiling - value for value in choice["y"]],
        "warnings": [*entry["warnings"], *choice["warnings"]],
    }


def _infinite(ends: Sequence[float | None]) -> list[float]:
    low, high = ends
    return [-math.inf if low is None else low, math.inf if high is None else high]
