"""Stopwatch, memory and statements: the ways to measure a piece of work.

Time is taken with nothing else going on; memory and statements in another pass, because tracing every allocation
slows Python down several times.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

T = TypeVar("T")
CostT_co = TypeVar("CostT_co", covariant=True)


class Measure(Protocol[CostT_co]):
    """Does a piece of work; returns what it returns, and what it cost."""

    def __call__(self, work: Callable[[], T], /) -> tuple[T, CostT_co]:
        """Do the work."""
        ...


def stopwatch(work: Callable[[], T], /) -> tuple[T, float]:
    """Measure milliseconds."""
    start = time.perf_counter()
    value = work()
    return value, (time.perf_counter() - start) * 1000


@dataclass(frozen=True)
class Use:
    """What a piece of work used.

    Attributes:
        statements: calls of a cursor's execute or executemany, without BEGIN and COMMIT. An executemany counts as
            one, though the server runs a statement for each row.
        kept: bytes that Python still holds at its end.
        peak: bytes that Python held at most. What the driver's C library holds is in neither.
    """

    statements: int
    kept: int
    peak: int


class Inspection:
    """Measures statements and Python's memory."""

    def __init__(self, engine: sa.engine.Engine) -> None:
        """Take the engine whose statements are counted."""
        self._engine = engine

    def __call__(self, work: Callable[[], T], /) -> tuple[T, Use]:
        """Do the work."""
        statements: list[str] = []

        def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            statements.append(statement)

        gc.collect()
        sa.event.listen(self._engine, "before_cursor_execute", count)
        tracemalloc.start()
        try:
            value = work()
            gc.collect()  # what only waits for the collector is not kept
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            sa.event.remove(self._engine, "before_cursor_execute", count)
        return value, Use(len(statements), kept, peak)
