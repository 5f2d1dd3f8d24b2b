"""Plays an Airflow 3.3 that never rests, so that there is something to see: ``python -m dagbump.demo.play``.

If the database that DAGBUMP_URL names has no tables of Airflow, it gets them, and runs of the demo's DAGs. Every few
seconds the DAG processor lands a version with another task. Then the scheduler moves what it moves, and verifies. It
leaves the task instances without a state, which `dagbump run` moves.
"""

from __future__ import annotations

import os
import time

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from dagbump.demo import fleet
from dagbump.demo.loops import Loops, run_once

RUNS, TASKS = 20, 30
_PAUSE_SECONDS = 10.0


def connect_to(url: sa.engine.URL) -> sa.engine.Engine:
    """Return an engine that leaves no prepared statement on the server connections of PgBouncer."""
    never = {"prepare_threshold": None}
    return sa.create_engine(url.set(drivername="postgresql+psycopg"), poolclass=NullPool, connect_args=never)


def build_if_empty(engine: sa.engine.Engine) -> None:
    """Make the tables and the runs, if there are no tables."""
    with engine.begin() as connection:
        if not sa.inspect(connection).has_table("task_instance"):
            fleet.build(connection, RUNS, TASKS)


def land_a_version(engine: sa.engine.Engine) -> None:
    """Play the DAG processor: the last task of every DAG gets another name."""
    with engine.begin() as connection:
        fleet.land_version(connection, TASKS, f"{fleet.NEW_TASK}_{int(time.time())}")


def schedule(engine: sa.engine.Engine) -> None:
    """Play a loop of the scheduler of Airflow 3.2 or 3.3."""
    with engine.connect() as connection:
        changed = run_once(connection, Loops(engine).updating_in_bulk)
        with Session(connection) as session:
            fleet.verify_integrity(session.connection(), changed.to_verify)
            session.commit()


def main() -> None:
    """Play until the process is ended."""
    engine = connect_to(sa.make_url(os.environ["DAGBUMP_URL"]))
    build_if_empty(engine)
    print("The tables of Airflow and the runs are there.", flush=True)
    while True:
        land_a_version(engine)
        time.sleep(_PAUSE_SECONDS)
        schedule(engine)
        time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
