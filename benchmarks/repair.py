"""`make bench-repair`: the time of a repair, and how long another transaction waits for it.

During the CALL, another connection updates the state of the same TIs, one after the other.
"""

from __future__ import annotations

import random
import statistics
import threading
import time

from sqlalchemy.engine import URL
from support.releases import environments

from benchmarks import fleet
from benchmarks.bench import Bench, Stage, connect
from benchmarks.figures import Rows, figure

RELEASES = (environments.release(),)
SETTINGS: dict[str, str] = {}  # PostgreSQL's defaults, because the cost of a commit matters here
_BATCH_SIZES = (1000, 300)


def measure(bench: Bench) -> Rows:
    """Measure one batch size after the other."""
    with bench.stage(bench.plan.repair) as at:
        at.stock(RELEASES[0])
        rows = [_measure(at, batch_size, bench) for batch_size in _BATCH_SIZES]
    return Rows(bench.describe(), rows)


def _measure(at: Stage, batch_size: int, bench: Bench) -> dict[str, int | float | str]:
    bench.say(f"{at.size}: repair in batches of {batch_size}")
    url = at.copy("repair", RELEASES[0], with_index=False)
    connection = at.connect("repair", RELEASES[0])
    fleet.make_stale(connection)
    waits: list[float] = []
    ended = threading.Event()
    writer = threading.Thread(target=_update_states, args=[url, waits, ended])
    writer.start()
    start = time.perf_counter()
    try:
        connection.execute(f"CALL dagbump.repair(batch_size => {batch_size})".encode())
    finally:
        seconds = time.perf_counter() - start
        ended.set()
        writer.join()
    moved = fleet.scalar(connection, "SELECT sum(bumped)::bigint FROM dagbump.history")
    return {
        "batch size": batch_size,
        "TIs moved": moved,
        "seconds": figure(seconds),
        "TIs per second": figure(moved / seconds),
        "waits, ms: median": figure(statistics.median(waits)),
        "99 % within": figure(statistics.quantiles(waits, n=100, method="inclusive")[-1]),
        "longest": figure(max(waits)),
    }


def _update_states(url: URL, waits: list[float], ended: threading.Event) -> None:
    """Update the state of one TI after the other, as starting tasks do, and record the milliseconds."""
    # The run after the last one in the history, which most likely is in the current batch.
    of_next_run = """
        SELECT ti.id
        FROM dag_run AS run
        JOIN task_instance AS ti USING (dag_id, run_id)
        WHERE run.id = 1 + (SELECT coalesce(max(dag_run_id), 0) FROM dagbump.history) AND ti.state IS NULL
    """
    with connect(url) as connection:
        while not ended.is_set():
            ids = [id_ for (id_,) in connection.execute(of_next_run)]
            for id_ in random.sample(ids, min(len(ids), 5)):
                start = time.perf_counter()
                connection.execute("UPDATE task_instance SET state = 'running' WHERE id = %s", (id_,))
                waits.append((time.perf_counter() - start) * 1000)
