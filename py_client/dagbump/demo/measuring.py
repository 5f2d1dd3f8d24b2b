"""What a piece of work costs: time, statements, memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """What a piece of work cost.

    Attributes:
        milliseconds: from its beginning to its end.
        statements: calls of a cursor's execute or executemany, without BEGIN and COMMIT. An executemany counts as
            one, though the server runs a statement for each row.
        kept: bytes that Python still holds at its end; 0 without tracing.
        peak: bytes that Python held at most; 0 without tracing. What the driver's C library holds is in neither.
    """

    milliseconds: float
    statements: int
    kept: int
    peak: int


class Meter:
    """Measures pieces of work: their memory too, or their time without what tracing every allocation adds to it."""

    def __init__(self, engine: sa.engine.Engine, *, tracing: bool) -> None:
        """Take the engine whose statements are counted."""
        self._engine = engine
        self._tracing = tracing

    def __call__(self, work: Callable[[], T], /) -> tuple[T, Cost]:
        """Do the work; return what it returns, and what it cost."""
        statements: list[str] = []

        def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            statements.append(statement)

        gc.collect()
        sa.event.listen(self._engine, "before_cursor_execute", count)
        if self._tracing:
            tracemalloc.start()
        try:
            start = time.perf_counter()
            value = work()
            milliseconds = (time.perf_counter() - start) * 1000
            gc.collect()  # what only waits for the collector is not kept
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            sa.event.remove(self._engine, "before_cursor_execute", count)
        return value, Cost(milliseconds, len(statements), kept, peak)
