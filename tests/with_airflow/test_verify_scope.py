"""dagbump.verify_scope beside Airflow's own verify_integrity, on DAGs that Airflow has serialized, and on broken ones.

The release is `environments.release`. Airflow serializes into a column of type json up to 3.1, and of type jsonb from
3.2 on.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import product
from pathlib import Path
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump import client
from dagbump.results import RunScope
from psycopg.types.json import Json
from sqlalchemy.engine import URL
from support import server
from support.fleet import Fleet
from support.releases import environments
from support.releases.worker import Worker, start_worker

pytestmark = pytest.mark.tables

Connection = psycopg.Connection[Any]

RELEASE = tuple(map(int, environments.release().split(".")[:2]))

# ---- DAGs that Airflow has serialized ----

HEAD = """\
from datetime import datetime, timedelta, timezone

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, TaskGroup, task_group

D2020, D2024, D2028 = (datetime(year, 1, 1, 0, 0, 0, 123457, timezone.utc) for year in (2020, 2024, 2028))


def task(task_id, **arguments):
    return BashOperator(task_id=task_id, bash_command="true", **arguments)


def mapped(task_id, commands, **arguments):
    return BashOperator.partial(task_id=task_id, **arguments).expand(bash_command=commands)


@task_group
def mapped_group(n):
    task("inner")


@task_group
def body():
    task("inner")

"""
DAGS = {
    "plain": ("schedule=None", 'task("a") >> [task("b"), task("B")] >> task("a.b")'),
    "no_tasks": ("schedule=None", "pass"),
    "ids": (
        "schedule=None",
        'task("é_ü") >> task("日本") >> task("is_mapped") >> task("__var") >> task("-") >> task("null")',
    ),
    "groups": ("schedule=None", 'with TaskGroup("g"), TaskGroup("h"):\n        task("a") >> task("b")'),
    "teardown": ("schedule=None", 's = task("s"); s >> task("w") >> task("t").as_teardown(setups=s)'),
    "dates_of_tasks": (
        "schedule=None",
        'task("early", end_date=D2024) >> task("late", start_date=D2024)'
        ' >> task("both", start_date=D2020, end_date=D2028)'
        ' >> task("never", start_date=D2028, end_date=D2020) >> task("always")',
    ),
    "dates_of_the_dag": (
        "schedule=None, start_date=D2020, end_date=D2028",
        'task("a") >> task("early", end_date=D2024) >> task("late", start_date=D2024)'
        ' >> task("wider", start_date=D2020 - timedelta(days=9), end_date=D2028 + timedelta(days=9))',
    ),
    "default_dates": (
        'schedule=None, default_args={"start_date": D2024, "end_date": D2028}',
        'task("a") >> task("late", start_date=D2028)',
    ),
    "scheduled": ("schedule='@daily', start_date=D2020, catchup=False", 'task("a") >> task("late", start_date=D2024)'),
    "mapped": ("schedule=None", 'task("a") >> mapped("m", ["true"] * 3) >> mapped("late", ["true"], start_date=D2028)'),
    "mapped_group": ("schedule=None", 'task("a") >> mapped_group.expand(n=[1, 2])'),
}
LOOP = {"loop": ("schedule=None", 'task("a") >> body.loop(max_iterations=2)')}  # from 3.4 on
HAVE_MAPPED = {"mapped", "mapped_group"}
DATES = tuple(datetime(year, 1, 1, 0, 0, 0, 123457, timezone.utc) for year in (2020, 2024, 2028))
LOGICAL_DATES = (
    None,
    *(date + timedelta(microseconds=more) for date, more in product(DATES, (-1, 0, 1))),
)


def source(dag_id: str) -> str:
    arguments, tasks = (DAGS | LOOP)[dag_id]
    return HEAD + f'\nwith DAG("{dag_id}", {arguments}):\n    {tasks}\n'


@pytest.fixture(scope="module")
def worker(airflow_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    home = tmp_path_factory.mktemp("airflow")
    environment = {"AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0"}
    with start_worker(environments.release(), airflow_url, home, environment) as worker:
        yield worker


class SerializedDag:
    """A DAG that Airflow has serialized, and a run of it with all task instances, which Airflow has created."""

    def __init__(self, worker: Worker, connection: Connection, dag_id: str) -> None:
        self.worker = worker
        self.connection = connection
        self.dag_id = dag_id
        self.run = 0

    def write(self) -> None:
        self.worker("write_dag", file=f"{self.dag_id}.py", source=source(self.dag_id))
        self.run = self.worker("create_run", dag_id=self.dag_id, run_id="r")

    def scope(self) -> RunScope:
        (scope,) = client.verify_scope(self.connection, [self.run])
        return scope

    def tis(self) -> set[tuple[str, str | None]]:
        return set(
            self.connection.execute("SELECT task_id, state FROM task_instance WHERE dag_id = %s", (self.dag_id,))
        )

    def task_ids(self) -> set[str]:
        return {task for task, _ in self.tis()}

    def change_run(self, logical_date: datetime | None, run_type: str) -> None:
        self.connection.execute(
            "UPDATE dag_run SET logical_date = %s, run_type = %s WHERE id = %s", (logical_date, run_type, self.run)
        )

    def delete(self, *tasks: str) -> None:
        self.connection.execute(
            "DELETE FROM task_instance WHERE dag_id = %s AND task_id = ANY (%s)", (self.dag_id, list(tasks))
        )

    def set_state(self, state: str | None) -> None:
        self.connection.execute("UPDATE task_instance SET state = %s WHERE dag_id = %s", (state, self.dag_id))

    def verify(self) -> None:
        self.worker("verify_run", run=self.run)


@pytest.fixture(params=DAGS)
def dag(request: pytest.FixtureRequest, worker: Worker, airflow_url: URL) -> Iterator[SerializedDag]:
    with psycopg.connect(server.libpq(airflow_url), autocommit=True) as connection:
        dag = SerializedDag(worker, connection, request.param)
        dag.write()
        yield dag
        worker("abandon")
        connection.execute("DELETE FROM dag_run")


@pytest.mark.airflow
@pytest.mark.skipif(RELEASE < (3, 4), reason="Airflow has no loops yet")
def test_what_a_loop_lacks_cannot_be_told(worker: Worker, airflow_url: URL) -> None:
    with psycopg.connect(server.libpq(airflow_url), autocommit=True) as connection:
        dag = SerializedDag(worker, connection, "loop")
        dag.write()
        assert len(dag.task_ids()) > 1
        assert dag.scope() == RunScope(dag.run, *UNREADABLE)
        assert dagbump.preview(connection, [dag.run]) == ()  # which is no alarm
        connection.execute("DELETE FROM dag_run")


@pytest.mark.airflow
class TestWhatAirflowSerializes:
    def test_a_run_that_airflow_has_made_lacks_nothing(self, dag: SerializedDag) -> None:
        assert dag.scope() == RunScope(dag.run, (), (), (), has_mapped=dag.dag_id in HAVE_MAPPED)

    def test_each_deleted_task_is_missing_and_airflow_makes_it_again(self, dag: SerializedDag) -> None:
        for task in dag.task_ids():
            dag.delete(task)
            assert dag.scope().missing_tasks == (task,)
            dag.verify()
            assert dag.scope().missing_tasks == ()

    def test_missing_is_what_airflow_makes_whatever_the_dates(self, dag: SerializedDag) -> None:
        every = dag.task_ids()
        for logical_date, run_type in product(LOGICAL_DATES, ("manual", "scheduled", "backfill", "asset_triggered")):
            dag.delete(*every)
            dag.change_run(logical_date, run_type)
            predicted = dag.scope().missing_tasks
            dag.verify()
            assert dag.task_ids() == set(predicted or ()), (logical_date, run_type)
            assert dag.scope().missing_tasks == ()

    def test_restored_is_what_airflow_takes_back_and_missing_until_then(self, dag: SerializedDag) -> None:
        dag.set_state("removed")
        dag.change_run(DATES[0] - timedelta(days=1), "manual")  # dates rule out what is created, not what is restored
        before = dag.tis()
        every = tuple(sorted(task for task, _ in before))
        assert (dag.scope().missing_tasks, dag.scope().restored_tasks) == (every, every)
        dag.verify()
        assert dag.tis() == {(task, None) for task, _ in before}
        assert (dag.scope().missing_tasks, dag.scope().restored_tasks) == ((), ())

    def test_vanished_is_what_the_version_has_not(self, dag: SerializedDag) -> None:
        dag.connection.execute("UPDATE task_instance SET task_id = task_id || '_x' WHERE dag_id = %s", (dag.dag_id,))
        dag.set_state("queued")
        assert dag.scope().vanished_tasks == tuple(sorted(dag.task_ids()))
        dag.set_state("failed")
        assert dag.scope().vanished_tasks == ()


@pytest.mark.once
def test_a_map_index_that_is_one_too_many_is_removed_and_not_missing(worker: Worker, airflow_url: URL) -> None:
    with psycopg.connect(server.libpq(airflow_url), autocommit=True) as connection:
        dag = SerializedDag(worker, connection, "mapped")
        dag.write()
        # Of the two names of the index, a release has one.
        connection.execute("""
            INSERT INTO task_instance
            SELECT more.*
            FROM task_instance AS ti
            CROSS JOIN LATERAL jsonb_populate_record(ti, jsonb_build_object(
                'id', gen_random_uuid(), 'state', 'removed', 'map_index', 3, 'region_index', 3
            )) AS more
            WHERE ti.task_id = 'm' LIMIT 1
        """)
        for _ in range(2):
            assert ("m", "removed") in dag.tis()
            assert (dag.scope().missing_tasks, dag.scope().restored_tasks) == ((), ("m",))
            dag.verify()
        connection.execute("DELETE FROM dag_run")


@pytest.mark.airflow
def test_what_airflow_has_compressed_cannot_be_read(airflow_url: URL, tmp_path: Path) -> None:
    environment = {"AIRFLOW__CORE__COMPRESS_SERIALIZED_DAGS": "True"}
    with (
        start_worker(environments.release(), airflow_url, tmp_path, environment) as worker,
        psycopg.connect(server.libpq(airflow_url), autocommit=True) as connection,
    ):
        dag = SerializedDag(worker, connection, "plain")
        connection.execute("DELETE FROM dag_version WHERE dag_id = 'plain'")
        dag.write()
        assert dag.scope() == RunScope(dag.run, None, None, None, None)
        connection.execute("DELETE FROM dag_run")
        connection.execute("DELETE FROM dag_version WHERE dag_id = 'plain'")


# ---- DAGs that are broken ----


def operator(task_id: object, **fields: object) -> dict[str, Any]:
    return {"__type": "operator", "__var": {"task_id": task_id, **fields}}


def dag_of(*tasks: object, version: object = 3, **fields: object) -> dict[str, Any]:
    return {"__version": version, "dag": {"tasks": list(tasks), **fields}}


BROKEN: dict[str, object] = {
    "JSON's null": None,
    "a number": 1,
    "a text": "dag",
    "an array": [],
    "an array of one that is good": [dag_of(operator("a"))],
    "empty": {},
    "no version": {"dag": {"tasks": [operator("a")]}},
    "the version of Airflow 2": dag_of(operator("a"), version=1),
    "a version to come": dag_of(operator("a"), version=4),
    "a version of a strange type": dag_of(operator("a"), version=[3]),
    "no DAG": {"__version": 3},
    "a DAG that is no object": {"__version": 3, "dag": []},
    "no tasks": {"__version": 3, "dag": {}},
    "tasks that are an object": {"__version": 3, "dag": {"tasks": {"a": operator("a")}}},
    "tasks that are null": {"__version": 3, "dag": {"tasks": None}},
    "a task that is null": dag_of(operator("a"), None),
    "a task that is a text": dag_of(operator("a"), "b"),
    "a task that is an array": dag_of(operator("a"), [operator("b")]),
    "a task without __var": dag_of(operator("a"), {"__type": "operator"}),
    "a task whose __var is an array": dag_of(operator("a"), {"__type": "operator", "__var": [{"task_id": "b"}]}),
    "a task of another type": dag_of(operator("a"), {"__type": "sensor", "__var": {"task_id": "b"}}),
    "a task without an id": dag_of(operator("a"), {"__type": "operator", "__var": {}}),
    "a task whose id is null": dag_of(operator("a"), operator(None)),
    "a date that is a text": dag_of(operator("a"), operator("b", start_date="yesterday")),
    "a date that is an object": dag_of(operator("a"), operator("b", end_date={"__type": "datetime", "__var": 1.0})),
    "a date out of every calendar": dag_of(operator("a"), operator("b", start_date=1e300)),
    "a date of the DAG that is a text": dag_of(operator("a"), start_date="yesterday"),
}
UNREADABLE = (None, None, None, None)


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_cannot_be_read_and_stops_no_other(fleet: Fleet, connection: Connection, broken: str) -> None:
    runs = {dag_id: _run_of_one_task(fleet, dag_id, dag_of(operator("a"), operator("b"))) for dag_id in ("good", "bad")}
    fleet.execute("UPDATE {schema}.serialized_dag SET data = %s WHERE dag_id = 'bad'", Json(BROKEN[broken]))

    assert _scopes(connection) == {runs["good"]: (("b",), (), (), False), runs["bad"]: UNREADABLE}


@pytest.mark.skipif(RELEASE >= (3, 2), reason="jsonb does not take it")
@pytest.mark.parametrize("text", [r"\u0000", r"\ud800"])
def test_what_json_takes_and_jsonb_does_not(fleet: Fleet, connection: Connection, text: str) -> None:
    runs = {dag_id: _run_of_one_task(fleet, dag_id, dag_of(operator("a"), operator("b"))) for dag_id in ("good", "bad")}
    fleet.execute(
        "UPDATE {schema}.serialized_dag SET data = replace(data::text, '\"b\"', %s)::json WHERE dag_id = 'bad'",
        f'"{text}"',
    )

    assert _scopes(connection) == {runs["good"]: (("b",), (), (), False), runs["bad"]: UNREADABLE}


def test_neither_a_version_without_a_serialized_dag_nor_a_dag_without_a_version_can_be_read(
    fleet: Fleet, connection: Connection
) -> None:
    fleet.dag("no_version")
    fleet.dag("not_serialized")
    fleet.version("not_serialized", 1, serialized=False)
    runs = [fleet.run("no_version"), fleet.run("not_serialized")]

    assert _scopes(connection) == dict.fromkeys(runs, UNREADABLE)


def test_sql_null_cannot_be_read(fleet: Fleet, connection: Connection) -> None:
    run = _run_of_one_task(fleet, "d", dag_of(operator("a")))
    fleet.execute("UPDATE {schema}.serialized_dag SET data = NULL")

    assert _scopes(connection) == {run: UNREADABLE}


def test_a_date_that_is_null_is_none(fleet: Fleet, connection: Connection) -> None:
    data = dag_of(operator("a"), operator("b", start_date=None), operator("c"), start_date=0.0, end_date=None)
    run = _run_of_one_task(fleet, "d", data)
    fleet.execute("UPDATE {schema}.dag_run SET logical_date = '1969-12-31T00:00:00Z'")
    assert _scopes(connection) == {run: ((), (), (), False)}
    fleet.execute("UPDATE {schema}.dag_run SET logical_date = '1970-01-01T00:00:00Z'")
    connection.rollback()
    assert _scopes(connection) == {run: (("b", "c"), (), (), False)}


def test_the_latest_version_counts_and_each_run_for_itself(fleet: Fleet, connection: Connection) -> None:
    fleet.dag("d")
    fleet.version("d", 2, tasks=["a", "b", "q\"'\\{}"])
    old = fleet.version("d", 1, tasks=["a"])
    fleet.dag("other")
    fleet.version("other", 1, tasks=["z"])
    one, two, three, ended = fleet.run("d"), fleet.run("d"), fleet.run("other"), fleet.run("d", state="success")
    fleet.ti(one, old, "success", task_id="a")
    fleet.ti(one, old, "removed", task_id="b")
    fleet.ti(two, old, "running", task_id="gone")
    fleet.ti(two, old, "removed", task_id="gone_too")
    for map_index in range(3):
        fleet.ti(two, old, None, task_id="b", map_index=map_index)

    expected = {
        one: (("b", "q\"'\\{}"), ("b",), (), False),
        two: (("a", "q\"'\\{}"), (), ("gone",), RELEASE >= (3, 4)),  # whose b has indexes
        three: (("z",), (), (), False),
    }
    assert _scopes(connection) == expected
    ids = [three, one, ended, 2**40]
    assert [row.dag_run_id for row in client.verify_scope(connection, ids)] == [one, three]
    assert client.verify_scope(connection, []) == ()


def test_a_null_among_the_runs_is_refused(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="dag_run_ids"):
        connection.execute("SELECT * FROM dagbump.verify_scope('{1,NULL}')")


def _run_of_one_task(fleet: Fleet, dag_id: str, data: object) -> int:
    """Make a run in which the task a has succeeded, of a DAG whose only version is serialized so."""
    (version,) = fleet.dag(dag_id, versions=1)
    fleet.serialize(version, data)
    run = fleet.run(dag_id)
    fleet.ti(run, version, "success", task_id="a")
    return run


def _scopes(connection: Connection) -> dict[int, tuple[object, ...]]:
    rows = connection.execute("SELECT * FROM dagbump.verify_scope(NULL)").fetchall()
    return {
        run: (*(None if column is None else tuple(column) for column in columns), has_mapped)
        for run, *columns, has_mapped in rows
    }
