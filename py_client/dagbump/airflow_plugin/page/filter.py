"""What the viewer wants to see on the tab of the runs, as the query of the page's address."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

PAGE_SIZES = (25, 50, 100, 250)
PER_PAGE = 50


@dataclass(frozen=True)
class Filter:
    """What the viewer wants to see. The fields are the parameters of the query.

    Attributes:
        search: a part of the id of a DAG, a run or a task, whether in upper or lower case.
        verdict: the name of a verdict, or ``fine``; empty for all runs that have a verdict or match the search.
        sort: the column, with ``-`` before it for the reverse; empty for the most urgent verdict first.
        page: the number of the page, from 1.
        size: the number of runs on a page.
        open: the id of the run whose tasks are shown.
        tasks: the number of the page of these tasks, from 1.
    """

    search: str = ""
    verdict: str = ""
    sort: str = ""
    page: int = 1
    size: int = PER_PAGE
    open: int | None = None
    tasks: int = 1

    @property
    def is_on(self) -> bool:
        """Whether the viewer sees a part of the running runs only."""
        return bool(self.search or self.verdict)

    def link(self, **changes: Any) -> str:
        """Return the query for a change; other runs are shown from their first page, and none is open."""
        return f"?{urlencode(self.given(**changes))}"

    def given(self, **changes: Any) -> dict[str, Any]:
        """Return the parameters of that query, without those that have their default."""
        changed = replace(self, **{"page": 1, "open": None, "tasks": 1, **changes})
        values = {field.name: (getattr(changed, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def sorted_by(self, column: str, *, falling: bool) -> str:
        """Return the query for a click on the head of a column; ``falling``: the largest first."""
        first, second = (f"-{column}", column) if falling else (column, f"-{column}")
        return self.link(sort=second if self.sort == first else first)

    def order_of(self, column: str) -> str:
        """Return how a column is sorted, as ``aria-sort`` has it."""
        return {column: "ascending", f"-{column}": "descending"}.get(self.sort, "none")
