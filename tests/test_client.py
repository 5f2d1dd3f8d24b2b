"""The Python client on every kind of connection that it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID

import dagbump
import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    scoped_session,
    sessionmaker,
)
from support.fleet import Fleet
from support.server import libpq

SYNC_DRIVERS = ("psycopg", "psycopg2")
ASYNC_DRIVERS = ("psycopg", "asyncpg")


def stale_run(fleet: Fleet) -> tuple[int, UUID, UUID]:
    """Make a verified run with one stale TI; return the run, the latest version and the stale TI."""
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d", "r")
    fleet.ti(run, new, "success")
    return run, new, fleet.ti(run, old, "scheduled")


def expected(run: int, new: UUID) -> tuple[dagbump.RunBump, ...]:
    return (dagbump.RunBump(run, "d", "r", new, 2, 1, 0, needs_verify=False),)


@contextmanager
def open_sync(kind: str, url: URL) -> Iterator[Any]:
    """Open a connection of that kind; it commits at the end."""
    with ExitStack() as stack:
        if kind == "psycopg":
            yield stack.enter_context(psycopg.connect(libpq(url)))
            return
        driver, _, level = kind.partition(" ")
        engine = sa.create_engine(url.set(drivername=f"postgresql+{driver}"))
        stack.callback(engine.dispose)
        if level == "Connection":
            yield stack.enter_context(engine.begin())
        elif level == "Session":
            session = stack.enter_context(Session(engine))
            yield session
            session.commit()
        else:
            registry = scoped_session(sessionmaker(engine))
            stack.callback(registry.remove)
            yield registry
            registry.commit()


SYNC = ["psycopg", *(f"{driver} {level}" for driver in SYNC_DRIVERS for level in ("Connection", "Session", "scoped"))]


@pytest.mark.parametrize("kind", SYNC)
def test_bump_and_preview_on_every_connection(fleet: Fleet, database: URL, kind: str) -> None:
    run, new, stale = stale_run(fleet)
    with open_sync(kind, database) as connection:
        assert dagbump.preview(connection) == (
            dagbump.RunPreview(run, "d", "r", new, 2, 1, {"scheduled": 1}, verdict="bump"),
        )
        result = dagbump.bump(connection)
        assert (result.runs, result.bumped, result.locked) == (expected(run, new), 1, 0)
        assert fleet.versions_of([stale]) != [new], "it has committed"
    assert fleet.versions_of([stale]) == [new]


@pytest.mark.parametrize("kind", SYNC)
def test_arguments_on_every_connection(fleet: Fleet, database: URL, kind: str) -> None:
    run, new, _ = stale_run(fleet)
    with open_sync(kind, database) as connection:
        assert dagbump.bump(connection, []).runs == ()
        assert dagbump.bump(connection, dag_ids=[]).runs == ()
        assert dagbump.bump(connection, max_runs=0).runs == ()
        assert dagbump.bump(connection, dag_ids=["it's", 'an"other', "ünknown"]).runs == ()
        assert dagbump.bump(connection, {run}, ("d",), 1, True).runs == expected(run, new)


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
@pytest.mark.parametrize("level", ["AsyncConnection", "AsyncSession"])
def test_abump_on_sqlalchemys_async_connections(fleet: Fleet, database: URL, driver: str, level: str) -> None:
    run, new, stale = stale_run(fleet)

    async def call() -> dagbump.BumpResult:
        engine = create_async_engine(async_url(database, driver))
        try:
            if level == "AsyncConnection":
                async with engine.begin() as connection:
                    return await dagbump.abump(connection, [run], ["d"], 1)
            async with AsyncSession(engine) as session:
                result = await dagbump.abump(session)
                await session.commit()
                return result
        finally:
            await engine.dispose()

    assert asyncio.run(call()).runs == expected(run, new)
    assert fleet.versions_of([stale]) == [new]


def async_url(url: URL, driver: str) -> URL:
    # asyncpg takes the directory of a Unix socket as host, and no URL with an empty host.
    return url.set(drivername=f"postgresql+{driver}")


def test_abump_on_psycopgs_async_connection(fleet: Fleet, database: URL) -> None:
    run, new, stale = stale_run(fleet)

    async def call() -> dagbump.BumpResult:
        async with await psycopg.AsyncConnection.connect(libpq(database)) as connection:
            return await dagbump.abump(connection)

    assert asyncio.run(call()).runs == expected(run, new)
    assert fleet.versions_of([stale]) == [new]


class TestOneCall:
    @pytest.mark.parametrize("kind", SYNC)
    def test_is_one_statement(self, fleet: Fleet, database: URL, kind: str) -> None:
        """As the server counts them, whatever the driver sends around it."""
        stale_run(fleet)
        preloaded = fleet.execute("SHOW shared_preload_libraries").fetchone()
        if preloaded is None or "pg_stat_statements" not in preloaded[0]:
            pytest.skip("this server does not preload pg_stat_statements, as the containers do")
        fleet.execute("CREATE EXTENSION pg_stat_statements")
        with open_sync(kind, database) as connection:
            dagbump.bump(connection)  # the driver's own first statements are behind us
            fleet.execute("SELECT pg_stat_statements_reset()")
            dagbump.bump(connection)
            counted = fleet.execute(
                "SELECT query, calls FROM pg_stat_statements JOIN pg_database AS d ON d.oid = dbid "
                "WHERE d.datname = current_database() AND strpos(query, 'pg_stat_statements') = 0"
            ).fetchall()
        assert [calls for _, calls in counted] == [1], counted

    @pytest.mark.parametrize("kind", SYNC)
    def test_leaves_no_prepared_statement_and_no_setting(self, database: URL, kind: str) -> None:
        with open_sync(kind, database) as connection:
            before = settings(connection)
            for _ in range(12):  # psycopg prepares on the server after five
                dagbump.bump(connection)
                dagbump.preview(connection)
            assert rows(connection, "SELECT name FROM pg_prepared_statements") == []
            assert settings(connection) == before

    def test_leaves_sqlalchemys_own_use_of_prepared_statements_alone(self, database: URL) -> None:
        with open_sync("psycopg Connection", database) as connection:
            dagbump.bump(connection)
            assert connection.connection.driver_connection.prepare_threshold == 5


def rows(connection: Any, statement: str) -> list[tuple[Any, ...]]:
    text = statement.encode() if isinstance(connection, psycopg.Connection) else sa.text(statement)
    return [tuple(row) for row in connection.execute(text).fetchall()]


def settings(connection: Any) -> list[tuple[Any, ...]]:
    return rows(connection, "SELECT name, setting FROM pg_settings WHERE name NOT LIKE 'plpgsql.%' ORDER BY name")


class Base(DeclarativeBase):
    pass


class DagVersion(Base):
    __tablename__ = "dag_version"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    version_number: Mapped[int]


class TaskInstance(Base):
    """As much of Airflow's model as shows what a Session remembers."""

    __tablename__ = "task_instance"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    dag_id: Mapped[str]
    run_id: Mapped[str]
    state: Mapped[str | None]
    hostname: Mapped[str | None]
    updated_at: Mapped[Any] = mapped_column(sa.DateTime(timezone=True))
    version_id: Mapped[UUID | None] = mapped_column("dag_version_id", sa.ForeignKey("dag_version.id"))
    dag_version: Mapped[DagVersion | None] = relationship()


class TestSession:
    """What the session holds in its identity map is right after a bump, and nothing else is thrown away."""

    @pytest.fixture
    def session(self, database: URL) -> Iterator[Session]:
        with open_sync("psycopg Session", database) as session:
            yield session

    def test_bumped_tis_show_their_new_version(self, fleet: Fleet, session: Session) -> None:
        _, new, stale = stale_run(fleet)
        ti = session.get_one(TaskInstance, stale)
        assert ti.dag_version is not None
        assert (ti.version_id != new, ti.dag_version.version_number, ti.updated_at) == (True, 1, None)

        dagbump.bump(session)

        assert (ti.version_id, ti.dag_version.version_number) == (new, 2)
        assert ti.updated_at is not None

    def test_what_the_bump_did_not_touch_stays_loaded(self, fleet: Fleet, session: Session) -> None:
        _, _, stale = stale_run(fleet)
        (other_version,) = fleet.dag("e", versions=1)
        other = fleet.ti(fleet.run("e"), other_version, "queued")
        tis = [session.get_one(TaskInstance, id_) for id_ in (stale, other)]
        assert [ti.dag_version is not None for ti in tis] == [True, True]  # loads it

        dagbump.bump(session)

        columns = {"id", "dag_id", "run_id", "state", "hostname", "updated_at", "version_id"}
        assert set(sa.inspect(tis[0]).dict) & {*columns, "dag_version"} == columns - {"updated_at", "version_id"}
        assert set(sa.inspect(tis[1]).dict) & {*columns, "dag_version"} == {*columns, "dag_version"}

    def test_nothing_is_expired_in_a_steady_loop(self, fleet: Fleet, session: Session) -> None:
        _, _, stale = stale_run(fleet)
        dagbump.bump(session)
        ti = session.get_one(TaskInstance, stale)
        dagbump.bump(session)
        assert sa.inspect(ti).expired_attributes == set()

    def test_pending_changes_are_flushed_first(self, fleet: Fleet, session: Session) -> None:
        """A TI that the session has just finished is not moved."""
        _, new, stale = stale_run(fleet)
        ti = session.get_one(TaskInstance, stale)
        ti.state = "success"
        assert dagbump.bump(session).runs == ()
        assert ti.version_id != new

    def test_without_autoflush_pending_changes_are_kept_for_later(self, fleet: Fleet, session: Session) -> None:
        _, new, stale = stale_run(fleet)
        ti = session.get_one(TaskInstance, stale)
        with session.no_autoflush:
            ti.hostname = "pending"
            assert dagbump.bump(session).bumped == 1
            assert ti.hostname == "pending"
        session.commit()
        session.refresh(ti)
        assert (ti.hostname, ti.version_id) == ("pending", new)


class TestErrors:
    def drop_function(self, fleet: Fleet) -> None:
        fleet.execute("DROP FUNCTION dagbump.bump")

    def drop_schema(self, fleet: Fleet) -> None:
        fleet.execute("DROP SCHEMA dagbump CASCADE")

    def drop_table(self, fleet: Fleet) -> None:
        fleet.execute("DROP TABLE backfill_dag_run")

    def drop_column(self, fleet: Fleet) -> None:
        fleet.execute("ALTER TABLE dag DROP COLUMN is_stale")

    def change_answer(self, fleet: Fleet) -> None:
        fleet.execute("ALTER FUNCTION dagbump.bump RENAME TO bump_v1")
        fleet.execute(
            "CREATE FUNCTION dagbump.bump(dag_run_ids bigint[], dag_ids text[], max_runs int, caller_verifies boolean) "
            "RETURNS TABLE (dag_run_id bigint, dag_id text) LANGUAGE sql AS 'SELECT 1::bigint, $1::text'"
        )

    @pytest.mark.parametrize("kind", SYNC)
    @pytest.mark.parametrize(
        ("broken", "error", "advice"),
        [
            (drop_schema, dagbump.NotInstalled, "dagbump upgrade"),
            (drop_function, dagbump.VersionMismatch, "dagbump upgrade"),
            (change_answer, dagbump.VersionMismatch, "dagbump upgrade"),
            (drop_table, dagbump.UnsupportedAirflow, "airflow db migrate"),
            (drop_column, dagbump.UnsupportedAirflow, "newer dagbump"),
        ],
    )
    def test_say_what_to_do(
        self,
        fleet: Fleet,
        database: URL,
        kind: str,
        broken: Callable[[TestErrors, Fleet], None],
        error: type[dagbump.DagbumpError],
        advice: str,
    ) -> None:
        broken(self, fleet)
        with pytest.raises(error, match=advice), open_sync(kind, database) as connection:
            dagbump.bump(connection)

    @pytest.mark.parametrize("driver", ASYNC_DRIVERS)
    def test_say_it_of_async_connections_too(self, fleet: Fleet, database: URL, driver: str) -> None:
        self.drop_schema(fleet)

        async def call() -> None:
            engine = create_async_engine(async_url(database, driver))
            try:
                async with engine.connect() as connection:
                    await dagbump.abump(connection)
            finally:
                await engine.dispose()

        with pytest.raises(dagbump.NotInstalled, match="dagbump upgrade"):
            asyncio.run(call())

    def test_keep_the_drivers_error_as_their_cause(self, fleet: Fleet, database: URL) -> None:
        self.drop_schema(fleet)
        with open_sync("psycopg", database) as connection, pytest.raises(dagbump.NotInstalled) as raised:
            dagbump.bump(connection)
        assert isinstance(raised.value.__cause__, psycopg.errors.InvalidSchemaName)

    def test_that_are_not_dagbumps_pass_as_they_are(self, connection: psycopg.Connection[Any]) -> None:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="max_runs"):
            dagbump.bump(connection, max_runs=-1)

    def test_a_single_dag_id_is_not_taken_for_its_letters(self, connection: psycopg.Connection[Any]) -> None:
        with pytest.raises(TypeError, match="etl"):
            dagbump.bump(connection, dag_ids="etl")


def test_the_callers_row_factory_and_cursor_are_left_alone(fleet: Fleet, database: URL) -> None:
    run, new, _ = stale_run(fleet)
    with psycopg.connect(libpq(database), cursor_factory=psycopg.ClientCursor) as connection:
        assert dagbump.bump(connection, [run]).runs == expected(run, new)
        assert connection.execute(sql.SQL("SELECT 1")).fetchone() == (1,)
