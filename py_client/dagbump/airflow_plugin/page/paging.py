"""Cuts rows into pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Slice(Generic[T]):
    """One page of rows.

    Attributes:
        rows: the rows of this page.
        first: the number of its first row, from 1; 0 if there is no row.
        total: the number of all rows; None if they have not been counted.
        page: the number of this page, from 1.
        pages: the number of pages, as far as it is known; at least 1.
    """

    rows: Sequence[T]
    first: int
    total: int | None
    page: int
    pages: int

    @property
    def last(self) -> int:
        """The number of the last row of this page."""
        return self.first + len(self.rows) - 1 if self.rows else 0

    def of(self, rows: Iterable[U]) -> Slice[U]:
        """Return the same page with other rows, one for each row."""
        return Slice(list(rows), self.first, self.total, self.page, self.pages)


def cut(rows: Sequence[T], page: int, per_page: int) -> Slice[T]:
    """Return a page of rows; if there are fewer pages, return the last one."""
    pages = max(1, -(-len(rows) // per_page))
    page = min(max(1, page), pages)
    begin = (page - 1) * per_page
    return Slice(rows[begin : begin + per_page], begin + 1 if rows else 0, len(rows), page, pages)


def slice_of(rows: Sequence[T], total: int, page: int, per_page: int) -> Slice[T]:
    """Return a page whose rows have been cut already, by the rule of `cut`."""
    whole = cut(range(total), page, per_page)
    return Slice(rows, whole.first, total, whole.page, whole.pages)


def begun(found: Slice[T]) -> Slice[T]:
    """Return a page without a total, if the rows were read only up to the first one of the next page."""
    return replace(found, total=None) if found.page < found.pages else found
