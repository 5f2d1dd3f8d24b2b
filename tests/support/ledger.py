"""Records the moves of TIs in a database under load, and counts what must never happen.

The triggers and the watch know nothing of how dagbump works: they look at what is in the tables, and at what the
server says about waits.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import dagbump
import psycopg
from psycopg.errors import Diagnostic

from support.releases import environments

Connection = psycopg.Connection[Any]
TaskKey = tuple[str, str, str]  # dag_id, run_id, task_id

# Chooses the live TIs, because Airflow 3.4 keeps past tries in the same table.
LIVE = "ti.working_set IS TRUE" if environments.number() >= (3, 4) else "TRUE"
FINISHED = "('success', 'failed', 'skipped', 'upstream_failed', 'removed')"
# The runs that a scheduler looks at, each with the latest version of its DAG.
EXAMINED = """
    dag_run AS run
    JOIN dag ON dag.dag_id = run.dag_id AND NOT dag.is_paused AND NOT dag.is_stale
    CROSS JOIN LATERAL (
        SELECT version.id, version.version_number FROM dag_version AS version
        WHERE version.dag_id = run.dag_id ORDER BY version.version_number DESC LIMIT 1
    ) AS latest
"""
STALE = f"""
    SELECT ti.id, latest.id, run.id
    FROM {EXAMINED}
    JOIN task_instance AS ti ON (ti.dag_id, ti.run_id) = (run.dag_id, run.run_id) AND {LIVE}
    WHERE run.state = 'running' AND (ti.state IS NULL OR ti.state NOT IN {FINISHED})
    AND ti.dag_version_id IS DISTINCT FROM latest.id
"""
MISSING = f"""
    SELECT run.dag_id, run.run_id, task #>> '{{__var,task_id}}'
    FROM {EXAMINED}
    JOIN serialized_dag AS serialized ON serialized.dag_version_id = latest.id
    CROSS JOIN LATERAL jsonb_array_elements(serialized.data::jsonb #> '{{dag,tasks}}') AS task
    WHERE run.state = 'running' AND NOT EXISTS (
        SELECT FROM task_instance AS ti
        WHERE (ti.dag_id, ti.run_id, ti.task_id) = (run.dag_id, run.run_id, task #>> '{{__var,task_id}}') AND {LIVE}
    )
"""
# BEFORE, because the old version may be deleted as soon as no TI is on it.
_BOOK = """
    CREATE SCHEMA book;
    CREATE TABLE book.moves (
        ti uuid, dag_id text, run_id text, before integer, after integer, dag_version_id uuid,
        session text DEFAULT current_setting('application_name')
    );
    CREATE FUNCTION book.record() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO book.moves VALUES (
            OLD.id, OLD.dag_id, OLD.run_id,
            (SELECT version_number FROM public.dag_version WHERE id = OLD.dag_version_id),
            (SELECT version_number FROM public.dag_version WHERE id = NEW.dag_version_id),
            NEW.dag_version_id
        );
        RETURN NEW;
    END $$;
    CREATE TRIGGER book BEFORE UPDATE ON task_instance FOR EACH ROW
    WHEN (OLD.dag_version_id IS DISTINCT FROM NEW.dag_version_id) EXECUTE FUNCTION book.record();
"""
# Moves without a record, and records without a move.
_UNEQUAL = """
    SELECT coalesce(sum(abs(coalesce(booked.moves, 0) - coalesce(recorded.moves, 0))), 0)
    FROM (
        SELECT dag_id, run_id, dag_version_id, count(*) AS moves FROM book.moves GROUP BY 1, 2, 3
    ) AS booked
    FULL JOIN (
        SELECT dag_id, run_id, dag_version_id, sum(bumped) AS moves FROM dagbump.history GROUP BY 1, 2, 3
    ) AS recorded USING (dag_id, run_id, dag_version_id)
"""
# With these options, a session reports each wait for a lock that lasts a millisecond to its client.
TELLS_ITS_WAITS = (
    "-c log_lock_waits=on -c deadlock_timeout=1ms -c client_min_messages=log -c lc_messages=C -c log_statement=none"
)


def open_book(connection: Connection) -> None:
    """Record each change of a TI's version from now on; the connection is the tables' owner."""
    connection.execute(_BOOK)


def backwards(connection: Connection) -> int:
    """Return how often a TI went to a lower version, or from a version to none."""
    return _number(connection, "SELECT count(*) FROM book.moves WHERE after < before OR dag_version_id IS NULL")


def moves(connection: Connection) -> int:
    return _number(connection, "SELECT count(*) FROM book.moves")


def moves_unlike_history(connection: Connection) -> int:
    """Return by how many moves the book and dagbump.history differ, over all runs and versions."""
    return _number(connection, _UNEQUAL)


def stale(connection: Connection) -> int:
    return len(connection.execute(STALE.encode()).fetchall())


def missing_tasks(connection: Connection) -> int:
    """Return how many tasks of the latest versions have no TI in a running run."""
    return len(connection.execute(MISSING.encode()).fetchall())


def deadlocks(connection: Connection) -> int:
    """Return how many deadlocks the server has counted here. A session may add its own only when it ends."""
    return _number(connection, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


def answers_unlike_history(connection: Connection, answered: Counter[str]) -> int:
    """Return by how many TIs the committed answers of the callers differ from dagbump.history."""
    statement = "SELECT caller, sum(bumped)::int FROM dagbump.history WHERE caller = ANY (%s) GROUP BY caller"
    recorded = dict(connection.execute(statement, (list(answered),)).fetchall())
    return sum(abs(count - recorded.get(caller, 0)) for caller, count in answered.items())


def writes_lost(connection: Connection, written: Counter[TaskKey]) -> int:
    """Return by how many the counters in the live TIs differ from the writes that their writers have committed."""
    rows = connection.execute(
        f"SELECT dag_id, run_id, task_id, coalesce(pid, 0) FROM task_instance AS ti WHERE {LIVE}".encode()
    ).fetchall()
    return sum(abs(count - written[dag_id, run_id, task_id]) for dag_id, run_id, task_id, count in rows)


def _number(connection: Connection, statement: str) -> int:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return int(row[0])


@dataclass
class Waits:
    """The waits for row locks that sessions with `TELLS_ITS_WAITS` have reported.

    Attributes:
        in_dagbump: inside one of dagbump's functions.
        in_gap: those at a dag_version row, which lock_timeout ends after a millisecond.
        elsewhere: in Airflow's own statements.
    """

    in_dagbump: list[str] = field(default_factory=list)
    in_gap: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def listen(self, connection: Connection) -> None:
        connection.add_notice_handler(self._hear)

    def _hear(self, told: Diagnostic) -> None:
        message, context = told.message_primary or "", told.context or ""
        if "still waiting for" not in message or not (" on transaction " in message or " on tuple " in message):
            return
        if "dagbump.take_version" in context and 'in relation "dag_version"' in context:
            self.in_gap.append(f"{message}\n{context}")
        elif "dagbump." in context:
            self.in_dagbump.append(f"{message}\n{context}")
        else:
            self.elsewhere.append(f"{message}\n{context}")


class Sampler:
    """A second opinion on waits: calls of dagbump that pg_locks shows waiting for a row for 50 ms.

    The documented wait of 1 ms can take longer on a busy machine, but not so long.
    """

    _WAITING = """
        SELECT pid, lock.waitstart FROM pg_locks AS lock JOIN pg_stat_activity AS activity USING (pid)
        WHERE activity.datname = current_database() AND activity.query LIKE '%dagbump.%' AND pid <> pg_backend_pid()
        AND NOT lock.granted AND lock.locktype IN ('transactionid', 'tuple')
        AND clock_timestamp() - lock.waitstart > interval '50 ms'
    """

    def __init__(self) -> None:
        self.seen: set[tuple[Any, ...]] = set()

    def look(self, connection: Connection) -> None:
        self.seen.update(connection.execute(self._WAITING).fetchall())


@dataclass(frozen=True)
class Loop:
    """What a scheduler's loop has answered for a run, once committed."""

    began: float
    ended: float
    version: UUID
    locked: int


class Overdue:
    """Finds TIs that stayed stale although two whole loops have looked at their run, and found none of its TIs
    locked.
    """

    LOOPS = 2

    def __init__(self) -> None:
        self.found: set[UUID] = set()
        self.looks = 0
        self._loops: defaultdict[int, deque[Loop]] = defaultdict(lambda: deque(maxlen=100))
        self._stale_since: dict[tuple[UUID, UUID, int], float] = {}

    def loop_is_over(self, began: float, answered: Iterable[dagbump.RunBump]) -> None:
        """Take the answers of a committed loop, of all runs that it examined."""
        now = time.monotonic()
        for row in answered:
            self._loops[row.dag_run_id].append(Loop(began, now, row.dag_version_id, row.locked))

    def look(self, connection: Connection) -> None:
        """Look at what is stale now; a TI that is cleared or tried again has a new id."""
        began = time.monotonic()
        now = connection.execute(STALE.encode()).fetchall()
        self._stale_since = {key: self._stale_since.get(key, time.monotonic()) for key in now}
        self.looks += 1
        for (ti, version, run), since in self._stale_since.items():
            whole = [
                loop
                for loop in list(self._loops[run])
                if loop.began > since and loop.ended < began and loop.version == version and not loop.locked
            ]
            if len(whole) >= self.LOOPS:
                self.found.add(ti)


def percentiles(seconds: Iterable[float]) -> Iterator[tuple[str, float]]:
    """Yield p50 and p99 in milliseconds."""
    ordered = sorted(seconds)
    for share in (50, 99):
        yield f"p{share}", round(ordered[min(len(ordered) * share // 100, len(ordered) - 1)] * 1000, 2)
