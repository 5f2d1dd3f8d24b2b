"""What a repair costs, and how long somebody else waits meanwhile: ``PYTHONPATH=tests python -m benchmarks.repair``.

A fleet of stale task instances on an embedded server; a repair by CALL, and beside it a connection that updates the
state of the same task instances, one after the other.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
from dagbump import database
from dagbump.embedded_postgres import embedded_postgres
from dagbump.installation import installer
from support.fleet import Fleet
from support.releases import environments
from support.server import libpq

Connection = psycopg.Connection[Any]


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--tis", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=1000)
    asked = parser.parse_args()
    with embedded_postgres() as postgres:
        postgres.create_database("repair")
        url = postgres.url.set(database="repair")
        environments.migrate(environments.release(), url, Path(tempfile.mkdtemp()))
        installer.upgrade(database.create_engine(libpq(url)))
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            make_fleet(connection, asked.runs, asked.tis)
            waits: list[float] = []
            ended = threading.Event()
            writer = threading.Thread(target=update_states, args=[libpq(url), waits, ended])
            writer.start()
            begin = time.monotonic()
            connection.execute(f"CALL dagbump.repair(batch_size => {asked.batch_size})".encode())
            seconds = time.monotonic() - begin
            ended.set()
            writer.join()
            total = asked.runs * asked.tis
            (moved,) = connection.execute("SELECT sum(bumped) FROM dagbump.history").fetchone() or (0,)
            waits.sort()
            print(
                f"Embedded PostgreSQL {postgres.release()}, with its default settings.\n"
                f"{moved:,} of {total:,} task instances in {asked.runs:,} runs moved in {seconds:.1f} s: "
                f"{moved / seconds:,.0f} per second.\n"
                f"{len(waits):,} updates of the same meanwhile: median {statistics.median(waits):.1f} ms, "
                f"99 % within {waits[int(len(waits) * 0.99)]:.1f} ms, longest {waits[-1]:.1f} ms."
            )


def make_fleet(connection: Connection, runs: int, tis: int) -> None:
    """Make verified runs of which every task instance but one is stale."""
    fleet = Fleet(connection)
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    connection.execute("SET session_replication_role = replica")  # a million foreign-key checks would take a minute
    fleet.ti(run, new, "success")
    fleet.tis(run, old, ["queued"] * tis)
    fleet.copy_run(run, runs - 1)
    connection.execute("SET session_replication_role = origin")
    connection.execute("VACUUM ANALYZE")


def update_states(url: str, waits: list[float], ended: threading.Event) -> None:
    """Update the state of one task instance after the other, as tasks that start would; note the milliseconds."""
    just_moved = "SELECT coalesce(max(dag_run_id), 0) FROM dagbump.history"
    of_next_run = """
        SELECT ti.id FROM dag_run JOIN task_instance AS ti USING (dag_id, run_id)
        WHERE dag_run.id = %s AND ti.state = 'queued'
    """
    with psycopg.connect(url, autocommit=True) as connection:
        while not ended.is_set():
            # Those of the batch under way, most likely.
            (run,) = connection.execute(just_moved).fetchone() or (0,)
            ids = [id_ for (id_,) in connection.execute(of_next_run, (run + 1,))]
            for id_ in random.sample(ids, min(len(ids), 5)):
                begin = time.monotonic()
                connection.execute(
                    "UPDATE task_instance SET state = 'running', updated_at = now() WHERE id = %s", (id_,)
                )
                waits.append((time.monotonic() - begin) * 1000)


if __name__ == "__main__":
    main()
