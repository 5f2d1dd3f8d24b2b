"""Every command works through PgBouncer in transaction mode, and leaves nothing behind on the server connection.

The pool has one connection, so the next client gets the one that a command has used. Airflow's Helm chart puts
PgBouncer into the URL that the command line takes by itself.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import dagbump
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from support import pgbouncer
from support.fleet import Fleet, stale_run
from support.processes import ALEMBIC, DAGBUMP, command, running
from support.server import Connect, Server, libpq
from support.waits import until

pytestmark = [pytest.mark.once, pytest.mark.slow]

OWNER, MEMBER, STRANGER = (f"dagbump_pooled_{name}" for name in ("owner", "member", "stranger"))
ROLES = (OWNER, MEMBER, STRANGER)
PASSWORD = "secret"  # noqa: S105
DRIVERS: dict[str, dict[str, str]] = {"psycopg": {}, "psycopg2": {"PSYCOPG_IMPL": "none"}}
UPGRADE, WITH_INDEX = (*DAGBUMP, "upgrade"), (*DAGBUMP, "upgrade", "--with-index")


@pytest.fixture(scope="module")
def pooler(postgres: Server) -> Iterator[URL]:
    with postgres.maintenance() as connection:
        for role in ROLES:
            connection.execute(f"DROP ROLE IF EXISTS {role}".encode())
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'".encode())
    with pgbouncer.in_front_of(postgres.url, dict.fromkeys(ROLES, PASSWORD)) as url:
        yield url
    with postgres.maintenance() as connection:
        for role in ROLES:
            connection.execute(f"DROP ROLE IF EXISTS {role}".encode())


@pytest.fixture
def pooled(pooler: URL, database: URL) -> URL:
    """The test's database, with dagbump, through the pooler."""
    return pooler.set(database=database.database)


@contextmanager
def nothing_left(pooled: URL) -> Iterator[None]:
    before = pgbouncer.server_connection(pooled)
    yield
    assert pgbouncer.server_connection(pooled) == before


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> dict[str, str]:
    return DRIVERS[request.param]


def run(pooled: URL, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command(*words, DAGBUMP_URL=libpq(pooled), **environment)


def fill(fleet: Fleet) -> None:
    """Make something for bump to do, and something that it leaves."""
    old, new = fleet.dag("d", versions=2)
    run_ = fleet.run("d")
    fleet.ti(run_, new, "success")
    fleet.ti(run_, old, "queued")
    fleet.ti(fleet.run("d"), old, "queued")


class TestEveryCommand:
    def test_that_works(self, pooled: URL, fleet: Fleet, driver: dict[str, str]) -> None:
        fill(fleet)
        for words in (
            ("check",),
            ("preview", "--dag-id", "d"),
            ("holders",),
            ("versions",),
            ("repair", "--dry-run"),
            ("bump",),
            ("repair", "--yes", "--batch-size", "1"),
            ("history",),
            ("upgrade",),
            ("upgrade", "--with-index"),
            ("upgrade", "--with-index"),
            ("downgrade", "index@base"),
            ("upgrade", "--with-index"),
            ("downgrade", "base"),
            ("upgrade",),
        ):
            with nothing_left(pooled):
                done = run(pooled, *DAGBUMP, *words, **driver)
                assert done.returncode == 0, (words, done.stderr)

    def test_plain_alembic(self, pooled: URL, driver: dict[str, str]) -> None:
        for words in (("upgrade", "heads"), ("current",), ("stamp", "heads"), ("downgrade", "base")):
            with nothing_left(pooled):
                done = run(pooled, *ALEMBIC, *words, **driver)
                assert done.returncode == 0, (words, done.stderr)

    def test_that_goes_on_until_it_is_told_to_end(self, pooled: URL, fleet: Fleet, driver: dict[str, str]) -> None:
        fill(fleet)
        assert run(pooled, *DAGBUMP, "bump").returncode == 0  # so that there is a history
        _, before = pgbouncer.server_connection(pooled)
        going_on = (
            (
                ("run", "--interval", "0.1", "--all-active", "--lock-timeout", "3", "--statement-timeout", "7"),
                "one safe bump",
            ),
            (("history", "--follow"), "to version"),
        )
        for words, told in going_on:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                with running(*DAGBUMP, *words, DAGBUMP_URL=libpq(pooled), **driver) as process:
                    process.until_printed(told)
                    process.process.send_signal(number)
                    process.finish(timeout=20)
                assert pgbouncer.server_connection(pooled)[1] == before

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_that_is_the_active_copy(
        self, postgres: Server, database: URL, fleet: Fleet, driver: dict[str, str], number: signal.Signals
    ) -> None:
        """It needs two server connections: one for its bumps, and one that says that it is active."""
        fill(fleet)
        locks = "SELECT FROM pg_locks WHERE locktype = 'advisory'"
        with pgbouncer.in_front_of(postgres.url, {}, pool_size=2) as pooler:
            url = pooler.set(database=database.database)
            before = pgbouncer.server_connections(url, 2)
            with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(url), **driver) as process:
                process.until_printed("bumped")
                assert len(fleet.execute(locks).fetchall()) == 1
                process.process.send_signal(number)
                process.finish(timeout=20)
            until(lambda: not fleet.execute(locks).fetchall(), lambda: "PgBouncer has ended its transaction")
            after = pgbouncer.server_connections(url, 2)
            assert list(after.values()) == list(before.values())

    def test_that_is_refused(self, pooler: URL, airflow_database: URL) -> None:
        """A stranger; a database that is not Airflow's; an upgrade that fails half way."""
        pooled = pooler.set(database=airflow_database.database)
        for url in (pooled, pooled.set(username=STRANGER), pooled.set(database="postgres")):
            for words in (("preview",), ("bump",), ("run",)):
                with nothing_left(url):
                    assert run(url, *DAGBUMP, *words).returncode == 4
        for url in (pooled.set(username=STRANGER), pooled.set(database="postgres")):
            with nothing_left(url):
                assert run(url, *UPGRADE).returncode in {1, 4}
        with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
            connection.execute("CREATE SCHEMA dagbump")
            connection.execute(
                "CREATE FUNCTION dagbump.preview(bigint[], text[], integer, boolean) RETURNS int "
                "LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'"
            )
        with nothing_left(pooled):
            done = run(pooled, *UPGRADE)
            assert (done.returncode, "cannot change" in done.stderr) == (1, True), done.stderr


class TestTheOwnersMember:
    """A role that acts as the owner: it becomes the owner for a transaction, and for no longer."""

    @pytest.fixture
    def member(self, pooler: URL, airflow_database: URL) -> Iterator[URL]:
        tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
            connection.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {OWNER}".encode())
            for (table,) in connection.execute(tables).fetchall():
                connection.execute(f'ALTER TABLE public."{table}" OWNER TO {OWNER}'.encode())
            connection.execute(f"GRANT {OWNER} TO {MEMBER}".encode())
            connection.execute(f"GRANT CREATE ON DATABASE {airflow_database.database} TO {MEMBER}".encode())
            yield pooler.set(database=airflow_database.database, username=MEMBER)
            connection.execute(f"DROP OWNED BY {OWNER} CASCADE; DROP OWNED BY {MEMBER} CASCADE".encode())
            connection.execute(f"REVOKE {OWNER} FROM {MEMBER}; ALTER ROLE {MEMBER} INHERIT".encode())

    def test_installs_and_removes(self, member: URL) -> None:
        for words in (WITH_INDEX, (*DAGBUMP, "downgrade", "base")):
            with nothing_left(member):
                done = run(member, *words)
                assert done.returncode == 0, done.stderr

    def test_that_does_not_inherit_is_told_to_build_the_index_as_the_owner(
        self, member: URL, airflow_database: URL
    ) -> None:
        """CONCURRENTLY runs outside of a transaction, so a setting of the transaction cannot help."""
        with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
            connection.execute(f"ALTER ROLE {MEMBER} NOINHERIT".encode())
            if connection.info.server_version >= 160000:
                connection.execute(f"GRANT {OWNER} TO {MEMBER} WITH INHERIT FALSE".encode())
            with nothing_left(member):
                assert run(member, *ALEMBIC, "upgrade", "head").returncode == 0
            with nothing_left(member):
                refused = run(member, *WITH_INDEX)
                assert (refused.returncode, f"Connect as {OWNER}" in refused.stderr) == (1, True), refused.stderr
            connection.execute(f"SET ROLE {OWNER}".encode())
            connection.execute(
                "CREATE INDEX dagbump_ti_unfinished ON task_instance (dag_id, run_id, dag_version_id) "
                "WHERE state IS NULL"
            )
            connection.execute("RESET ROLE")
            with nothing_left(member):
                refused = run(member, *DAGBUMP, "downgrade", "base")
                assert (refused.returncode, f"Connect as {OWNER}" in refused.stderr) == (1, True), refused.stderr


class TestWhateverEndsIt:
    """Ctrl-C and kill -9, while it waits: for its turn, for a table, for a transaction that its index waits for."""

    @pytest.fixture(params=[signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
    def number(self, request: pytest.FixtureRequest) -> signal.Signals:
        return signal.Signals(request.param)

    def waits(self, fleet: Fleet, event: str) -> None:
        query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = %s"
        until(lambda: fleet.execute(query, event).fetchone() is not None, lambda: f"something waits for a {event}")

    @pytest.mark.parametrize("words", [UPGRADE, (*DAGBUMP, "downgrade"), (*DAGBUMP, "preview"), (*ALEMBIC, "current")])
    def test_while_a_table_is_locked(
        self,
        pooled: URL,
        fleet: Fleet,
        connect: Connect,
        words: tuple[str, ...],
        number: signal.Signals,
    ) -> None:
        _, before = pgbouncer.server_connection(pooled)
        holder = connect()
        holder.execute("LOCK TABLE dagbump.alembic_version, dagbump.installation")
        with running(*words, DAGBUMP_URL=libpq(pooled)) as process:
            self.waits(fleet, "relation")
            process.process.send_signal(number)
            process.finish(timeout=20)
        holder.rollback()
        assert pgbouncer.server_connection(pooled)[1] == before

    def test_while_the_index_is_built(
        self, pooled: URL, fleet: Fleet, connect: Connect, number: signal.Signals, driver: dict[str, str]
    ) -> None:
        _, before = pgbouncer.server_connection(pooled)
        writer = connect()
        writer.execute("UPDATE task_instance SET hostname = 'held' WHERE FALSE")
        state = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('dagbump_ti_unfinished')"
        with running(*WITH_INDEX, DAGBUMP_URL=libpq(pooled), **driver) as process:
            until(lambda: fleet.execute(state).fetchone() == (False,), lambda: "the index is being built")
            if number is signal.SIGINT:
                process.process.send_signal(number)
                dropping = (
                    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND starts_with(query, 'DROP')"
                )
                until(lambda: fleet.execute(dropping).fetchone() is not None, lambda: "what there is of it is dropped")
                writer.rollback()
                assert process.finish(timeout=20) == 130
                assert fleet.execute(state).fetchone() is None
            else:
                process.process.kill()
                process.finish(timeout=20)
                writer.rollback()
        assert pgbouncer.server_connection(pooled)[1] == before
        done = run(pooled, *WITH_INDEX, **driver)
        assert done.returncode == 0, done.stderr
        assert fleet.execute(state).fetchone() == (True,)
        assert pgbouncer.server_connection(pooled)[1] == before


CALLS = 250
POOL_SIZE = 2


Call = Callable[[], dagbump.BumpResult]


@contextmanager
def with_session(pooled: URL, driver: str = "psycopg") -> Iterator[Call]:
    engine = sa.create_engine(pooled.set(drivername=f"postgresql+{driver}"), poolclass=NullPool)
    with Session(engine) as session:

        def call() -> dagbump.BumpResult:
            with session.begin():
                return dagbump.bump(session)

        yield call


@contextmanager
def with_psycopg(pooled: URL) -> Iterator[Call]:
    with psycopg.connect(libpq(pooled)) as connection:

        def call() -> dagbump.BumpResult:
            with connection.transaction():
                return dagbump.bump(connection)

        yield call


@contextmanager
def with_asyncpg(pooled: URL) -> Iterator[Call]:
    without_names = {"statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}
    engine = create_async_engine(
        pooled.set(drivername="postgresql+asyncpg"), poolclass=NullPool, connect_args=without_names
    )

    async def acall() -> dagbump.BumpResult:
        async with connection.begin():
            return await dagbump.abump(connection)

    loop = asyncio.new_event_loop()
    connection = engine.connect()
    loop.run_until_complete(connection.start())
    try:
        yield lambda: loop.run_until_complete(acall())
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


class TestAThousandCalls:
    """By several drivers at once, on two server connections, while dagbump is upgraded and removed under them."""

    def test_answer_or_say_what_is_the_matter_and_leave_nothing(
        self, postgres: Server, database: URL, fleet: Fleet
    ) -> None:
        migrated = threading.Event()
        problems: list[BaseException] = []

        def goes_on(calls_of: Callable[[URL], AbstractContextManager[Call]], url: URL) -> int:
            answered = made = 0
            while made < CALLS or not migrated.is_set():
                with calls_of(url) as call:
                    for _ in range(25):
                        made += 1
                        try:
                            call()
                            answered += 1
                        except dagbump.DagbumpError as error:
                            problems.append(error)
            return answered

        with pgbouncer.in_front_of(postgres.url, {}, POOL_SIZE) as pooler, ThreadPoolExecutor() as threads:
            url = pooler.set(database=database.database)
            before = pgbouncer.server_connections(url, POOL_SIZE)
            assert len(before) == POOL_SIZE
            drivers = (with_session, partial(with_session, driver="psycopg2"), with_psycopg, with_asyncpg)
            callers = [threads.submit(goes_on, each, url) for each in drivers]
            try:
                for number, words in enumerate((("upgrade",), ("downgrade", "base"), ("upgrade",))):
                    stale_run(fleet, f"d{number}")
                    done = run(url, *DAGBUMP, *words)
                    assert done.returncode == 0, done.stderr
            finally:
                migrated.set()
            assert min(caller.result(timeout=120) for caller in callers) > 0
            assert {type(problem) for problem in problems} == {dagbump.NotInstalled}
            assert pgbouncer.server_connections(url, POOL_SIZE) == before
            stale = "SELECT FROM dagbump.preview() WHERE stale > 0"
            assert run(url, *DAGBUMP, "bump").returncode == 0
            assert fleet.execute(stale).fetchall() == []
