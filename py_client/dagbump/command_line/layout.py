"""Lays out tables, also for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from dagbump.command_line.output import visible
from dagbump.command_line.tables import Column

_UNFOLDED = 1_000_000


def print_table(columns: Sequence[Column], rows: Sequence[Any], *, wide: bool) -> None:
    """Print rows in the first of four forms that fits the terminal without breaking a word or a number.

    The forms are: a table; a table with dag_id and run_id on a line above each row; the same with times and states
    broken at their spaces; one line per field. Columns that are empty in every row are left out. In a pipe, each row is
    one line. With ``wide``, all fields are shown, and each row is one line too.
    """
    # No markup, because the texts come from a database.
    console = Console(markup=False, emoji=False, highlight=False)
    if wide or not console.is_terminal:
        console.width = _UNFOLDED
    shown = _all_of(columns, rows) if wide else [column for column in columns if _says_something(column, rows)]
    above = [column for column in shown if column.field in _IDS]
    below = [column for column in shown if column.field not in _IDS]
    inner = console.width - len(_GAP)
    if widths := _widths(shown, rows, console.width):
        lines = _table(console, shown, (), widths, rows)
    elif above and (widths := _widths(below, rows, inner) or _widths(below, rows, inner, at_spaces=True)):
        lines = _table(console, below, above, widths, rows)
    else:
        lines = _records(shown, rows)
    with console.capture() as text:  # print it with print(), because rich ends the process if the pipe is closed
        for line in lines:
            line.rstrip()
            console.print(line, overflow="fold")
    print(text.get(), end="")


# Readers copy these, so they are broken only if one alone is wider than the terminal.
_IDS = frozenset({"dag_id", "run_id"})
_GAP = "  "
# Texts up to this length, such as a state or an age, are not broken between words.
_SHORT = 17


def _widths(columns: Sequence[Column], rows: Sequence[Any], width: int, *, at_spaces: bool = False) -> list[int]:
    """Return the widths with which all columns fit; an empty list if they cannot."""
    most, least = [], []
    for column in columns:
        header = column.header or column.field
        values = [getattr(row, column.field) for row in rows]
        most.append(max(map(cell_len, [header, *map(_cell, values)])))
        least.append(
            max([_longest_word(header), *(_least_width(column, value, at_spaces=at_spaces) for value in values)])
        )
    room = width - len(_GAP) * (len(columns) - 1)
    if sum(least) > room:
        return []
    while sum(most) > room:
        slack = [have - need for have, need in zip(most, least, strict=True)]
        most[slack.index(max(slack))] -= 1
    return most


def _least_width(column: Column, value: Any, *, at_spaces: bool) -> int:
    text = _cell(value)
    short = isinstance(value, datetime) or (isinstance(value, str) and cell_len(text) <= _SHORT)
    return cell_len(text) if column.field in _IDS or (short and not at_spaces) else _longest_word(text)


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _table(
    console: Console, columns: Sequence[Column], above: Sequence[Column], widths: Sequence[int], rows: Sequence[Any]
) -> Iterator[Text]:
    right = [all(_is_number(getattr(row, column.field)) for row in rows) for column in columns]

    def laid_out(cells: Iterable[Text], ids: Iterable[Text]) -> Iterator[Text]:
        if above:
            yield Text(_GAP).join(ids)
        broken = [cell.wrap(console, width, overflow="fold") for cell, width in zip(cells, widths, strict=True)]
        for parts in zip_longest(*broken, fillvalue=None):
            line = []
            for part, width, to_the_right in zip(parts, widths, right, strict=True):
                text = part or Text()
                text.align("right" if to_the_right else "left", width)
                line.append(text)
            yield Text(_GAP if above else "") + Text(_GAP).join(line)

    yield from laid_out(map(_header, columns), map(_header, above))
    for row in rows:
        yield from laid_out(
            (_styled(column, getattr(row, column.field)) for column in columns),
            (_styled(column, getattr(row, column.field)) for column in above),
        )


def _records(columns: Sequence[Column], rows: Sequence[Any]) -> Iterator[Text]:
    """Print one line per field, like psql's expanded display."""
    headers = [_header(column) for column in columns]
    width = max(header.cell_len for header in headers)
    for number, row in enumerate(rows):
        if number:
            yield Text()
        for column, header in zip(columns, headers, strict=True):
            value = _styled(column, getattr(row, column.field))
            if value:
                label = header.copy()
                label.align("left", width)
                yield label + Text(_GAP) + value


def _header(column: Column) -> Text:
    return Text(column.header or column.field, "bold")


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
