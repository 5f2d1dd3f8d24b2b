"""Walks all orders in which sessions can take their steps, on a live database, without a race.

A session sends one statement at a time. A copy of dagbump's SQL has gates between its steps: a session that comes to a
gate announces it with a NOTICE, and waits there for an advisory lock until the walk lets it pass. So the steps inside
a function are steps of the walk, as the session's own statements are. A session that waits for another one, by
pg_blocking_pids, takes no step until that wait is over.
"""

from __future__ import annotations

import json
import re
import select
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagbump.installation import sql_files
from psycopg import pq
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import URL

from support import ledger, verify_integrity
from support.releases import environments
from support.server import libpq
from support.waits import PATIENCE_SECONDS

# Gates by file: the name of each gate, and the line that it stands before.
GATES: Mapping[str, Mapping[str, str]] = {
    "bump.sql": {
        "judge": "        -- 5. Judge the run again.",
        "count": "        -- 6. Count the stale TIs.",
    },
    "repair_batch.sql": {"judge": "        -- At most one row, because one run is chosen."},
    "parts/move_stale.sql": {
        "take": "-- Lock the dag_version row, because the foreign-key check",
        "lock": "    -- Lock the TIs that are free.",
        "move": "    -- Move them and record it.",
        "left": "-- The TIs that are still stale are locked",
    },
    "take_version.sql": {"version": "    PERFORM FROM @airflow_schema@.dag_version AS version\n    WHERE version.id"},
}
ALL_GATES = "judge count take version lock move left"
_RUN = {"bump.sql": "run.dag_run_id", "repair_batch.sql": "id", "take_version.sql": "NULL"}

# gates.names: where a session stops. The keys of the locks come from a sequence, because a savepoint that is rolled
# back does not give its numbers again. lock_timeout = 0: take_version would not wait for its gate.
_MACHINERY = """
    CREATE SCHEMA walk;
    CREATE FUNCTION walk.gate(name text, run bigint) RETURNS void LANGUAGE plpgsql SET lock_timeout = 0 AS $$
    DECLARE
        session integer := coalesce(nullif(current_setting('gates.session', TRUE), ''), '0');
        key integer;
    BEGIN
        IF name = ANY (string_to_array(current_setting('gates.names', TRUE), ' ')) THEN
            key := nextval('walk.keys_' || session);
            RAISE NOTICE 'gate % % %', key, name, coalesce(run, 0);
            PERFORM pg_advisory_lock(session, key);
            PERFORM pg_advisory_unlock(session, key);
        END IF;
    END $$;

    -- Adds a task to the latest version of a DAG: in a new version as Airflow does, or in place.
    CREATE FUNCTION walk.with_task(data json, task text) RETURNS jsonb LANGUAGE sql AS $$
        SELECT jsonb_set(data::jsonb, '{dag,tasks,-1}',
            jsonb_build_object('__type', 'operator', '__var', jsonb_build_object('task_id', task)), TRUE)
    $$;
    CREATE FUNCTION walk.land(its_dag text, task text) RETURNS void LANGUAGE sql AS $$
        WITH latest AS (
            SELECT * FROM public.dag_version WHERE dag_id = its_dag ORDER BY version_number DESC LIMIT 1
        ),
        landed AS (
            INSERT INTO public.dag_version
            SELECT made.*
            FROM latest
            CROSS JOIN LATERAL jsonb_populate_record(latest::public.dag_version, jsonb_build_object(
                'id', gen_random_uuid(), 'version_number', latest.version_number + 1, 'created_at', clock_timestamp()
            )) AS made
            RETURNING id
        )
        INSERT INTO public.serialized_dag
        SELECT made.*
        FROM landed
        CROSS JOIN latest
        JOIN public.serialized_dag AS serialized ON serialized.dag_version_id = latest.id
        CROSS JOIN LATERAL jsonb_populate_record(serialized, jsonb_build_object(
            'id', gen_random_uuid(), 'dag_version_id', landed.id, 'data', walk.with_task(serialized.data::json, task)
        )) AS made
    $$;

    -- The latest version of a run's DAG, if the run is examined.
    CREATE FUNCTION walk.latest(run bigint) RETURNS uuid LANGUAGE sql AS $$
        SELECT version.id
        FROM public.dag_run
        JOIN public.dag ON dag.dag_id = dag_run.dag_id
        CROSS JOIN LATERAL (
            SELECT * FROM public.dag_version WHERE dag_id = dag.dag_id ORDER BY version_number DESC LIMIT 1
        ) AS version
        WHERE dag_run.id = run AND dag_run.state = 'running' AND coalesce(dag_run.bundle_version, '') = ''
        AND NOT dag.is_paused AND EXISTS (SELECT FROM public.serialized_dag WHERE dag_version_id = version.id)
    $$;
"""
# In the order in which rows can be inserted.
_TABLES = ("dag", "dag_version", "serialized_dag", "dag_run", "task_instance")
_LEFT = """
    SELECT ti.run_id, ti.task_id, 'is stale'
    FROM dag_run AS run JOIN task_instance AS ti USING (dag_id, run_id)
    WHERE ti.dag_version_id IS DISTINCT FROM walk.latest(run.id) AND walk.latest(run.id) IS NOT NULL
    AND coalesce(ti.state, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
    UNION ALL
    SELECT run.run_id, scope.missing_tasks::text, 'has no TI'
    FROM dag_run AS run CROSS JOIN LATERAL dagbump.verify_scope(ARRAY[run.id]::bigint[]) AS scope
    WHERE walk.latest(run.id) IS NOT NULL AND cardinality(scope.missing_tasks) > 0
"""


# On a busy machine a timeout of 1 ms takes longer.
_SHORT_WAIT_SECONDS = 1.0


class ViolationError(AssertionError):
    """In this order of steps, dagbump breaks a promise."""


Step = str | Callable[["Session"], str]


@dataclass(frozen=True)
class Program:
    """What one session does.

    Attributes:
        name: for messages.
        steps: SQL, or a function that makes SQL from the session's answers so far.
        gates: at which gates it stops, with blanks between them.
        never_waits: a wait for another session is a violation.
        may_fail: the SQLSTATEs with which it may end.
        hides_tasks: afterwards Airflow may take a run for verified that lacks a task. The walk compares the tasks of
            such a run, as the plugin does.
    """

    name: str
    steps: tuple[Step, ...]
    gates: str = ""
    never_waits: bool = False
    may_fail: frozenset[str] = frozenset()
    hides_tasks: bool = False


@dataclass
class Session:
    """A connection that takes the steps of a program.

    Attributes:
        answer: what the last statement answered, except for a call of bump.
        open_answers: the rows that its call of bump answered, until its transaction ends.
        answers: those of all transactions that were committed.
        judged: by run, its latest version at each time that a call judged the run.
    """

    number: int
    pg: pq.abc.PGconn
    program: Program = field(default_factory=lambda: Program("", ()))
    next_step: int = 0
    gate: int | None = None
    next_key: int = 1
    busy: bool = False
    waiting: bool = False
    failed: str = ""
    answer: Any = None
    open_answers: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    judged: dict[int, set[str | None]] = field(default_factory=dict)
    arrived: tuple[int, str, int] | None = None
    saw_others: bool = False

    def take_up(self, program: Program) -> None:
        """Begin a program."""
        self.program, self.next_step, self.failed, self.answer = program, 0, "", None
        self.open_answers, self.answers, self.judged, self.saw_others = [], [], {}, False
        names = f"SET gates.names = '{program.gates}'; SET gates.session = '{self.number}'"
        self.pg.exec_(names.encode())

    def ended(self) -> bool:
        return not self.busy and (bool(self.failed) or self.next_step == len(self.program.steps))

    def in_transaction(self) -> bool:
        return self.busy or self.pg.transaction_status != pq.TransactionStatus.IDLE

    def on_notice(self, result: pq.abc.PGresult) -> None:
        found = re.fullmatch(rb"gate (\d+) (\w+) (\d+)", result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"")
        if found:
            self.arrived = int(found[1]), found[2].decode(), int(found[3])

    def send(self) -> None:
        step = self.program.steps[self.next_step]
        self.next_step += 1
        self.pg.send_query((step if isinstance(step, str) else step(self)).encode())
        self.busy = True

    def collect(self) -> None:
        """Read what has arrived, without waiting for more."""
        self.pg.consume_input()
        while not self.pg.is_busy():
            result = self.pg.get_result()
            if result is None:
                self._end_step()
                return
            if result.status == pq.ExecStatus.FATAL_ERROR:
                state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
                self.failed = f"{state} {result.error_message.decode()}"
            elif result.status == pq.ExecStatus.TUPLES_OK and result.ntuples and result.nfields:
                value = result.get_value(0, 0)
                self.answer = json.loads(value) if value else None

    def _end_step(self) -> None:
        self.busy = self.waiting = False
        if self.failed:
            self.pg.exec_(b"ROLLBACK")
            self.open_answers = []
            if self.failed[:5] not in self.program.may_fail:
                raise ViolationError(f"{self.program.name} failed: {self.failed}")
        elif isinstance(self.answer, list):
            self.open_answers, self.answer = self.answer, None
        if not self.in_transaction():
            self.answers += self.open_answers
            self.open_answers = []


class World:
    """A database with gates in dagbump's functions, and sessions that walk in it."""

    def __init__(self, url: URL, stack: ExitStack, sessions: int = 3) -> None:
        self.control = stack.enter_context(psycopg.connect(libpq(url), autocommit=True))
        self.conninfo = libpq(url)
        self.control.execute(_MACHINERY)
        ledger.open_book(self.control)
        verify_integrity.install(self.control)
        self.sessions = [self._session(number + 1, stack) for number in range(sessions)]
        self._gated: list[str] = []
        self.walked = 0
        self.waits = 0

    def _session(self, number: int, stack: ExitStack) -> Session:
        self.control.execute(f"CREATE SEQUENCE walk.keys_{number}".encode())
        pg = pq.PGconn.connect(make_conninfo(self.conninfo, application_name=str(number)).encode())
        assert pg.status == pq.ConnStatus.OK, pg.error_message
        stack.callback(pg.finish)
        session = Session(number, pg)
        pg.notice_handler = session.on_notice
        self._hold_next(session)
        return session

    def _hold_next(self, session: Session) -> None:
        self.control.execute("SELECT pg_advisory_lock(%s, %s)", (session.number, session.next_key))

    def install(self, directory: Path, *cut: tuple[str, str, str]) -> None:
        """Install dagbump's functions with gates; each cut replaces a text of a file of sql/ by another one."""
        sources = directory / "sql"
        shutil.copytree(sql_files.SOURCES, sources)
        for name, text, other in cut:
            _replace(sources / name, text, other)
        for name, gates in GATES.items():
            for gate, line in gates.items():
                if not any(line in text for file, text, _ in cut if file == name):
                    indent = " " * (len(line) - len(line.lstrip()))
                    run = _RUN.get(name, "run.dag_run_id")
                    _replace(sources / name, line, f"{indent}PERFORM walk.gate('{gate}', {run});\n{line}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sql_files, "SOURCES", sources)
            self._gated = [
                sql_files.render(sources / f"{name}.sql", "public", environments.shape())
                for name in ("bump", "repair_batch", "take_version")
            ]
        self._install_gated()

    def _install_gated(self) -> None:
        for statement in self._gated:
            self.control.execute(statement.encode())

    def keep(self) -> None:
        """Keep what is in the tables as the beginning of each order."""
        for table in _TABLES:
            self.control.execute(
                f"DROP TABLE IF EXISTS walk.{table}; CREATE TABLE walk.{table} AS TABLE {table}".encode()
            )

    def reset(self) -> None:
        history = "DELETE FROM dagbump.history; DELETE FROM book.moves; DROP INDEX IF EXISTS dagbump_ti_unfinished;"
        deletes = "".join(f"DELETE FROM {table};" for table in reversed(_TABLES))
        inserts = "".join(f"INSERT INTO {table} TABLE walk.{table};" for table in _TABLES)
        self.control.execute(f"BEGIN; {history}{deletes}{inserts} COMMIT".encode())
        if self.walked % 200 == 0:
            for table in (*_TABLES, "dagbump.history", "book.moves"):
                self.control.execute(f"VACUUM {table}".encode())

    # ---- One order ----

    def _advance(self, session: Session) -> None:
        """Let a session take its next step: past a gate, or its next statement."""
        if session.gate is not None:
            assert session.arrived is not None
            key, name, run = session.arrived
            if name == "judge":
                ((latest,),) = self.control.execute("SELECT walk.latest(%s)::text", (run,)).fetchall()
                session.judged.setdefault(run, set()).add(latest)
            session.next_key = key + 1
            self._hold_next(session)
            session.gate = session.arrived = None
            self.control.execute("SELECT pg_advisory_unlock(%s, %s)", (session.number, key))
        else:
            session.send()

    def _settle(self, session: Session) -> None:
        """Return when a session has ended its statement, stands at a gate, or waits for another session."""
        began = time.monotonic()
        deadline = began + PATIENCE_SECONDS
        while session.busy and session.gate is None:
            ready, _, _ = select.select([session.pg.socket], [], [], 0.002)
            session.collect()
            if session.arrived:
                session.gate, session.waiting = session.arrived[0], False
            elif not ready and self._still_waits(session):
                if session.program.never_waits:
                    # PostgreSQL leaves one wait that take_version ends after 1 ms.
                    if time.monotonic() - began < _SHORT_WAIT_SECONDS:
                        continue
                    raise ViolationError(f"{session.program.name} waits for another session")
                self.waits += not session.waiting
                session.waiting = True
                return
            assert time.monotonic() < deadline, f"{session.program.name} neither ends nor waits"

    def _still_waits(self, session: Session) -> bool:
        return session.busy and self._waits(session)

    def _waits(self, session: Session) -> bool:
        # The control connection blocks a session only at a gate. Then the NOTICE of that gate is on its way.
        query = "SELECT cardinality(array_remove(pg_blocking_pids(%s), pg_backend_pid())) > 0"
        return self.control.execute(query, (session.pg.backend_pid,)).fetchone() == (True,)

    def _one(self, programs: tuple[Program, ...], chosen: list[int]) -> list[tuple[int, list[int]]]:
        """Take the chosen steps, then any; return who took each step, and who could have taken it."""
        self.reset()
        sessions = self.sessions[: len(programs)]
        for session, program in zip(sessions, programs, strict=True):
            session.take_up(program)
        taken: list[tuple[int, list[int]]] = []
        while not all(session.ended() for session in sessions):
            free = [n for n, session in enumerate(sessions) if not session.ended() and not session.waiting]
            if not free:
                raise ViolationError("every session waits for another one")
            turn = chosen[len(taken)] if len(taken) < len(chosen) else free[0]
            assert turn in free, "the same order has led to another state"
            taken.append((turn, free))
            self._advance(sessions[turn])
            for session in (sessions[turn], *sessions):
                self._settle(session)
            for session in sessions:
                session.saw_others |= any(other.in_transaction() for other in sessions if other is not session)
        self._check(sessions)
        return taken

    def walk(self, *programs: Program, replaces_functions: bool = False) -> int:
        """Walk all orders of some programs; return how many there are.

        Args:
            programs: one for each session.
            replaces_functions: one of them installs dagbump's functions, without gates.

        Raises:
            ViolationError: with the order.
        """
        orders = 0
        chosen: list[int] | None = []
        while chosen is not None:
            if replaces_functions:
                self._install_gated()
            try:
                taken = self._one(programs, chosen)
            except ViolationError as violation:
                names = ", ".join(program.name for program in programs)
                raise ViolationError(f"{violation}; order {orders + 1}: {chosen} of {names}") from None
            orders += 1
            self.walked += 1
            chosen = _next_order(taken)
        return orders

    # ---- What has to be true after each order ----

    def _check(self, sessions: Iterable[Session]) -> None:
        history = self.control.execute(
            "SELECT application_name, dag_run_id, dag_version_id::text, bumped FROM dagbump.history"
        ).fetchall()
        moves = self.control.execute("SELECT session, count(*) FROM book.moves GROUP BY session").fetchall()
        booked: dict[str, int] = dict(moves)
        if ledger.backwards(self.control):
            raise ViolationError("a TI went backwards")
        for session in sessions:
            if not session.program.never_waits:
                continue
            own = [row for row in history if row[0] == str(session.number)]
            recorded = sum(row[3] for row in own)
            if recorded != booked.get(str(session.number), 0):
                raise ViolationError(f"{session.program.name}: {recorded} in history, and {booked} in the book")
            if "repair" not in session.program.name and recorded != sum(row["bumped"] for row in session.answers):
                raise ViolationError(f"{session.program.name} answered {session.answers}, and {own} is in history")
            if any(row["locked"] for row in session.answers) and not session.saw_others:
                raise ViolationError(f"{session.program.name} answered locked, and nobody was there")
            for _, run, version, _ in own:
                if "judge" in session.program.gates and version not in session.judged.get(run, {version}):
                    raise ViolationError(f"{session.program.name} moved run {run} to what was not its latest version")
        self._loops_leave_nothing(any(session.program.hides_tasks for session in sessions))

    def _loops_leave_nothing(self, look_at_tasks: bool) -> None:
        if look_at_tasks:
            self.control.execute("""
                SELECT verify_integrity(dag_run_id, walk.latest(dag_run_id)) FROM dagbump.verify_scope(NULL)
                WHERE walk.latest(dag_run_id) IS NOT NULL
            """)
        for _ in range(3):
            rows = self.control.execute(
                "SELECT verify_integrity(dag_run_id, dag_version_id) FROM dagbump.bump(caller_verifies => TRUE) "
                "WHERE needs_verify"
            ).fetchall()
            if not rows:
                break
        left = self.control.execute(_LEFT).fetchall()
        if left:
            raise ViolationError(f"a further loop leaves {left}")


def _next_order(taken: list[tuple[int, list[int]]]) -> list[int] | None:
    """Return the beginning of the next order, depth first; None after the last one."""
    while taken:
        turn, free = taken.pop()
        later = [other for other in free if other > turn]
        if later:
            return [turn for turn, _ in taken] + [later[0]]
    return None


def _replace(path: Path, text: str, other: str) -> None:
    before = path.read_text("utf-8")
    assert before.count(text) == 1, f"{path.name} has {text!r} {before.count(text)} times"
    path.write_text(before.replace(text, other), "utf-8")


@contextmanager
def world(url: URL) -> Iterator[World]:
    """Make a world in a database with dagbump; close its connections at the end."""
    with ExitStack() as stack:
        yield World(url, stack)
