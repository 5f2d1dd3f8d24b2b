"""What the viewer wants to see of a list: the query of the address of a tab, and of each link in it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar
from urllib.parse import urlencode

PAGE_SIZES = (25, 50, 100, 250)
PER_PAGE = 50
# The page number for "the last page" of a list whose rows have not been counted. No list has so many pages.
LAST_PAGE = 1_000_000


@dataclass(frozen=True)
class Listing:
    """What the viewer wants to see. The fields are the parameters of the query.

    Attributes:
        search: a part of an id, whether in upper or lower case.
        sort: the column, with ``-`` before it for the reverse; empty for the order of the tab.
        page: the number of the page, from 1.
        size: the number of rows on a page.
    """

    search: str = ""
    sort: str = ""
    page: int = 1
    size: int = PER_PAGE

    # The parameters that a link keeps. The others belong to the current page.
    kept: ClassVar[tuple[str, ...]] = ("search", "sort", "size")

    def link(self, **changes: Any) -> str:
        """Return the query for a change; a change of the rows leads to their first page."""
        return f"?{urlencode(self.given(**changes))}"

    def given(self, **changes: Any) -> dict[str, Any]:
        """Return the parameters of that query, without those that have their default."""
        values = {name: getattr(self, name) for name in self.kept} | changes
        defaults = {field.name: field.default for field in fields(self)}
        return {name: values[name] for name in defaults if name in values and values[name] != defaults[name]}

    @property
    def column(self) -> str:
        """The column that is sorted by."""
        return self.sort.removeprefix("-")

    @property
    def is_reversed(self) -> bool:
        """Whether the largest come first."""
        return self.sort.startswith("-")

    def sorted_by(self, column: str, *, falling: bool) -> str:
        """Return the query for a click on the head of a column; ``falling``: the largest first."""
        first, second = (f"-{column}", column) if falling else (column, f"-{column}")
        return self.link(sort=second if self.sort == first else first)

    def order_of(self, column: str) -> str:
        """Return how a column is sorted, as ``aria-sort`` has it."""
        return {column: "ascending", f"-{column}": "descending"}.get(self.sort, "none")
