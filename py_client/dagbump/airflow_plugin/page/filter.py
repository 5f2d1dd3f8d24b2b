"""What the viewer wants to see on the tab of the runs, as the query of the page's address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dagbump.airflow_plugin.page.listing import Listing


@dataclass(frozen=True)
class Filter(Listing):
    """What the viewer wants to see; ``search`` is a part of the id of a DAG, a run or a task.

    Attributes:
        verdict: the name of a verdict, or ``fine``; empty for all runs that have a verdict or match the search.
        open: the id of the run whose tasks are shown.
        tasks: the number of the page of these tasks, from 1.
    """

    verdict: str = ""
    open: int | None = None
    tasks: int = 1

    kept: ClassVar[tuple[str, ...]] = (*Listing.kept, "verdict")

    @property
    def is_on(self) -> bool:
        """Whether the viewer sees a part of the running runs only."""
        return bool(self.search or self.verdict)
