"""What a table shows to people: which columns, in what order, and what is coloured. `layout` prints it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagbump.verdicts import verdict_of

# Colours that can be read on a light and on a dark background, as rich names them.
WRONG, WAITING, GOOD, IDLE = "bold red", "magenta", "green", "dim"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        field: the field of the row.
        header: what stands above it; the field's name, where it is left out.
        style: of a value.
    """

    field: str
    header: str = ""
    style: Callable[[Any], str | None] = lambda _: None


def one_of(styles: Mapping[Any, str]) -> Callable[[Any], str | None]:
    """Colour values by what they are."""
    return styles.get


def of_verdict(name: str) -> str:
    """Colour a verdict by how much it calls for somebody."""
    return {"wrong": WRONG, "waiting": WAITING, "idle": IDLE}[verdict_of(name).tone]


def if_any(style: str) -> Callable[[Any], str | None]:
    """Colour a count that is not 0, or a list that is not empty."""
    return lambda value: style if value else None


def print_table(columns: Sequence[Column], rows: Sequence[Any], *, wide: bool) -> None:
    """Print rows; rich, which lays them out, is imported only here."""
    from dagbump.command_line import layout

    layout.print_table(columns, rows, wide=wide)
