"""Write docs/cli.md from the commands themselves: `python docs/cli_reference.py`; with --check only compare."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from orch.cli import main

PAGE = Path(__file__).with_name("cli.md")
HEAD = """\
# The command line

This page is written by `make docs` from the help of the commands, and a test compares the two. `orch COMMAND --help`
prints the same text. Results go to stdout and messages to stderr; `--json` makes the result one JSON document.

| exit code | meaning |
|---|---|
| 0 | The command did what was asked. |
| 1 | A cell failed, or `orch doctor` found an error. |
| 2 | The input is wrong; the message says how to correct it. |
| 3 | There are too few usable points for a fit. |
| 4 | Something is missing: a launch was cancelled or its budget is spent. |
| 130 | The command was interrupted; the same command continues. |

"""


def reference() -> str:
    """The whole page."""
    sections = [_section(context) for context in commands(click.Context(main, info_name="orch"))]
    return HEAD + "\n".join(sections)


def commands(context: click.Context) -> Iterator[click.Context]:
    """The context of every command that can run, groups opened, in the order of the command line's modules."""
    group = context.command
    assert isinstance(group, click.Group)
    for name, command in group.commands.items():
        child = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from commands(child)
        else:
            yield child


def _section(context: click.Context) -> str:
    text = inspect.cleandoc(context.command.help or "")
    prose, _, example = text.partition("Example: ")
    usage = " ".join([context.command_path, *context.command.collect_usage_pieces(context)])
    rows = [_row(context, option) for option in context.command.params if isinstance(option, click.Option)]
    table = "\n".join(["", "| option | meaning |", "|---|---|", *rows, ""]) if rows else ""
    return (
        f"## {context.command_path}\n\n{prose.strip()}\n\n"
        f"```\n{usage}\n```\n\nExample:\n\n```sh\n{example.strip()}\n```\n{table}"
    )


def _row(context: click.Context, option: click.Option) -> str:
    record = option.get_help_record(context)
    assert record, f"{context.command_path}: {option.name} has no help"
    names, meaning = (re.sub(r"\s+", " ", part).replace("|", "\\|") for part in record)
    return f"| `{names}` | {meaning} |"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(reference(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != reference():
        sys.exit("docs/cli.md differs from the commands' help: run `make docs`")
