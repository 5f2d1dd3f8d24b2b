"""What a command prints: JSON, sentences, notes, and what becomes of it where nobody reads. Tables are in `tables`."""

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


# Characters that move the cursor, end a line, or turn round what is read, rather than being shown.
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@contextmanager
def printing(*, committed: bool = False) -> Iterator[None]:
    """Print an answer. Failing to print it says nothing about the work, which may be done and committed."""
    try:
        with quiet_when_nobody_reads():
            yield
    except OSError as error:
        _print_no_more()
        note(f"dagbump: the answer cannot be printed: {error.strerror}.{' The work is done.' if committed else ''}")
        raise typer.Exit(ExitCode.DONE if committed else ExitCode.THE_WORK_FAILED) from None


@contextmanager
def quiet_when_nobody_reads() -> Iterator[None]:
    """End without a word where a pipe is closed at its other end, as by head."""
    try:
        yield
        flush()
    except BrokenPipeError:
        _print_no_more()


def say(message: str) -> None:
    """Tell what has been done."""
    with printing(committed=True):
        print_text(message)


def note(message: str) -> None:
    """Tell a person what is no answer, beside standard output."""
    with suppress(OSError):  # there is nowhere left to tell it
        print(_wrapped(message, sys.stderr), file=sys.stderr, flush=True)


def print_text(message: str) -> None:
    """Print a sentence of an answer."""
    print(_wrapped(message, sys.stdout))


def _wrapped(message: str, stream: TextIO | None) -> str:
    """Break lines between words where they go to a terminal, which would break them anywhere."""
    message = "\n".join(visible(line) for line in message.split("\n"))
    if stream is None or not stream.isatty():
        return message
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in message.splitlines()
    )


def print_json(rows: Sequence[DataclassInstance]) -> None:
    """Print rows for programs: their fields by name, times as ISO 8601 has them."""
    print(json.dumps([asdict(row) for row in rows], indent=2, default=as_json))


def as_json(value: object) -> str:
    """Return what JSON has no word for."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def sentence(result: BumpResult) -> str:
    """Say what a bump did that had something to answer."""
    changed = sum(1 for row in result.runs if row.bumped)
    parts = []
    if result.bumped:
        parts.append(f"bumped {counted(result.bumped, 'task instance')} in {counted(changed, 'run')}")
    if result.locked:
        parts.append(f"left {counted(result.locked, 'task instance')} that other transactions hold")
    if result.needs_verify:
        waiting = counted(len(result.needs_verify), "run")
        parts.append(f"left {waiting} to the scheduler, whose verify_integrity is due")
    return "; ".join(parts)


def visible(text: str) -> str:
    """Escape what a terminal would obey: whoever may trigger a run chooses its run_id, and a role its name."""
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def flush() -> None:
    """Print what is left in the buffer."""
    if sys.stdout is not None:  # None where it was closed from the start
        sys.stdout.flush()


def _print_no_more() -> None:
    """Let what is left in the buffer go nowhere; Python would fail over it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
