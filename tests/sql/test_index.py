"""The optional partial index: built without blocking anybody, cleaned up after a cut, and used by bump."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump.database import create_engine
from dagbump.installation import installer, shapes, state
from sqlalchemy.engine import URL
from support.fleet import Fleet
from support.processes import ALEMBIC, DAGBUMP, command, running
from support.releases import environments
from support.server import Connect, dump_schema, libpq, run_client
from support.waits import until

pytestmark = pytest.mark.server

WITH_INDEX = (*DAGBUMP, "upgrade", "--with-index")
STATE = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('dagbump_ti_unfinished')"


def index_state(fleet: Fleet) -> tuple[bool, ...] | None:
    return fleet.execute(STATE).fetchone()


def build(url: URL) -> None:
    installer.upgrade(create_engine(libpq(url)), installer.NEWEST_INDEX, on_progress=lambda _: None)


@pytest.fixture
def long_transaction(connect: Connect) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that a concurrent build has to wait for: it has written to the table."""
    connection = connect()
    connection.execute("UPDATE task_instance SET hostname = 'held' WHERE FALSE")
    yield connection
    connection.rollback()


def until_building(fleet: Fleet) -> None:
    """Return when the index is in the catalog, invalid yet, and the build waits."""
    until(lambda: index_state(fleet) == (False,), lambda: "the index is being built")


@pytest.mark.parametrize("words", [pytest.param(WITH_INDEX, marks=pytest.mark.pair), (*ALEMBIC, "upgrade", "heads")])
def test_is_built_and_removed_again(airflow_database: URL, words: tuple[str, ...]) -> None:
    before = dump_schema(airflow_database)
    for _ in range(2):  # the second time there is nothing to do
        done = command(*words, DAGBUMP_URL=libpq(airflow_database))
        assert done.returncode == 0, done.stderr
    with psycopg.connect(libpq(airflow_database)) as connection:
        assert connection.execute(STATE).fetchone() == (True,)
        assert connection.execute(
            "SELECT obj_description('dagbump_ti_unfinished'::regclass) LIKE '%downgrade index@base%'"
        ).fetchone() == (True,)
        assert connection.execute("SELECT version_num FROM dagbump.alembic_version ORDER BY 1").fetchall() == [
            (state.NEWEST_REVISION,),
            ("index_0001",),
        ]

    assert command(*DAGBUMP, "downgrade", DAGBUMP_URL=libpq(airflow_database)).returncode == 0
    assert dump_schema(airflow_database) == before


def test_the_plain_upgrade_leaves_it_out_and_alone(fleet: Fleet, database: URL) -> None:
    assert index_state(fleet) is None
    build(database)
    for words in ((*DAGBUMP, "upgrade"), (*ALEMBIC, "upgrade", "head")):
        done = command(*words, DAGBUMP_URL=libpq(database))
        assert done.returncode == 0, done.stderr
    assert index_state(fleet) == (True,)


@pytest.mark.parametrize("recorded", [True, False])
def test_one_that_was_built_for_other_tables_is_built_anew_by_a_plain_upgrade(
    fleet: Fleet, database: URL, recorded: bool
) -> None:
    """As after an `airflow db migrate` to 3.4. The shape is not recorded, because the upgrade was cut off before the
    index.
    """
    if recorded:
        build(database)
    fleet.execute("DROP INDEX IF EXISTS dagbump_ti_unfinished")
    # Whether the predicate names that column is what tells them apart.
    others = "'working_set'" if environments.shape() is shapes.FIRST else "''"
    fleet.execute(
        "CREATE INDEX dagbump_ti_unfinished ON task_instance (dag_id, run_id, dag_version_id) "
        f"WHERE coalesce(state, '') <> {others}"
    )
    with psycopg.connect(libpq(database)) as connection:
        found = {item.item: item for item in dagbump.check(connection)}
    assert not found["optional index"].ok
    assert "Run `dagbump upgrade`, which builds it anew" in found["optional index"].detail

    done = command(*DAGBUMP, "upgrade", DAGBUMP_URL=libpq(database))

    assert done.returncode == 0, done.stderr
    assert index_state(fleet) == (True,)
    (definition,) = fleet.execute("SELECT pg_get_indexdef('dagbump_ti_unfinished'::regclass)").fetchone() or ("",)
    assert "upstream_failed" in definition
    with psycopg.connect(libpq(database)) as connection:
        assert all(item.ok for item in dagbump.check(connection))


def test_it_can_be_removed_alone(fleet: Fleet, database: URL) -> None:
    before = dump_schema(database)
    build(database)
    done = command(*DAGBUMP, "downgrade", "index@base", DAGBUMP_URL=libpq(database))
    assert done.returncode == 0, done.stderr
    assert index_state(fleet) is None
    assert dump_schema(database) == before
    assert f"revision {state.NEWEST_REVISION}, is installed" in done.stdout


def test_the_printed_script_applies_with_psql(airflow_database: URL, database: URL) -> None:
    build(database)
    script = command(*WITH_INDEX, "--sql", "--airflow-shape", environments.shape().key).stdout
    run_client("psql", airflow_database, "--no-psqlrc", "--set=ON_ERROR_STOP=1", stdin=script)
    assert dump_schema(airflow_database) == dump_schema(database)


@pytest.mark.slow
def test_five_builds_at_once_end_with_one_index_and_no_error(airflow_database: URL) -> None:
    with ThreadPoolExecutor(5) as pool:
        runs = list(pool.map(lambda _: command(*WITH_INDEX, DAGBUMP_URL=libpq(airflow_database)), range(5)))
    assert [done.returncode for done in runs] == [0] * 5, [done.stderr for done in runs]


def test_a_build_blocks_no_write(
    fleet: Fleet, database: URL, connect: Connect, long_transaction: psycopg.Connection[Any]
) -> None:
    (version,) = fleet.dag("d", versions=1)
    with running(*WITH_INDEX, DAGBUMP_URL=libpq(database)) as process:
        until_building(fleet)
        writer = connect(options="-c lock_timeout=50ms")
        Fleet(writer).ti(fleet.run("d"), version, "queued")
        assert dagbump.bump(writer).runs == ()
        writer.commit()
        long_transaction.rollback()
        assert process.finish(timeout=20) == 0
    assert index_state(fleet) == (True,)


def test_ctrl_c_leaves_nothing_behind(fleet: Fleet, database: URL, long_transaction: psycopg.Connection[Any]) -> None:
    with running(*WITH_INDEX, DAGBUMP_URL=libpq(database)) as process:
        until_building(fleet)
        process.process.send_signal(signal.SIGINT)
        # Dropping what there is of the index, concurrently, waits for that transaction too.
        dropping = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND starts_with(query, 'DROP INDEX')"
        )
        until(lambda: fleet.execute(dropping).fetchone() is not None, lambda: "what there is of the index is dropped")
        long_transaction.rollback()
        assert process.finish(timeout=20) == 130
    assert index_state(fleet) is None


def test_a_build_that_was_cut_off_is_cleaned_up_by_the_next(
    fleet: Fleet, database: URL, long_transaction: psycopg.Connection[Any]
) -> None:
    with running(*WITH_INDEX, DAGBUMP_URL=libpq(database)) as process:
        until_building(fleet)
        process.process.kill()
        process.finish(timeout=5)
    builds = "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE datname = current_database()"
    until(lambda: fleet.execute(builds).fetchone() is None, lambda: "the build's backend has gone")
    assert index_state(fleet) == (False,)
    long_transaction.rollback()

    build(database)
    assert index_state(fleet) == (True,)


def test_an_invalid_index_is_not_relied_on(fleet: Fleet, database: URL, connection: psycopg.Connection[Any]) -> None:
    build(database)
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    fleet.ti(run, new, "success")
    fleet.execute("UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'dagbump_ti_unfinished'::regclass")
    fleet.ti(run, old, "queued")
    assert dagbump.bump(connection).bumped == 1


READ = "SELECT seq_scan, seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'task_instance'"


class TestUntilItIsValid:
    """Until the index is valid, no call relies on it. A steady call reads the TIs of the examined runs, and no
    others.
    """

    @pytest.fixture
    def steady(self, fleet: Fleet) -> int:
        """An examined run with three TIs, and an ended run with many. Return how many TIs a call may read."""
        (version,) = fleet.dag("d", versions=1)
        fleet.tis(fleet.run("d", state="success"), version, ["success"] * 300)
        fleet.tis(fleet.run("d"), version, ["queued", "scheduled", None])
        fleet.execute("ANALYZE")
        return 6  # a bitmap scan counts a row twice

    def reads(self, connection: psycopg.Connection[Any]) -> tuple[int, int]:
        """Return how many sequential scans of task_instance one call makes, and how many of its rows it reads."""
        before = connection.execute(READ).fetchone() or (0, 0)
        assert dagbump.bump(connection, caller_verifies=True).runs == ()
        after = connection.execute(READ).fetchone() or (0, 0)
        connection.commit()
        return after[0] - before[0], after[1] - before[1]

    def reads_only_examined(self, connection: psycopg.Connection[Any], at_most: int) -> None:
        scans, rows = self.reads(connection)
        assert scans == 0
        assert 2 < rows <= at_most

    def test_while_it_is_built_and_after_it_was_dropped(
        self, steady: int, fleet: Fleet, database: URL, connection: psycopg.Connection[Any], connect: Connect
    ) -> None:
        """On one connection throughout, whose plans are cached."""
        self.reads_only_examined(connection, steady)
        writer = connect()
        writer.execute("UPDATE task_instance SET hostname = 'held' WHERE FALSE")
        with running(*WITH_INDEX, DAGBUMP_URL=libpq(database)) as process:
            until_building(fleet)
            self.reads_only_examined(connection, steady)
            writer.rollback()
            assert process.finish(timeout=20) == 0
        assert self.reads(connection) == (0, 2)  # the lowest and the highest version
        fleet.execute("DROP INDEX dagbump_ti_unfinished")
        self.reads_only_examined(connection, steady)
        build(database)
        assert self.reads(connection) == (0, 2)

    def test_where_a_build_was_cut_off(
        self, steady: int, fleet: Fleet, database: URL, connection: psycopg.Connection[Any]
    ) -> None:
        build(database)
        fleet.execute("UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'dagbump_ti_unfinished'::regclass")
        self.reads_only_examined(connection, steady)


class TestWhatIsThereCountsNotWhatIsRecorded:
    @pytest.mark.parametrize(
        "damage",
        [
            "DROP INDEX dagbump_ti_unfinished",  # as `airflow db reset` does
            # As a DROP INDEX CONCURRENTLY leaves it that was cut off while it waited.
            "UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'dagbump_ti_unfinished'::regclass",
        ],
    )
    def test_an_upgrade_says_so_and_builds_it_again(self, fleet: Fleet, database: URL, damage: str) -> None:
        build(database)
        fleet.connection.execute(damage.encode())
        done = command(*DAGBUMP, "upgrade", DAGBUMP_URL=libpq(database))
        assert (done.returncode, "--with-index" in done.stdout) == (0, True), done.stderr
        assert index_state(fleet) != (True,)

        done = command(*WITH_INDEX, DAGBUMP_URL=libpq(database))
        assert done.returncode == 0, done.stderr
        assert index_state(fleet) == (True,)
        assert "The optional index is there" in done.stdout

    def test_a_downgrade_removes_one_that_is_not_recorded(
        self, fleet: Fleet, database: URL, airflow_database: URL
    ) -> None:
        build(database)
        fleet.connection.execute("DELETE FROM dagbump.alembic_version")
        assert command(*DAGBUMP, "downgrade", DAGBUMP_URL=libpq(database)).returncode == 0
        assert dump_schema(database) == dump_schema(airflow_database)


@pytest.mark.parametrize("theirs", ["task_instance (state)", "job (state)"])
def test_something_else_of_its_name_is_left_alone(fleet: Fleet, database: URL, theirs: str) -> None:
    fleet.connection.execute(f"CREATE INDEX dagbump_ti_unfinished ON {theirs}".encode())
    done = command(*WITH_INDEX, DAGBUMP_URL=libpq(database))
    assert done.returncode == 1
    assert "is not the optional index" in done.stderr
    assert command(*DAGBUMP, "downgrade", DAGBUMP_URL=libpq(database)).returncode == 0
    assert index_state(fleet) == (True,)


def test_a_build_whose_backend_ends_is_told_in_a_line(
    fleet: Fleet, database: URL, long_transaction: psycopg.Connection[Any]
) -> None:
    with running(*WITH_INDEX, DAGBUMP_URL=libpq(database)) as process:
        until_building(fleet)
        fleet.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
        assert process.finish(timeout=20) == 3
    assert process.count("Traceback") == 0
    assert process.count("the connection was lost") == 1
    long_transaction.rollback()
    build(database)
    assert index_state(fleet) == (True,)


@pytest.mark.parametrize("words", [WITH_INDEX, (*DAGBUMP, "downgrade")])
def test_whom_it_waits_for_is_said(database: URL, connect: Connect, words: tuple[str, ...]) -> None:
    """Once for each, in a pipe too."""
    if words != WITH_INDEX:
        build(database)
    holders = [connect(application_name=f"nightly report {number}") for number in range(2)]
    for holder in holders:
        holder.execute("UPDATE task_instance SET hostname = 'held' WHERE FALSE")
    pids = [holder.info.backend_pid for holder in holders]
    with running(*words, DAGBUMP_URL=libpq(database)) as process:
        process.until_printed("waits for process")
        # Whom first is the server's to say.
        for holder in sorted(holders, key=lambda holder: process.count(f"process {holder.info.backend_pid} ") == 0):
            process.until_printed(f"dagbump_ti_unfinished waits for process {holder.info.backend_pid} (nightly report")
            holder.rollback()
        assert process.finish(timeout=20) == 0
        assert [process.count(f"process {pid} (") for pid in pids] == [1, 1]


def test_a_second_build_that_waits_for_its_turn_ends_with_ctrl_c(
    fleet: Fleet, database: URL, long_transaction: psycopg.Connection[Any]
) -> None:
    with running(*WITH_INDEX, DAGBUMP_URL=libpq(database)) as first:
        until_building(fleet)
        with running(*WITH_INDEX, DAGBUMP_URL=libpq(database)) as second:
            second.until_printed("waits for process")
            second.process.send_signal(signal.SIGINT)
            assert second.finish(timeout=10) == 130
        long_transaction.rollback()
        assert first.finish(timeout=20) == 0
    assert index_state(fleet) == (True,)


def test_create_inside_a_transaction_is_refused(database: URL) -> None:
    script = command(*WITH_INDEX, "--sql", "--airflow-shape", environments.shape().key).stdout
    create = script[script.index("CREATE INDEX") :].split(";")[0]
    with psycopg.connect(libpq(database)) as connection, pytest.raises(psycopg.errors.ActiveSqlTransaction):
        connection.execute(create.encode())
