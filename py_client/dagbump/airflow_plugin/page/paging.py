"""A page of many rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Slice(Generic[T]):
    """Some of many rows.

    Attributes:
        rows: of this page.
        first: the number of the first of them, from 1 on; 0: there is none.
        total: how many there are; None: nobody has counted.
        page: the number of this page, from 1 on.
        pages: how many there are, at least one, or are known of.
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
        """Return the same page of other rows, one for each of these."""
        return Slice(list(rows), self.first, self.total, self.page, self.pages)


def cut(rows: Sequence[T], page: int, per_page: int) -> Slice[T]:
    """Return a page of rows; the last one, where there are not so many."""
    pages = max(1, -(-len(rows) // per_page))
    page = min(max(1, page), pages)
    begin = (page - 1) * per_page
    return Slice(rows[begin : begin + per_page], begin + 1 if rows else 0, len(rows), page, pages)


def cut_begun(rows: Sequence[T], page: int, per_page: int) -> Slice[T]:
    """Return a page of rows that were read only up to the one after that page."""
    found = cut(rows, page, per_page)
    return replace(found, total=None) if found.page < found.pages else found
