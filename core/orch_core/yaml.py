"""YAML 1.2 with the line and column of every value, so that each mistake is shown at its place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
import yamlcore
from yaml.reader import ReaderError

from orch_core.errors import GridError, OrchError, Problem

Loc = tuple[str | int, ...]
MOST_VALUES = 2_000_000  # anchors of anchors can expand to more values than fit into any memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed file: `data` in plain Python, and the line and column (from 1) of every value and key."""

    file: str
    lines: tuple[str, ...]
    data: Any
    values: dict[Loc, tuple[int, int]]
    keys: dict[Loc, tuple[int, int]]
    duplicates: tuple[Problem, ...] = field(default=())

    def problem(self, loc: Loc, message: str, *, at_key: bool = False) -> Problem:
        """A mistake at `loc`, or at its nearest parent in the file."""
        places = self.keys if at_key else self.values
        while loc and loc not in places:
            loc = loc[:-1]
        return _problem(self.file, self.lines, places.get(loc, (1, 1)), message)

    def problem_within(self, loc: Loc, value: str, offset: int, message: str) -> Problem:
        """A mistake `offset` characters into `value` at `loc`, or at its start if its spelling differs."""
        found = self.problem(loc, message)
        start = found.text.find(value, found.column - 1)
        return replace(found, column=start + offset + 1) if start >= 0 else found


def load_yaml(path: Path) -> Document:
    """Parse one YAML 1.2 file; raises OrchError if it cannot be read, GridError if it is not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        message = f"{path} does not exist"
        raise OrchError(message, hint=_nearby(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read {path}: {error}"
        raise OrchError(message, hint="a grid is a UTF-8 text file") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, file: str) -> Document:
    """Parse YAML 1.2 text; raises GridError with the place of a syntax error."""
    lines = tuple(text.splitlines())
    try:
        loader = yamlcore.CoreLoader(text)
        node = loader.get_single_node()
        walk = _Walk(loader, file, lines)
        data = walk.plain(node, ()) if node is not None else None
    except RecursionError as error:
        message = "not a grid: it is nested too deeply, or an anchor contains itself"
        raise GridError((_problem(file, lines, (1, 1), message),)) from error
    except ReaderError as error:
        before = text[: error.position]
        place = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"not YAML: the character {text[error.position]!r} is not allowed here"
        raise GridError((_problem(file, lines, place, message),)) from error
    except yaml.YAMLError as error:
        raise GridError((_syntax_problem(error, file, lines),)) from error
    return Document(
        file=file,
        lines=lines,
        data=data,
        values=walk.values,
        keys=walk.keys,
        duplicates=tuple(walk.duplicates),
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that another may be a misspelling of; None if no word is close."""
    by_lower = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` - did you mean 'mae@1'?`, otherwise the list of known words, or nothing if there are none."""
    choices = list(known)
    close = nearest(word, choices)
    if close is not None:
        return f" - did you mean {close!r}?"
    shown = choices[:12] + (["..."] if len(choices) > 12 else [])
    return f" - known: {', '.join(shown)}" if choices else ""


class _Walk:
    """Turns nodes into plain Python, and records the place of each value and key."""

    def __init__(self, loader: yamlcore.CoreLoader, file: str, lines: tuple[str, ...]) -> None:
        self.loader, self.file, self.lines = loader, file, lines
        self.values: dict[Loc, tuple[int, int]] = {}
        self.keys: dict[Loc, tuple[int, int]] = {}
        self.duplicates: list[Problem] = []

    def plain(self, node: yaml.Node, loc: Loc) -> Any:
        self.values[loc] = _place(node)
        if len(self.values) > MOST_VALUES:
            message = f"not a grid: more than {MOST_VALUES:,} values; do its anchors contain each other?"
            raise GridError((_problem(self.file, self.lines, _place(node), message),))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*loc, index)) for index, item in enumerate(node.value)]
        try:
            return self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise GridError((_syntax_problem(error, self.file, self.lines, node),)) from error

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            place = _place(key_node)
            if key in data:
                message = f"duplicate key {key!r}: first given in line {self.keys[*loc, key][0]}"
                self.duplicates.append(_problem(self.file, self.lines, place, message))
                continue
            self.keys[*loc, key] = place
            data[key] = self.plain(value_node, (*loc, key))
        return data


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _syntax_problem(
    error: Exception, file: str, lines: tuple[str, ...], node: yaml.Node | None = None
) -> Problem:
    mark = getattr(error, "problem_mark", None) or (node.start_mark if node else None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    words = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    message = f"not YAML: {words}" + (f" ({context})" if context else "")
    return _problem(file, lines, (line, column), message)


def _problem(file: str, lines: tuple[str, ...], place: tuple[int, int], message: str) -> Problem:
    line, column = place
    text = lines[line - 1] if line <= len(lines) else ""
    return Problem(file=file, line=line, column=column, message=message, text=text)


def _nearby(path: Path) -> str:
    grids = sorted(str(other) for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    return (
        f"in {path.parent}: {', '.join(grids)}"
        if grids
        else "give the path of a grid, such as experiments/demo.yaml"
    )
