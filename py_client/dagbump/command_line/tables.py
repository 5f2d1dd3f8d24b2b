"""How rows look to people: which columns, in what order, what is coloured, and what becomes of it in 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dagbump.command_line.output import visible

# Colours that can be read on a light and on a dark background.
WRONG, WAITING, GOOD, IDLE = (Style.parse(name) for name in ("bold red", "magenta", "green", "dim"))

_UNFOLDED = 1_000_000


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
    style: Callable[[Any], Style | None] = lambda _: None


def one_of(styles: Mapping[Any, Style]) -> Callable[[Any], Style | None]:
    """Colour values by what they are."""
    return styles.get


def if_any(style: Style) -> Callable[[Any], Style | None]:
    """Colour a count that is not 0, or a list that is not empty."""
    return lambda value: style if value else None


def print_table(columns: Sequence[Column], rows: Sequence[Any], *, wide: bool) -> None:
    """Print rows, long ids folded to the width of the terminal.

    Columns in which every row says nothing are left out. In a pipe, a row is a line. With ``wide``, every field of the
    rows is shown, a row a line too.
    """
    # Nothing that comes from a database is markup.
    console = Console(markup=False, emoji=False, highlight=False)
    if wide or not console.is_terminal:
        console.width = _UNFOLDED
    shown = _all_of(columns, rows) if wide else [column for column in columns if _says_something(column, rows)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in shown:
        values = [getattr(row, column.field) for row in rows]
        table.add_column(
            column.header or column.field,
            justify="right" if all(map(_is_number, values)) else "left",
            overflow="fold",
            no_wrap=max(len(_cell(value)) for value in values) <= _SHORT,
        )
    for row in rows:
        table.add_row(*(_styled(column, getattr(row, column.field)) for column in shown))
    with console.capture() as text:  # rich would end the process over a closed pipe
        console.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


# Cells up to this length are never folded.
_SHORT = 17


def _all_of(columns: Sequence[Column], rows: Sequence[Any]) -> list[Column]:
    by_field = {column.field: column for column in columns}
    return [by_field.get(field.name, Column(field.name)) for field in fields(rows[0])]


def _says_something(column: Column, rows: Sequence[Any]) -> bool:
    return any(getattr(row, column.field) not in (None, "", 0, (), {}) for row in rows)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _styled(column: Column, value: Any) -> Text:
    return Text(_cell(value), column.style(value) or "")


def _cell(value: Any) -> str:
    return visible(_words(value))


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {count}" for key, count in sorted(value.items()))
    if isinstance(value, datetime):
        return value.astimezone().isoformat(" ", "seconds")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Collection) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
