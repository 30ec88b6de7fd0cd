"""Sources as the user names them: paths, `MODALITY=PATH`, or a YAML file with a mapping of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orch_core.errors import GridError, OrchError, Problem
from orch_core.packs.gather import Spec
from orch_core.packs.layout import ALL
from orch_core.yaml import Document, did_you_mean, load_yaml

KEYS = ("path", "modality", "group", "window", "exclude", "image", "label")


def given_sources(words: Sequence[str]) -> list[Spec]:
    """The sources of a command line. Raises OrchError for equal names, GridError for a faulty YAML file."""
    specs = [spec for word in words for spec in _sources(word)]
    names: dict[str, Spec] = {}
    for spec in specs:
        other = names.setdefault(spec.name, spec)
        if other is not spec:
            message = f"two sources are called {spec.name!r}: {other.path} and {spec.path}"
            raise OrchError(
                message,
                hint="list them in a YAML file, `NAME: {path: ..., modality: ...}`, each with its name",
            )
    return specs


def _sources(word: str) -> list[Spec]:
    if word.endswith((".yaml", ".yml")):
        return _from_file(Path(word))
    modality, separator, path = word.partition("=")
    if not separator or Path(word).exists():
        modality, path = "", word
    elif modality in {"", ALL}:
        message = f"{word!r} names no modality"
        raise OrchError(message, hint="write MODALITY=PATH, such as ct=scans/")
    resolved = Path(path).expanduser().resolve()
    name = resolved.name.removesuffix(".gz")
    return [Spec(name=Path(name).stem or name, path=resolved, modality=modality)]


def _from_file(path: Path) -> list[Spec]:
    document = load_yaml(path)
    data = document.data
    if isinstance(data, dict) and isinstance(data.get("sources"), dict):
        return _entries(document, data["sources"], path, ("sources",))
    if not isinstance(data, dict):
        raise GridError(
            (document.problem((), "expected a mapping of sources, `NAME: {path: ..., modality: ...}`"),)
        )
    return _entries(document, data, path, ())


def _entries(document: Document, entries: dict[str, Any], path: Path, at: tuple[str, ...]) -> list[Spec]:
    problems = list(document.duplicates)
    specs = []
    for name, entry in entries.items():
        found = list(_problems(document, (*at, name), entry))
        problems += found
        if not found:
            specs.append(_spec(str(name), entry, path.parent))
    if problems:
        raise GridError(tuple(sorted(problems, key=lambda problem: (problem.line, problem.column))))
    return specs


def _spec(name: str, entry: dict[str, Any], base: Path) -> Spec:
    window = entry.get("window")
    return Spec(
        name=name,
        path=(base / Path(entry["path"]).expanduser()).resolve(),
        **{key: str(entry.get(key, "")) for key in ("modality", "group", "exclude", "image", "label")},
        window=(float(window[0]), float(window[1])) if window else None,
    )


def _problems(document: Document, loc: tuple[str, ...], entry: object) -> list[Problem]:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return [document.problem(loc, f"{loc[-1]}: a source is `{{path: ..., modality: ...}}`", at_key=True)]
    found = [
        document.problem((*loc, key), f"unknown key {key!r}{did_you_mean(str(key), KEYS)}", at_key=True)
        for key in entry
        if key not in KEYS
    ]
    if entry.get("modality") == ALL:
        message = f"`{ALL}` stands for every modality in a grid: give the source's own"
        found.append(document.problem((*loc, "modality"), message))
    for key in ("group", "exclude"):
        try:
            re.compile(str(entry.get(key, "")))
        except re.error as error:
            found.append(document.problem((*loc, key), f"{key}: not a regular expression: {error}"))
    window = entry.get("window")
    if window is not None and not (
        isinstance(window, list)
        and len(window) == 2
        and all(isinstance(one, int | float) for one in window)
        and window[1] > 0
    ):
        found.append(
            document.problem((*loc, "window"), "window: [level, width] of intensities, width above 0")
        )
    return found
