"""What a command prints: tables, JSON, sentences, and what becomes of it where nobody reads."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dagbump.errors import ExitCode
from dagbump.results import BumpResult, RunBump, RunPreview


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
        print(message)


def note(message: str) -> None:
    """Tell a person what is no answer, beside standard output."""
    with suppress(OSError):  # there is nowhere left to tell it
        print(message, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Print rows for programs."""
    print(json.dumps(value, indent=2, default=str))


def print_table(kind: type[RunBump | RunPreview], rows: Iterable[RunBump | RunPreview]) -> None:
    """Print rows for people."""
    # Nothing that comes from a database is markup.
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:  # a pipe has no width to fit into
        console.width = 1_000_000
    table = Table(box=None, header_style="bold", pad_edge=False)
    for field in fields(kind):
        numeric = field.type in {"int", "int | None"}
        table.add_column(field.name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(getattr(row, field.name))) for field in fields(kind)))
    with console.capture() as text:  # rich would end the process over a closed pipe
        console.print(table)
    print(text.get(), end="")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {count}" for key, count in sorted(value.items()))
    return "" if value is None else str(value)


def sentence(result: BumpResult) -> str:
    """Say what a bump did that had something to answer."""
    changed = sum(1 for row in result.runs if row.bumped)
    parts = []
    if result.bumped:
        parts.append(f"bumped {_counted(result.bumped, 'task instance')} in {_counted(changed, 'run')}")
    if result.locked:
        parts.append(f"left {_counted(result.locked, 'task instance')} that other transactions hold")
    if result.needs_verify:
        waiting = _counted(len(result.needs_verify), "run")
        parts.append(f"left {waiting} to the scheduler, whose verify_integrity is due")
    return "; ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def flush() -> None:
    """Print what is left in the buffer."""
    if sys.stdout is not None:  # None where it was closed from the start
        sys.stdout.flush()


def _print_no_more() -> None:
    """Let what is left in the buffer go nowhere; Python would fail over it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
