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
from dagbump import client
from dagbump.results import RunScope
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
from support.fleet import Fleet, serialized_dag
from support.server import libpq

SYNC_DRIVERS = ("psycopg", "psycopg2")
ASYNC_DRIVERS = ("psycopg", "asyncpg")


def stale_run(fleet: Fleet) -> tuple[int, UUID, UUID]:
    """Make a verified run with one stale TI; return the run, the latest version and the stale TI."""
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d", "r")
    fleet.ti(run, new, "success", task_id="finished")
    return run, new, fleet.ti(run, old, "scheduled", task_id="unfinished")


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


@pytest.mark.pair
@pytest.mark.parametrize("kind", SYNC)
def test_bump_and_preview_on_every_connection(fleet: Fleet, database: URL, kind: str) -> None:
    run, new, stale = stale_run(fleet)
    fleet.serialize(new, serialized_dag(["added", "finished"]))
    with open_sync(kind, database) as connection:
        assert dagbump.preview(connection) == (
            dagbump.RunPreview(
                run, "d", "r", new, 2, 1, {"scheduled": 1}, "missing_tasks", 0, ("added",), ("unfinished",)
            ),
        )
        assert client.verify_scope(connection, [run]) == (RunScope(run, ("added",), (), ("unfinished",), False),)
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


@pytest.mark.pair
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


@pytest.mark.pair
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
        """The server counts the statements. What the driver sends around them does not count."""
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
    """The part of Airflow's model that shows what a Session remembers."""

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
    """After a bump, the session's identity map is up to date, and nothing else was expired."""

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
        fleet.execute("DROP TABLE serialized_dag CASCADE")

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
            (drop_table, dagbump.UnsupportedAirflow, "Run: dagbump upgrade"),
            (drop_column, dagbump.UnsupportedAirflow, "Run: dagbump upgrade"),
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


class TestArguments:
    """A wrong argument raises a TypeError whose message shows the right call. No statement is sent."""

    @pytest.mark.parametrize(
        ("arguments", "right"),
        [
            ({"dag_run_ids": "12"}, "dag_run_ids=[17, 18]"),
            ({"dag_run_ids": b"12"}, "dag_run_ids=[17, 18]"),
            ({"dag_run_ids": 12}, "dag_run_ids=[17, 18]"),
            ({"dag_run_ids": ["12"]}, "dag_run_ids=[17, 18]"),
            ({"dag_run_ids": [1.0]}, "dag_run_ids=[17, 18]"),
            ({"dag_run_ids": [True]}, "dag_run_ids=[17, 18]"),
            ({"dag_run_ids": [[1], [2]]}, "dag_run_ids=[17, 18]"),
            ({"dag_ids": "etl"}, r"dag_ids=\['etl'\]"),
            ({"dag_ids": b"etl"}, r"dag_ids=\['etl'\]"),
            ({"dag_ids": bytearray(b"etl")}, r"dag_ids=\['etl'\]"),
            ({"dag_ids": [b"etl"]}, r"dag_ids=\['etl'\]"),
            ({"dag_ids": [["etl"]]}, r"dag_ids=\['etl'\]"),
            ({"dag_ids": [1]}, r"dag_ids=\['etl'\]"),
            ({"max_runs": True}, "max_runs=20"),
            ({"max_runs": 2.0}, "max_runs=20"),
            ({"max_runs": "2"}, "max_runs=20"),
            ({"caller_verifies": "false"}, "caller_verifies=False"),
            ({"caller_verifies": 1}, "caller_verifies=False"),
            ({"caller_verifies": None}, "caller_verifies=False"),
        ],
    )
    def test_of_every_function(self, fleet: Fleet, database: URL, arguments: dict[str, Any], right: str) -> None:
        _, new, stale = stale_run(fleet)
        right = right.replace("[17", r"\[17").replace("18]", r"18\]")
        with open_sync("psycopg Connection", database) as connection:
            for function in (dagbump.bump, dagbump.preview):
                with pytest.raises(TypeError, match=rf"dagbump\.{function.__name__}\(connection, {right}\)"):
                    function(connection, **arguments)

        async def call() -> None:
            async with await psycopg.AsyncConnection.connect(libpq(database)) as connection:
                await dagbump.abump(connection, **arguments)

        with pytest.raises(TypeError, match=right):
            asyncio.run(call())
        assert fleet.versions_of([stale]) != [new]

    def test_that_mean_the_same_are_taken(self, fleet: Fleet, connection: psycopg.Connection[Any]) -> None:
        class Number:
            """An integer of another library, such as numpy's."""

            def __init__(self, value: int) -> None:
                self.value = value

            def __index__(self) -> int:
                return self.value

        class Text(str):
            __slots__ = ()

        run, new, _ = stale_run(fleet)
        ids: Any = (Number(number) for number in (run,))
        dag_ids = {Text("d"): None}.keys()
        limit: Any = Number(1)
        assert dagbump.bump(connection, ids, dag_ids, limit).runs == expected(run, new)

    def test_none_in_a_list_is_the_servers_to_refuse(self, connection: psycopg.Connection[Any]) -> None:
        ids: Any = [None]
        for arguments in ({"dag_run_ids": ids}, {"dag_ids": ids}):
            connection.rollback()
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="must not contain NULL"):
                dagbump.bump(connection, **arguments)


class TestConnections:
    """A wrong object, or a connection for the other kind of call, raises a TypeError whose message shows the right
    call.
    """

    def test_of_no_kind(self, database: URL) -> None:
        url = database.set(drivername="postgresql+psycopg")
        engine, async_engine = sa.create_engine(url), create_async_engine(url)
        with psycopg.connect(libpq(database)) as connection:
            for wrong in (engine, sessionmaker(engine), async_engine, connection.cursor(), libpq(database), None):
                not_one: Any = wrong
                for function in (dagbump.bump, dagbump.preview):
                    with pytest.raises(
                        TypeError, match=rf"engine\.begin.*: dagbump\.{function.__name__}\(connection\)"
                    ):
                        function(not_one)
                with pytest.raises(TypeError, match=r"async with .*: await dagbump\.abump\(connection\)"):
                    asyncio.run(dagbump.abump(not_one))
        engine.dispose()

    @pytest.mark.parametrize("kind", SYNC)
    def test_of_sync_code_are_not_for_abump(self, database: URL, kind: str) -> None:
        with open_sync(kind, database) as connection, pytest.raises(TypeError, match=r": dagbump\.bump\(connection\)"):
            asyncio.run(dagbump.abump(connection))

    @pytest.mark.parametrize("function", [dagbump.bump, dagbump.preview])
    def test_of_async_code_are_for_abump(self, database: URL, function: Callable[[Any], object]) -> None:
        async def call() -> None:
            engine = create_async_engine(async_url(database, "asyncpg"))
            async with (
                await psycopg.AsyncConnection.connect(libpq(database)) as own,
                engine.connect() as connection,
                AsyncSession(engine) as session,
            ):
                for wrong in (own, connection, session):
                    with pytest.raises(TypeError, match=r"await dagbump\.abump\(connection\)"):
                        function(wrong)
            await engine.dispose()

        asyncio.run(call())


class TestPsycopg:
    @pytest.mark.parametrize("factory", [psycopg.ClientCursor, psycopg.RawCursor, psycopg.ServerCursor])
    def test_the_callers_row_factory_and_cursor_are_left_alone(
        self, fleet: Fleet, database: URL, factory: type[psycopg.Cursor[Any]]
    ) -> None:
        run, new, _ = stale_run(fleet)
        with psycopg.connect(libpq(database)) as connection:
            connection.cursor_factory = factory
            assert dagbump.preview(connection, [run])[0].verdict == "bump"
            assert dagbump.bump(connection, [run]).runs == expected(run, new)
            assert connection.cursor_factory is factory
            connection.cursor_factory = psycopg.Cursor
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_the_callers_async_cursor_is_left_alone(self, fleet: Fleet, database: URL) -> None:
        run, new, _ = stale_run(fleet)

        async def call() -> dagbump.BumpResult:
            async with await psycopg.AsyncConnection.connect(
                libpq(database), cursor_factory=psycopg.AsyncRawCursor
            ) as connection:
                return await dagbump.abump(connection, [run])

        assert asyncio.run(call()).runs == expected(run, new)

    def test_in_a_pipeline_it_works(self, fleet: Fleet, database: URL) -> None:
        run, new, _ = stale_run(fleet)
        with psycopg.connect(libpq(database)) as connection, connection.pipeline():
            connection.execute("SELECT 1")
            assert dagbump.bump(connection, [run]).runs == expected(run, new)

    def test_in_a_pipeline_an_earlier_error_of_the_callers_comes_out_as_itself(self, database: URL) -> None:
        def call() -> None:
            with psycopg.connect(libpq(database)) as connection, connection.pipeline():
                connection.execute("SELECT FROM nosuch")
                dagbump.bump(connection)

        with pytest.raises(psycopg.errors.UndefinedTable, match="nosuch"):
            call()

        async def acall() -> None:
            async with await psycopg.AsyncConnection.connect(libpq(database)) as connection, connection.pipeline():
                await connection.execute("SELECT FROM nosuch")
                await dagbump.abump(connection)

        with pytest.raises(psycopg.errors.UndefinedTable, match="nosuch"):
            asyncio.run(acall())
