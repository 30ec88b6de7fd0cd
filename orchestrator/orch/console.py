"""Results go to stdout, messages to stderr; a user's mistake prints its remedy and exits with 2."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import IO, Any

import click

from orch_core.errors import GridError, OrchError
from orch_core.formatting import without_credentials

SCHEMA_VERSION = 1
HINTS = {
    errno.ENOSPC: "free some disk, then run the same command again",
    errno.EDQUOT: "your quota is used up: free some disk, then run the same command again",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EACCES: "make it readable and writable for you, or choose another place",
}
WORDS = "orch.words"  # key of click's shared context: the arguments as they were given


class Exit(IntEnum):
    """The meaning of the exit code of every command."""

    OK = 0
    FAILED_CELLS = 1
    BAD_INPUT = 2
    NO_FIT = 3
    INCOMPLETE = 4
    INTERRUPTED = 130


def fraction(text: str) -> float:
    """Read a fraction between 0 and 1, written `1%` or `0.01`; raises click.BadParameter otherwise."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        message = f"{text!r} is not a fraction such as 1% or 0.01"
        raise click.BadParameter(message)
    return value


class Commands(click.Group):
    """A click group whose commands print an OrchError as a message and accept that a pipe closes early.

    A file or output that cannot be read or written, such as on a full disk, is a message as well.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line; what it prints has left the process when this returns."""
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            _drop_output()
            sys.exit(Exit.OK)
        except OSError as error:
            _report_os_error(error)
            sys.exit(Exit.BAD_INPUT)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words of the command for `command_line`, then parse them."""
        ctx.meta.setdefault(WORDS, tuple(args))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; print an error that the user can correct, and exit with its code."""
        try:
            return super().invoke(ctx)
        except OrchError as error:
            report_error(error, as_json="--json" in command_line())
            ctx.exit(Exit.BAD_INPUT)
        except KeyboardInterrupt:
            say("interrupted: run the same command again to continue")
            ctx.exit(Exit.INTERRUPTED)
        except BrokenPipeError:
            _drop_output()
            ctx.exit(Exit.OK)


def _drop_output(stream: IO[str] | None = None) -> None:
    """Let nothing more be printed: what is left would fail again when Python ends, with a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


def _report_os_error(error: OSError) -> None:
    """Print what could not be read or written, if that was not the output."""
    place = error.filename2 or error.filename or "the output"
    hint = HINTS.get(error.errno or 0, "check the path and its permissions")
    try:
        say(f"error: {place}: {error.strerror or error}\nhint: {hint}")
    except OSError:
        _drop_output(sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()


def command_line() -> tuple[str, ...]:
    """The running command, as `("orch", "plan", "grid.yaml")`; empty when orch is used from Python."""
    context = click.get_current_context(silent=True)
    words = context.meta[WORDS] if context and WORDS in context.meta else ()
    return ("orch", *map(without_credentials, words)) if words else ()


def say(text: str) -> None:
    """Print a message on stderr."""
    click.echo(text, err=True)


def emit(document: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout; infinity and NaN, which JSON lacks, become null."""
    whole = {"schema_version": SCHEMA_VERSION, **document}
    try:
        text = json.dumps(whole, ensure_ascii=False, allow_nan=False)
    except ValueError:
        finite = json.loads(json.dumps(whole), parse_constant=lambda _: None)
        text = json.dumps(finite, ensure_ascii=False)
    click.echo(text)


def is_terminal(stream: IO[str]) -> bool:
    """Whether to show colours and live displays: a terminal that is not dumb, without NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def report_error(error: OrchError, *, as_json: bool) -> None:
    """Print a mistake and its remedy on stderr; with --json also as the one document on stdout."""
    if as_json:
        problems = [
            {"file": p.file, "line": p.line, "column": p.column, "message": p.message}
            for p in (error.problems if isinstance(error, GridError) else ())
        ]
        message, hint = without_credentials(error.message), without_credentials(error.hint or "") or None
        emit({"error": {"message": message, "hint": hint, "problems": problems}})
    if isinstance(error, GridError):
        count = len(error.problems)
        say(f"{error.message}\n\n{count} mistake{'s' if count > 1 else ''} in {error.problems[0].file}")
    else:
        say(f"error: {without_credentials(str(error))}")
