"""dagbump, through its Python client."""

from __future__ import annotations

import gc
import time
import tracemalloc

import dagbump

from benchmarks.sides import Loop, Memory, OnConnection


class Bump(OnConnection):
    """One `dagbump.bump` per loop, as the scheduler would call it."""

    def warm_up(self) -> None:
        """Do a loop."""
        self.loop()

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
