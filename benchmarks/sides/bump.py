"""dagbump, through its Python client."""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import Any
from uuid import UUID

import dagbump
import psycopg

from benchmarks.sides import Loop, Memory


class Bump:
    """One `dagbump.bump` per loop, as the scheduler would call it."""

    in_python = False

    def __init__(self, name: str, worker: psycopg.Connection[Any], connection: psycopg.Connection[Any]) -> None:
        """Take a connection to work on, and one for the benchmark's questions."""
        self.name = name
        self.connection = connection
        self._worker = worker

    def warm_up(self) -> None:
        """Do a loop."""
        self.loop()

    def prepare(self, version: UUID) -> None:
        """Nothing: dagbump finds the version itself."""

    def loop(self) -> Loop:
        """Do a loop."""
        start = time.perf_counter()
        dagbump.bump(self._worker, caller_verifies=True)
        return Loop((time.perf_counter() - start) * 1000)

    def inspect(self) -> Memory:
        """Do a loop under tracemalloc."""
        gc.collect()
        tracemalloc.start()
        try:
            result = dagbump.bump(self._worker, caller_verifies=True)
            gc.collect()  # what only waits for the collector is not kept
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # All that comes back is one row per run; a row of any other kind would be a TI.
        return Memory(kept, peak, sum(not isinstance(row, dagbump.RunBump) for row in result.runs))
