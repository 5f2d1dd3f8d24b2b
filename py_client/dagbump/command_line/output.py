"""Prints JSON, sentences and notes, and handles closed pipes; tables are in `tables`."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

import typer

from dagbump.errors import ExitCode
from dagbump.results import BumpResult
from dagbump.wording import counted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


# Control characters: they move the cursor, end a line or change the direction of the text.
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@contextmanager
def printing(*, committed: bool = False) -> Iterator[None]:
    """Print a result; if that fails, say whether the work is committed all the same."""
    try:
        with quiet_when_nobody_reads():
            yield
    except OSError as error:
        _print_no_more()
        note(f"dagbump: the answer cannot be printed: {error.strerror}.{' The work is done.' if committed else ''}")
        raise typer.Exit(ExitCode.DONE if committed else ExitCode.THE_WORK_FAILED) from None


@contextmanager
def quiet_when_nobody_reads() -> Iterator[None]:
    """Ignore a pipe that its reader has closed, as head does."""
    try:
        yield
        flush()
    except BrokenPipeError:
        _print_no_more()


def say(message: str) -> None:
    """Print a sentence about work that is committed."""
    with printing(committed=True):
        print_text(message)


def note(message: str, *, timed: bool = False) -> None:
    """Print a message on standard error: as text, with the time if it is `timed`; or as JSON after `notes_as_json`."""
    if _notes_as_json:
        text = json.dumps({"at": now(), "message": message}, default=as_json)
    else:
        text = _wrapped(f"{now().isoformat()} {message}" if timed else message, sys.stderr)
    if sys.stderr is not None:  # None if it was closed from the start; then print would take standard output
        with suppress(OSError):  # it was closed later
            print(text, file=sys.stderr, flush=True)


_notes_as_json = False


def notes_as_json() -> None:
    """Print the notes of this process as JSON from now on, one object per line, for a program that collects logs."""
    global _notes_as_json  # noqa: PLW0603  (a process has one standard error)
    _notes_as_json = True


def now() -> datetime:
    """Return the time for a line of a log, to the second."""
    return datetime.now().astimezone().replace(microsecond=0)


def print_text(message: str) -> None:
    """Print a sentence of a result."""
    print(_wrapped(message, sys.stdout))


def _wrapped(message: str, stream: TextIO | None) -> str:
    """Break lines between words if they go to a terminal, because a terminal breaks them anywhere."""
    message = "\n".join(visible(line) for line in message.split("\n"))
    if stream is None or not stream.isatty():
        return message
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in message.splitlines()
    )


def print_json(rows: Sequence[DataclassInstance]) -> None:
    """Print rows as JSON objects, with times in ISO 8601."""
    print(json.dumps([asdict(row) for row in rows], indent=2, default=as_json))


def as_json(value: object) -> str:
    """Return a text for a value that JSON has no type for."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def sentence(result: BumpResult) -> str:
    """Return what a bump did, as a sentence."""
    changed = sum(1 for row in result.runs if row.bumped)
    parts = []
    if result.bumped:
        parts.append(f"bumped {counted(result.bumped, 'task instance')} in {counted(changed, 'run')}")
    if result.locked:
        parts.append(f"left {counted(result.locked, 'task instance')} that other transactions have locked")
    if result.needs_verify:
        waiting = counted(len(result.needs_verify), "run")
        parts.append(f"left {waiting} to the scheduler, whose verify_integrity is due")
    return "; ".join(parts)


def visible(text: str) -> str:
    """Escape control characters, because a run_id or the name of a role may contain them."""
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def flush() -> None:
    """Flush standard output."""
    if sys.stdout is not None:  # None if it was closed from the start
        sys.stdout.flush()


def _print_no_more() -> None:
    """Redirect standard output to /dev/null, because Python would fail to flush the rest at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
