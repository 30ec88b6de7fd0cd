"""From a YAML file to a checked grid: every mistake at once, each with its line and column."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from orch_core.errors import GridError, OrchError, Problem
from orch_core.grid.expression import ExpressionError, axes_of
from orch_core.grid.feasible import infeasible, plain_cell
from orch_core.grid.language import WHOLE_MIX, Family, Grid
from orch_core.grid.section import whole
from orch_core.identity import digest
from orch_core.images import npz
from orch_core.images.medmnist import MEDMNIST, SIZES, file_name, find_task, named_task
from orch_core.images.npz import NpzFacts
from orch_core.images.source import ALL, check_task, inspect_source
from orch_core.protocols import PROTOCOLS
from orch_core.recipes import RECIPES, constants
from orch_core.vit import known_models
from orch_core.yaml import Document, Loc, did_you_mean, load_yaml, nearest

Facts = Mapping[str, NpzFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedGrid:
    """A grid without mistakes, and the facts of its files.

    sources, tasks: facts by name; absent: names whose file is not on this machine, planned as declared.
    probed: names of the tasks of every encoder's probes.
    document: the file with the place of every value, for mistakes that only enumerating finds.
    data: folder in which named tasks are looked for first.
    unsound: sources that are not probed because of their labels, with the reason.
    """

    path: Path
    document: Document
    grid: Grid
    sources: Facts
    tasks: Facts
    absent: frozenset[str]
    probed: tuple[str, ...]
    data: Path | None = None
    unsound: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The grid as it was read."""
        return "\n".join(self.document.lines) + "\n"

    def file_of_source(self, name: str) -> Path:
        """The path of the file of a source."""
        return located(self.path.parent, self.grid.sources[name].path).resolve()

    def file(self, name: str) -> Path:
        """The path of the file of a task, or of a source that is one."""
        task = self.grid.tasks.get(name)
        if task is None:
            return self.file_of_source(name)
        if task.path is not None:
            return located(self.path.parent, task.path).resolve()
        return find_task(str(task.task), task.size, self.data) or Path(file_name(str(task.task), task.size))


def located(base: Path, path: str) -> Path:
    """A path in a grid that is in the folder `base`; `~` is the user's home."""
    return base / Path(path).expanduser() if path.startswith("~") else base / path


def read_grid(path: Path, data: Path | None = None) -> CheckedGrid:
    """Read and check a grid; raises GridError with every mistake, in the order of lines.

    data: folder in which named tasks are looked for first
    """
    document = load_yaml(path)
    if not isinstance(document.data, dict):
        raise GridError((document.problem((), "a grid is a mapping that starts with `study: NAME`"),))
    problems = list(document.duplicates)
    grid = None
    try:
        grid = Grid.model_validate(document.data)
    except ValidationError as error:
        details = [dict(detail) for detail in error.errors()]
        problems += [
            _validation_problem(document, detail) for detail in details if not _misspelt(detail, details)
        ]
    problems += _references(document)
    sources, tasks, absent, bad_files = _files(document, path.parent, data)
    problems += bad_files
    probed: tuple[str, ...] = ()
    unsound: dict[str, str] = {}
    if grid and not problems:
        problems += infeasible(document, grid, tasks)
        problems += _unsound_tasks(document, grid, sources, tasks)
        unsound = {name: facts.label_fault for name, facts in sources.items() if facts.label_fault}
        names = _labelled(grid, path.parent, absent)
        probed = tuple(
            grid.probes.tasks or (name for name in names if name in grid.tasks or name not in unsound)
        )
        if not probed:
            message = "no source has labels to probe: name a downstream task under `tasks`"
            problems.append(document.problem(("sources",), message, at_key=True))
    if problems or grid is None:
        unique = {(problem.line, problem.column, problem.message): problem for problem in problems}
        raise GridError(tuple(unique[key] for key in sorted(unique)))
    return CheckedGrid(
        path=path.resolve(),
        document=document,
        grid=grid,
        sources=sources,
        tasks=tasks,
        absent=absent,
        probed=probed,
        data=data,
        unsound={}
        if grid.probes.tasks
        else {name: why for name, why in unsound.items() if name not in grid.tasks},
    )


_NOT_IN_FILE = ("[key]", "a shape", "a family", "a name")
"""Parts of pydantic's locations that are not in the file: keys and tags of unions."""


def _validation_problem(document: Document, error: dict[str, Any]) -> Problem:
    loc: Loc = tuple(part for part in error["loc"] if part not in _NOT_IN_FILE)
    if error["type"] == "extra_forbidden":
        hint = did_you_mean(str(loc[-1]), _fields(loc[:-1]))
        return document.problem(loc, f"unknown key {loc[-1]!r}{hint}", at_key=True)
    if error["type"] == "missing":
        return document.problem(loc[:-1], f"`{loc[-1]}` is missing", at_key=bool(loc[:-1]))
    message = str(error["msg"])
    if error["type"] != "grid":
        shown = (
            repr(error["input"])
            if not isinstance(error["input"], dict | list)
            else "a " + _kind(error["input"])
        )
        message = f"{message[0].lower()}{message[1:]}: got {shown}"
    where = ".".join(str(part) for part in loc if isinstance(part, str) and "[" not in part)
    at_key = "[key]" in error["loc"]
    return document.problem(loc, f"{where}: {message}" if where else message, at_key=at_key)


def _misspelt(missing: dict[str, Any], errors: list[dict[str, Any]]) -> bool:
    """Whether a key is missing only because of a typo, which is already reported."""
    if missing["type"] != "missing":
        return False
    *parent, name = missing["loc"]
    unknown = [
        error["loc"][-1]
        for error in errors
        if error["type"] == "extra_forbidden" and [*error["loc"][:-1]] == parent
    ]
    return any(nearest(str(key), [str(name)]) for key in unknown)


def _kind(value: object) -> str:
    return "mapping" if isinstance(value, dict) else "list"


def _fields(loc: Loc) -> list[str]:
    """Names of the keys that the section at `loc` takes."""
    section: Any = Grid
    for part in loc:
        fields = getattr(section, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
        section = next(_sections(annotation), section) if annotation else section
    return list(section.model_fields)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _references(document: Document) -> list[Problem]:
    """Names that must be defined elsewhere: algorithms, sources, mixes, tasks, recipe constants, axes."""
    data = document.data
    sources = _names(data.get("sources"))
    mixes = _names(data.get("mixes", {WHOLE_MIX: sources}))
    tasks = _names(data.get("tasks"))
    checks: list[tuple[Loc, list[str], str]] = [
        (("probes", "tasks"), [*tasks, *sources], "task"),
        (("probes", "protocol"), list(PROTOCOLS), "protocol"),
    ]
    axes_at: list[Loc] = [("axes",)]
    axes_at += [(name, at) for name in ("include", "isoflop") for at in range(len(_list(data.get(name))))]
    known_mixes = mixes + [f"leave_one_out({mix})" for mix in mixes]
    for loc in axes_at:
        checks += [((*loc, "algorithm"), list(RECIPES), "algorithm"), ((*loc, "mix"), known_mixes, "mix")]
    checks += [(("mixes", mix), sources, "source") for mix in mixes]
    models = [*_model_names(data.get("axes")), *known_models()]
    checks += [((*loc, "model"), models, "model") for loc in axes_at[1:]]
    problems = [problem for loc, known, what in checks for problem in _unknown(document, loc, known, what)]
    if WHOLE_MIX not in mixes and isinstance(data.get("axes"), dict) and "mix" not in data["axes"]:
        problems.append(document.problem(("axes",), "`mix` is missing", at_key=True))
    return problems + _overrides(document) + _expressions(document)


def _labelled(grid: Grid, base: Path, absent: frozenset[str]) -> Iterator[str]:
    """Every task, and every source here that can be one and is not a task by its name or file."""
    yield from grid.tasks
    tasks = {task.path for task in grid.tasks.values()}
    for path, name in {source.path: name for name, source in grid.sources.items()}.items():
        if name not in absent and name not in grid.tasks and path not in tasks:
            try:
                check_task(located(base, path))
            except OrchError:
                continue
            yield name


def _unsound_tasks(document: Document, grid: Grid, sources: Facts, tasks: Facts) -> list[Problem]:
    """Tasks, and sources named as tasks, whose labels would give no score or a wrong one."""
    problems = []
    for name, facts in tasks.items():
        declared = grid.tasks[name].kind
        fault = facts.label_fault
        if not fault and facts.one_hot and declared is None:
            fault = "its labels are one-hot: give one column of class numbers, or `kind: multi-label`"
        if fault:
            problems.append(
                document.problem(("tasks", name), f"{name} cannot be a task: {fault}", at_key=True)
            )
    for index, name in enumerate(grid.probes.tasks or ()):
        if name not in tasks and name in sources and sources[name].label_fault:
            message = f"{name} cannot be a task: {sources[name].label_fault}"
            problems.append(document.problem(("probes", "tasks", index), message))
    return problems


def _model_names(axes: object) -> list[str]:
    names: list[str] = []
    for model in _list(axes.get("model")) if isinstance(axes, dict) else []:
        if not isinstance(model, dict):
            names.append(str(model))
        elif "family" in model:
            with contextlib.suppress(ValidationError):
                names += [shape.name for shape in Family.model_validate(model).shapes()]
        else:
            names.append(str(model.get("name")))
    return names


def _unknown(document: Document, loc: Loc, known: list[str], what: str) -> Iterator[Problem]:
    value = document.data
    for part in loc:
        if isinstance(value, dict):
            value = value.get(part)
        else:
            value = value[part] if isinstance(value, list) and isinstance(part, int) else None
    in_keys = isinstance(value, dict) and what == "source"
    for index, name in enumerate(value if in_keys else _list(value)):
        if isinstance(name, str) and name not in known:
            place = (*loc, name) if in_keys else (*loc, index)
            yield document.problem(
                place, f"unknown {what} {name!r}{did_you_mean(name, known)}", at_key=in_keys
            )


def _overrides(document: Document) -> list[Problem]:
    problems: list[Problem] = []
    overrides = document.data.get("overrides")
    for recipe, changes in overrides.items() if isinstance(overrides, dict) else ():
        if recipe not in RECIPES:
            message = f"unknown algorithm {recipe!r}{did_you_mean(recipe, RECIPES)}"
            problems.append(document.problem(("overrides", recipe), message, at_key=True))
            continue
        for name, value in changes.items() if isinstance(changes, dict) else ():
            if value == []:
                message = f"{name}: give a value, or a list of at least one"
                problems.append(document.problem(("overrides", recipe, name), message))
            try:
                for each in value if isinstance(value, list) else [value]:
                    constants(plain_cell(recipe, (name, each)))
            except OrchError as error:
                message = f"{error.message}; {error.hint}"
                problems.append(document.problem(("overrides", recipe, name), message, at_key=True))
    return problems


def _expressions(document: Document) -> list[Problem]:
    cluster = document.data.get("cluster")
    classes = _list(cluster.get("classes")) if isinstance(cluster, dict) else []
    places: list[tuple[Loc, object]] = [
        (("exclude", index), text) for index, text in enumerate(_list(document.data.get("exclude")))
    ]
    places += [
        (("cluster", "classes", index, "when"), entry.get("when"))
        for index, entry in enumerate(classes)
        if isinstance(entry, dict)
    ]
    problems: list[Problem] = []
    for loc, text in places:
        if isinstance(text, str):
            try:
                axes_of(text)
            except ExpressionError as error:
                problems.append(document.problem_within(loc, text, error.offset, error.message))
    return problems


def _files(
    document: Document, base: Path, data: Path | None
) -> tuple[Facts, Facts, frozenset[str], list[Problem]]:
    """Facts of every source and task file, and the mistakes in them."""
    found: dict[str, dict[str, NpzFacts]] = {"sources": {}, "tasks": {}}
    absent: set[str] = set()
    problems: list[Problem] = []
    probes = document.data.get("probes")
    probed = _list(probes.get("tasks")) if isinstance(probes, dict) else []
    for section, facts in found.items():
        entries = document.data.get(section)
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            if section == "tasks" and isinstance(entry, dict) and entry.get("task") in MEDMNIST:
                _add_named(document, name, entry, data, facts, absent, problems)
                continue
            if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
                continue
            declared = _declared(name, entry)
            if declared and not located(base, entry["path"]).exists():
                facts[name] = declared
                absent.add(name)
                continue
            try:
                facts[name] = inspect_source(located(base, entry["path"]), str(entry.get("modality", ALL)))
                if section == "tasks" or name in probed:
                    check_task(located(base, entry["path"]))
            except OrchError as error:
                message = f"{error.message}; {error.hint}"
                problems.append(document.problem((section, name, "path"), message))
    return found["sources"], found["tasks"], frozenset(absent), problems


def _add_named(
    document: Document,
    name: str,
    entry: dict[str, Any],
    data: Path | None,
    facts: dict[str, NpzFacts],
    absent: set[str],
    problems: list[Problem],
) -> None:
    """Facts of a published task: of its file, or if that is in no data folder, as they were published."""
    size = entry.get("size", SIZES[0])
    if size not in SIZES:
        return  # a mistake that is reported already
    published = named_task(entry["task"])
    try:
        path = find_task(entry["task"], size, data)
        if path is not None:
            facts[name] = npz.inspect_npz(path)
            return
    except OrchError as error:
        problems.append(document.problem(("tasks", name, "task"), f"{error.message}; {error.hint}"))
        return
    declared = dict(zip(npz.SPLITS, published.counts, strict=True))
    kind = {"classes": published.classes, "kind": published.kind}
    facts[name] = _declared(file_name(entry["task"], size), {**declared, **kind})  # type: ignore[assignment]
    absent.add(name)


def _declared(name: str, entry: dict[str, Any]) -> NpzFacts | None:
    """Facts as the grid declares them, or None without a declaration."""
    entry = {key: whole(value) for key, value in entry.items()}
    if isinstance(entry.get("images"), int):
        counts = {"train": entry["images"]}
    elif all(isinstance(entry.get(key), int) for key in ("train", "val", "test", "classes")):
        counts = {split: entry[split] for split in ("train", "val", "test")}
    else:
        return None
    return NpzFacts(
        fingerprint=digest({"declared": [name, counts]}),
        counts=counts,
        height=0,
        width=0,
        channels=0,
        labels=entry.get("classes", 1) if entry.get("kind") == "multi-label" else 1,
        classes=entry.get("classes", 0),
        duplicates={},
        pretraining=counts["train"],
    )


def _names(section: object) -> list[str]:
    return list(section) if isinstance(section, dict) else []


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None or isinstance(value, dict) else [value]
