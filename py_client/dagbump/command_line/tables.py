"""The columns of a table and their colours; `layout` prints the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagbump.verdicts import verdict_of

# Colours, by rich's names, that are readable on a light and on a dark background.
WRONG, WAITING, GOOD, IDLE = "bold red", "magenta", "green", "dim"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        field: the field of the row.
        header: the title of the column; by default the field's name.
        style: returns the style of a value.
    """

    field: str
    header: str = ""
    style: Callable[[Any], str | None] = lambda _: None


def one_of(styles: Mapping[Any, str]) -> Callable[[Any], str | None]:
    """Return a style function that looks the value up in a mapping."""
    return styles.get


def of_verdict(name: str) -> str:
    """Return the style for a verdict, by its urgency."""
    return {"wrong": WRONG, "waiting": WAITING, "idle": IDLE}[verdict_of(name).tone]


def if_any(style: str) -> Callable[[Any], str | None]:
    """Return a style function for a count that is not 0 or a list that is not empty."""
    return lambda value: style if value else None


def print_table(columns: Sequence[Column], rows: Sequence[Any], *, wide: bool) -> None:
    """Print rows; rich is imported only here, because it is slow to import."""
    from dagbump.command_line import layout

    layout.print_table(columns, rows, wide=wide)
