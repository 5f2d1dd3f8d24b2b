"""What bump reads in a large database does not depend on the statistics.

The database has a million finished TIs, a DAG with 2,000 versions, and twenty examined runs. The server's own counters
tell what is read. Before that, one connection has made enough calls to get a generic plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump import client
from dagbump.results import RunScope
from sqlalchemy.engine import URL
from support.fleet import Fleet, serialized_dag
from support.optional_index import build_optional_index
from support.releases import environments
from support.server import Server, libpq

pytestmark = pytest.mark.server

Connection = psycopg.Connection[Any]

EXAMINED_RUNS = 20
TIS_PER_RUN = 100
FINISHED_RUNS = 1_000
TIS_PER_FINISHED_RUN = 1_000
VERSIONS = 2_000
DAGS = 2
TASKS = 5  # of the latest version, none of which is in a run

FORGET = """
    DELETE FROM pg_statistic WHERE starelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace);
    UPDATE pg_class SET reltuples = {reltuples}, relpages = 0
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i');
"""
# Each is made from the one before it.
STATISTICS = {
    "analyzed when each DAG had one run": "",
    "analyzed when it was empty": FORGET.format(reltuples=0),
    "never analyzed, as after a restore": FORGET.format(reltuples=-1),
    "analyzed as it is": "ANALYZE",
}

FILL = """
    INSERT INTO dag_version (id, dag_id, version_number, created_at, last_updated)
    SELECT gen_random_uuid(), 'many', number, now(), now() FROM generate_series(3, %(versions)s) AS number;

    INSERT INTO serialized_dag (id, dag_id, dag_version_id, dag_hash, data, created_at, last_updated)
    SELECT gen_random_uuid(), dag_id, id, '', '{{}}', now(), now() FROM dag_version WHERE version_number > 2;

    INSERT INTO dag_run (dag_id, run_id, run_type, state, run_after {span_column})
    SELECT dag.dag_id, 'finished_' || number, 'manual', 'success', now() {span}
    FROM dag, generate_series(%(first)s, %(last)s) AS number;

    INSERT INTO task_instance (
        id, dag_id, run_id, task_id, state, dag_version_id, pool, pool_slots, try_number, max_tries {span_column}
    )
    SELECT gen_random_uuid(), run.dag_id, run.run_id, 'task_' || number, 'success', version.id, '', 1, 1, 0 {span}
    FROM dag_run AS run
    JOIN dag_version AS version ON version.dag_id = run.dag_id AND version.version_number = 1
    CROSS JOIN generate_series(1, %(tis)s) AS number
    WHERE run.run_id LIKE 'finished%%' AND substr(run.run_id, 10)::int BETWEEN %(first)s AND %(last)s;

    INSERT INTO {past_tries} (
        {past_try_id}, dag_id, run_id, task_id, state, dag_version_id, pool, pool_slots, try_number, max_tries
        {past_columns} {span_column}
    )
    SELECT gen_random_uuid(), dag_id, run_id, task_id, 'failed', dag_version_id, '', 1, 0, 0 {past} {span}
    FROM task_instance
    WHERE task_id IN ('task_1', 'task_2', 'task_3') AND substr(run_id, 10)::int BETWEEN %(first)s AND %(last)s;
"""
TRIES_APART = environments.number() < (3, 4)
_SPAN = {"span_column": ", span_status", "span": ", 'ended'"} if TRIES_APART else {"span_column": "", "span": ""}
_PAST_TRIES = (
    {"past_tries": "task_instance_history", "past_try_id": "task_instance_id", "past_columns": "", "past": ""}
    if TRIES_APART
    else {
        "past_tries": "task_instance",
        "past_try_id": "id",
        "past_columns": ", working_set, archived_reason",
        "past": ", NULL, 'retry'",
    }
)
FILL = FILL.format(**_SPAN, **_PAST_TRIES)


@pytest.fixture(scope="module")
def large(postgres: Server, dagbump_template: str) -> Iterator[URL]:
    with postgres.temporary_database(dagbump_template) as url:
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            tables = connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'").fetchall()
            for (table,) in tables:
                if not table.startswith(("pg_", "information_schema.")):
                    connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
            connection.execute("SET session_replication_role = replica")  # a million foreign-key checks take a minute
            fill(Fleet(connection), connection)
        yield url


def fill(fleet: Fleet, connection: Connection) -> None:
    for dag_id in ("many", "few"):
        fleet.dag(dag_id, versions=2)
    cursor = psycopg.ClientCursor(connection)
    cursor.execute(FILL, {"versions": 2, "first": 1, "last": 1, "tis": TIS_PER_FINISHED_RUN})
    cursor.execute("ANALYZE")
    cursor.execute(FILL, {"versions": VERSIONS, "first": 2, "last": FINISHED_RUNS // 2, "tis": TIS_PER_FINISHED_RUN})
    for number in range(EXAMINED_RUNS):
        dag_id = ("many", "few")[number % 2]
        latest = connection.execute(
            "SELECT id FROM dag_version WHERE dag_id = %s ORDER BY version_number DESC LIMIT 1", (dag_id,)
        ).fetchone()
        assert latest is not None
        fleet.serialize(latest[0], serialized_dag(f"missing_{number}" for number in range(TASKS)))
        fleet.tis(fleet.run(dag_id), latest[0], ["success", "running", "scheduled", None] * (TIS_PER_RUN // 4))


@pytest.fixture(scope="module", params=STATISTICS)
def statistics(request: pytest.FixtureRequest, large: URL) -> str:
    with psycopg.connect(libpq(large), autocommit=True) as connection:
        if STATISTICS[request.param]:
            connection.execute(STATISTICS[request.param].encode())
    name: str = request.param
    return name


@pytest.fixture(params=[False, True], ids=["without the index", "with the index"])
def indexed(request: pytest.FixtureRequest, large: URL, statistics: str) -> Iterator[bool]:
    with psycopg.connect(libpq(large), autocommit=True) as connection:
        if request.param:
            build_optional_index(connection)
            if statistics == "never analyzed, as after a restore":
                connection.execute("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relname = 'task_instance'")
        yield request.param
        connection.execute("DROP INDEX IF EXISTS dagbump_ti_unfinished")


@pytest.fixture
def warm(large: URL, indexed: bool) -> Iterator[Connection]:
    """A connection on which bump has been called often enough for a generic plan, were it not the first already."""
    assert indexed in {False, True}
    with psycopg.connect(libpq(large)) as connection:
        for _ in range(7):
            assert dagbump.bump(connection, caller_verifies=True).runs == ()
            connection.commit()
        yield connection
        connection.rollback()


@dataclass(frozen=True)
class Reads:
    """The rows that were read by index, by table, and the tables that were read sequentially."""

    by_index: Counter[str]
    sequentially: set[str]


def reads_of(connection: Connection, work: Callable[[], object]) -> Reads:
    """Do some work and return what it has read."""
    before = _counters(connection)
    work()
    after = _counters(connection)
    rows, scans = (Counter({name: row[field] for name, row in after.items()}) for field in (0, 1))
    rows.subtract({name: row[0] for name, row in before.items()})
    scans.subtract({name: row[1] for name, row in before.items()})
    return Reads(rows, {name for name, count in scans.items() if count})


def _counters(connection: Connection) -> dict[str, tuple[int, int]]:
    rows = connection.execute(
        "SELECT relname, idx_tup_fetch, seq_scan FROM pg_stat_xact_user_tables WHERE schemaname = 'public'"
    )
    return {name: (fetched or 0, scans) for name, fetched, scans in rows}


def buffers(connection: Connection, statement: str) -> int:
    """Return the pages that a statement touches, those inside functions included."""
    (plan,) = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}".encode()).fetchone() or ([],)
    root = plan[0]["Plan"]
    pages: int = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    return pages


@pytest.mark.parametrize("report_all", [False, True], ids=["what is due", "report_all"])
def test_a_steady_loop_reads_the_examined_runs_and_nothing_else(
    warm: Connection, indexed: bool, report_all: bool
) -> None:
    ids = [id_ for (id_,) in warm.execute("SELECT id FROM dag_run WHERE state = 'running'")]

    def loop() -> None:
        result = dagbump.bump(warm, ids, caller_verifies=True, report_all=report_all)
        assert len(result.runs) == (EXAMINED_RUNS if report_all else 0)

    read = reads_of(warm, loop)

    assert read.sequentially == set()
    # With the index: the TIs with the lowest and the highest version of each run.
    assert read.by_index["task_instance"] == EXAMINED_RUNS * (2 if indexed else TIS_PER_RUN)
    assert read.by_index["task_instance_history"] == 0
    # A bitmap scan counts a row twice.
    for table in ("dag_run", "dag", "dag_version", "serialized_dag"):
        assert read.by_index[table] <= 2 * EXAMINED_RUNS, table


@pytest.mark.parametrize("caller_verifies", ["FALSE", "TRUE"])
@pytest.mark.parametrize("report_all", ["FALSE", "TRUE"])
def test_a_steady_loop_touches_few_pages(
    warm: Connection, indexed: bool, report_all: str, caller_verifies: str
) -> None:
    """The count of pages shows index entries that were skipped; the counters of rows do not."""
    # Per run: dag, dag_version, serialized_dag and the TIs, each by an index of up to four levels.
    per_run = 40 if indexed else 40 + 2 * TIS_PER_RUN
    statement = f"SELECT * FROM dagbump.bump(caller_verifies => {caller_verifies}, report_all => {report_all})"
    warm.execute(statement.encode())  # a plan that is made touches catalogs
    assert buffers(warm, statement) <= EXAMINED_RUNS * per_run


def test_a_loop_in_which_a_version_lands_reads_the_examined_runs_and_nothing_else(warm: Connection) -> None:
    fleet = Fleet(warm)
    fleet.version("many", VERSIONS + 1)
    fleet.version("few", 3)
    results: list[dagbump.BumpResult] = []

    read = reads_of(warm, lambda: results.append(dagbump.bump(warm, caller_verifies=True)))

    assert results[0].bumped == EXAMINED_RUNS * TIS_PER_RUN * 3 // 4
    assert len(results[0].needs_verify) == EXAMINED_RUNS
    assert read.sequentially == set()
    assert read.by_index["task_instance_history"] == 0  # the examined runs have none
    # Looked at to find and to verify the run, to count and to lock.
    assert read.by_index["task_instance"] <= EXAMINED_RUNS * TIS_PER_RUN * 4


def test_runs_that_wait_for_airflow_touch_few_pages(warm: Connection) -> None:
    fleet = Fleet(warm)
    fleet.version("many", VERSIONS + 1)
    fleet.version("few", 3)
    assert len(dagbump.bump(warm).needs_verify) == EXAMINED_RUNS
    assert buffers(warm, "SELECT * FROM dagbump.bump()") <= EXAMINED_RUNS * (40 + 3 * TIS_PER_RUN)


def test_a_list_of_runs_and_a_limit_read_no_more(warm: Connection) -> None:
    ids = [id_ for (id_,) in warm.execute("SELECT id FROM dag_run WHERE state = 'running'")]

    read = reads_of(warm, lambda: dagbump.bump(warm, ids, ["many", "few"], 1_000, caller_verifies=True))

    assert read.sequentially <= {"backfill_dag_run"}  # which has no index on dag_run_id; a limit asks for its order
    # The call reads a run for the limit, for the candidates, and when it judges the run.
    assert read.by_index["dag_run"] <= 4 * EXAMINED_RUNS


def test_preview_reads_the_running_runs_and_nothing_else(warm: Connection) -> None:
    read = reads_of(warm, lambda: dagbump.preview(warm))

    assert read.sequentially == set()
    assert read.by_index["task_instance"] <= 2 * EXAMINED_RUNS * TIS_PER_RUN  # their versions, and their tasks
    assert read.by_index["serialized_dag"] <= 2 * EXAMINED_RUNS + DAGS  # there to be judged; and to be unpacked


def test_verify_scope_reads_the_runs_and_nothing_else_and_each_version_once(warm: Connection) -> None:
    ids = [id_ for (id_,) in warm.execute("SELECT id FROM dag_run WHERE state = 'running'")]
    scopes: list[RunScope] = []

    read = reads_of(warm, lambda: scopes.extend(client.verify_scope(warm, ids)))

    assert [len(scope.missing_tasks or ()) for scope in scopes] == [TASKS] * EXAMINED_RUNS
    assert read.sequentially == set()
    assert read.by_index["task_instance"] <= EXAMINED_RUNS * TIS_PER_RUN
    assert read.by_index["dag_run"] <= 2 * EXAMINED_RUNS
    assert read.by_index["serialized_dag"] == DAGS


def test_a_limit_looks_at_no_more_runs_than_it_must(warm: Connection) -> None:
    """Five thousand more running runs: they are sorted, and only the first are judged."""
    warm.execute(
        f"""
        INSERT INTO dag_run (
            dag_id, run_id, run_type, state, run_after, last_scheduling_decision {_SPAN["span_column"]}
        )
        SELECT 'many', 'crowd_' || number, 'manual', 'running', now() - interval '1 hour', now() {_SPAN["span"]}
        FROM generate_series(1, 5000) AS number
        """
    )
    for _ in range(2):  # with a plan from before, and with one made now
        read = reads_of(warm, lambda: dagbump.bump(warm, max_runs=20, caller_verifies=True))
        assert read.sequentially <= {"backfill", "backfill_dag_run"}
        for table in ("dag", "dag_version", "serialized_dag"):
            assert read.by_index[table] <= 10 * EXAMINED_RUNS, (table, read.by_index[table])
        assert read.by_index["task_instance"] <= 2 * EXAMINED_RUNS * TIS_PER_RUN
        warm.execute("DISCARD PLANS")
