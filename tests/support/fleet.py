"""Makes DAGs, versions, runs and task instances with plain INSERTs, and reads them back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.types.json import Json
from typing_extensions import LiteralString

# Values for the NOT NULL columns without a default, in all releases. Columns that a release lacks are left out.
FILLERS: Mapping[str, Mapping[str, Any]] = {
    "dag": {
        "bundle_name": "fleet",
        "fileloc": "/dags/fleet.py",
        "has_import_errors": False,
        "has_task_concurrency_limits": False,
        "is_paused": False,
        "is_stale": False,
        "max_active_tasks": 16,
        "max_consecutive_failed_dag_runs": 0,
        "partition_mapper_info": Json({}),
        "timetable_partitioned": False,
        "timetable_periodic": False,
        "timetable_type": "none",
    },
    "dag_run": {"run_type": "manual", "state": "running", "span_status": "not_started"},
    "task_instance": {
        "max_tries": 0,
        "pool": "default_pool",
        "pool_slots": 1,
        "span_status": "not_started",
        "try_number": 0,
    },
    "task_instance_history": {
        "max_tries": 0,
        "pool": "default_pool",
        "pool_slots": 1,
        "span_status": "not_started",
    },
    "serialized_dag": {"dag_hash": "0" * 32, "data": Json({})},
}
NOW = sql.SQL("now()")
# The times of versions differ even within a transaction, because up to 3.2 Airflow's latest version is the newest one.
NEXT_MOMENT = sql.SQL("clock_timestamp()")
TIMESTAMPS: Mapping[str, tuple[str, ...]] = {
    "dag_version": ("created_at", "last_updated"),
    "serialized_dag": ("created_at", "last_updated"),
    "dag_run": ("run_after",),
    "backfill": ("created_at", "updated_at"),
}

# The columns that a task instance shares with its past tries, up to 3.3 and from 3.4 on.
_COORDINATES = ("dag_id", "run_id", "task_id", "map_index", "region_id", "region_index")


def as_stored(table: str, row: Mapping[str, Any], columns: Mapping[str, Collection[str]]) -> tuple[str, dict[str, Any]]:
    """Return the table and the columns in which a release keeps a row. The row is named as up to Airflow 3.3.

    From 3.4 on a past try is an archived task instance, and map_index is called region_index.

    Args:
        table: which table, up to 3.3.
        row: values by column, up to 3.3.
        columns: those of each table, in the database in question.
    """
    if table == "task_instance_history" and table not in columns:
        table = "task_instance"
        row = {"archived_reason": "retry", **row, "working_set": None, "id": row["task_instance_id"]}
    if table == "task_instance" and "region_index" in columns[table]:
        row = {"region_index" if name == "map_index" else name: value for name, value in row.items()}
    return table, {name: value for name, value in row.items() if name in columns[table]}


def named_as_up_to_3_3(ti: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of task_instance with the name that Airflow had for map_index before it called it region_index."""
    return {"map_index" if name == "region_index" else name: value for name, value in ti.items()}


def columns_of(connection: psycopg.Connection[Any], schema: str = "public") -> dict[str, set[str]]:
    """Return the columns of each table of a schema."""
    columns: dict[str, set[str]] = {}
    for table, column in connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s", (schema,)
    ):
        columns.setdefault(table, set()).add(column)
    return columns


# Ids ordered by time, as Airflow makes them (UUID version 7). Random ids would scatter every index.
_NEW_ID: LiteralString = """
    lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
        || '-7' || right(gen_random_uuid()::text, 21)
"""
# jsonb_populate_record copies all columns of a row, whatever columns the release has, except for those that it is
# given.
_COPY_RUN: LiteralString = f"""
    WITH copied AS (
        INSERT INTO {{schema}}.dag_run
        SELECT copy.*
        FROM {{schema}}.dag_run AS run
        CROSS JOIN generate_series(1, %s) AS number
        CROSS JOIN LATERAL jsonb_populate_record(run, jsonb_build_object(
            'id', nextval(pg_get_serial_sequence('{{schema}}.dag_run', 'id')),
            'run_id', run.run_id || '_copy_' || number
        )) AS copy
        WHERE run.id = %s
        RETURNING id, run_id
    )
    INSERT INTO {{schema}}.task_instance
    SELECT copy.*
    FROM {{schema}}.dag_run AS run
    JOIN {{schema}}.task_instance AS ti ON ti.dag_id = run.dag_id AND ti.run_id = run.run_id
    CROSS JOIN copied
    CROSS JOIN LATERAL jsonb_populate_record(ti, jsonb_build_object('id', {_NEW_ID}, 'run_id', copied.run_id)) AS copy
    WHERE run.id = %s
    ORDER BY copied.id, ti.task_id -- one run after the other, as Airflow would
"""
_COPY_LATEST_VERSION: LiteralString = f"""
    WITH added AS (
        INSERT INTO {{schema}}.dag_version
        SELECT copy.*
        FROM {{schema}}.dag_version AS version
        CROSS JOIN LATERAL jsonb_populate_record(version, jsonb_build_object(
            'id', {_NEW_ID},
            'version_number', version.version_number + 1,
            'created_at', clock_timestamp(),
            'last_updated', clock_timestamp()
        )) AS copy
        WHERE version.dag_id = %s
        ORDER BY version.version_number DESC LIMIT 1
        RETURNING id
    )
    INSERT INTO {{schema}}.serialized_dag
    SELECT copy.*
    FROM {{schema}}.dag_version AS version
    JOIN {{schema}}.serialized_dag AS serialized ON serialized.dag_version_id = version.id
    CROSS JOIN added
    CROSS JOIN LATERAL jsonb_populate_record(serialized, jsonb_build_object(
        'id', {_NEW_ID},
        'dag_version_id', added.id,
        'dag_hash', md5(added.id::text),
        'created_at', clock_timestamp(),
        'last_updated', clock_timestamp()
    )) AS copy
    WHERE version.dag_id = %s
    ORDER BY version.version_number DESC LIMIT 1
    RETURNING dag_version_id
"""


class Fleet:
    """A small vocabulary for states of Airflow's database."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str = "public") -> None:
        self.connection = connection
        self.schema = schema
        self._identifier = sql.Identifier(schema.replace("%", "%%"))  # psycopg reads a % in a statement with parameters
        self._columns = columns_of(connection, schema)
        self._numbers = iter(range(1, 1_000_000))
        self.execute("INSERT INTO {schema}.dag_bundle (name) VALUES ('fleet') ON CONFLICT DO NOTHING")

    def execute(self, statement: LiteralString, *parameters: Any) -> psycopg.Cursor[Any]:
        """Run SQL with {schema} in it."""
        return self.connection.execute(sql.SQL(statement).format(schema=self._identifier), parameters)

    def dag(self, dag_id: str, *, versions: int = 0, **columns: Any) -> list[UUID]:
        """Make a DAG with the versions 1, 2, …, each with a serialized_dag row. Return their ids in that order."""
        self._insert("dag", dag_id=dag_id, **columns)
        return [self.version(dag_id, number) for number in range(1, versions + 1)]

    def version(
        self, dag_id: str, number: int, *, serialized: bool = True, tasks: Iterable[str] | None = None, **columns: Any
    ) -> UUID:
        """Make a dag_version. Its serialized DAG can be read only if its tasks are given."""
        version = uuid4()
        self._insert("dag_version", id=version, dag_id=dag_id, version_number=number, **columns)
        if serialized:
            self._insert("serialized_dag", id=uuid4(), dag_id=dag_id, dag_version_id=version)
        if tasks is not None:
            self.serialize(version, serialized_dag(tasks))
        return version

    def serialize(self, version: UUID, data: object) -> None:
        """Replace the data in the serialized_dag row of a version."""
        self.execute("UPDATE {schema}.serialized_dag SET data = %s WHERE dag_version_id = %s", Json(data), version)

    def run(self, dag_id: str, run_id: str | None = None, **columns: Any) -> int:
        """Make a running DAG run that is due; return its id."""
        row = self._insert(
            "dag_run", "id", dag_id=dag_id, run_id=run_id or f"run_{next(self._numbers)}", **columns
        ).fetchone()
        assert row is not None
        run: int = row[0]
        return run

    def ti(
        self, run: int, version: UUID | None, state: str | None = None, *, task_id: str | None = None, **columns: Any
    ) -> UUID:
        """Make a task instance; return its id."""
        ti = uuid4()
        self._insert(
            "task_instance",
            id=ti,
            task_id=task_id or f"task_{next(self._numbers)}",
            dag_version_id=version,
            state=state,
            **self._run_key(run),
            **columns,
        )
        return ti

    def tis(self, run: int, version: UUID | None, states: Iterable[str | None]) -> list[UUID]:
        """Make one task instance for each state."""
        return [self.ti(run, version, state) for state in states]

    def past_try(self, ti: UUID, version: UUID | None, state: str | None = "failed", **columns: Any) -> UUID:
        """Make a past try of a task instance, as the release keeps them; return its id."""
        past = uuid4()
        ((row,),) = self.execute("SELECT to_jsonb(ti) FROM {schema}.task_instance AS ti WHERE id = %s", ti).fetchall()
        key = {name: row[name] for name in _COORDINATES if name in row}
        self._insert(
            "task_instance_history",
            task_instance_id=past,
            dag_version_id=version,
            state=state,
            **{"try_number": self._next_try(key), **key, **columns},
        )
        return past

    def _next_try(self, key: Mapping[str, Any]) -> int:
        """Return the next try_number for a task, by the table that keeps its past tries."""
        table = "task_instance_history" if "task_instance_history" in self._columns else "task_instance"
        row = self.execute(
            "SELECT coalesce(max(try_number), 0) + 1 FROM {schema}." + table + " "
            "WHERE (dag_id, run_id, task_id) = (%s, %s, %s)",
            key["dag_id"],
            key["run_id"],
            key["task_id"],
        ).fetchone()
        assert row is not None
        number: int = row[0]
        return number

    def copy_run(self, run: int, copies: int) -> None:
        """Copy a run with its task instances, inside the database: 200,000 of them take seconds."""
        self.execute(_COPY_RUN, copies, run, run)

    def copy_latest_version(self, dag_id: str) -> UUID:
        """Make the next version of a DAG, with the serialized_dag of the one before; return its id."""
        row = self.execute(_COPY_LATEST_VERSION, dag_id, dag_id).fetchone()
        assert row is not None
        version: UUID = row[0]
        return version

    def backfill(self, runs: Mapping[int, int]) -> None:
        """Put runs into a backfill of their DAG: run id to sort_ordinal."""
        backfills: dict[str, int] = {}
        for run, ordinal in runs.items():
            dag_id = self._run_key(run)["dag_id"]
            if dag_id not in backfills:
                backfills[dag_id] = self._new_backfill(dag_id)
            backfill = backfills[dag_id]
            self._insert(
                "backfill_dag_run", backfill_id=backfill, dag_run_id=run, logical_date=NOW, sort_ordinal=ordinal
            )
            self.execute("UPDATE {schema}.dag_run SET backfill_id = %s WHERE id = %s", backfill, run)

    def _new_backfill(self, dag_id: str) -> int:
        row = self._insert(
            "backfill",
            "id",
            dag_id=dag_id,
            from_date=NOW,
            to_date=NOW,
            is_paused=False,
            dag_run_conf=Json({}),
            reprocess_behavior="none",
            max_active_runs=1,
        ).fetchone()
        assert row is not None
        number: int = row[0]
        return number

    def versions_of(self, tis: Iterable[UUID]) -> list[UUID | None]:
        """Return dag_version_id of task instances, in the order given."""
        rows = self.execute("SELECT id, dag_version_id FROM {schema}.task_instance WHERE id = ANY (%s)", list(tis))
        versions: dict[UUID, UUID | None] = dict(rows.fetchall())
        return [versions[ti] for ti in tis]

    def _run_key(self, run: int) -> dict[str, str]:
        row = self.execute("SELECT dag_id, run_id FROM {schema}.dag_run WHERE id = %s", run).fetchone()
        assert row is not None
        return {"dag_id": row[0], "run_id": row[1]}

    def _insert(self, table: str, returning: str | None = None, /, **values: Any) -> psycopg.Cursor[Any]:
        stamps = dict.fromkeys(TIMESTAMPS.get(table, ()), NEXT_MOMENT if table == "dag_version" else NOW)
        table, row = as_stored(table, {**FILLERS.get(table, {}), **stamps, **values}, self._columns)
        literal = {name for name, value in row.items() if isinstance(value, sql.Composable)}
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.SQL(".").join([self._identifier, sql.Identifier(table)]),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(row[name] if name in literal else sql.Placeholder(name) for name in row),
        )
        if returning:
            statement += sql.SQL(" RETURNING {}").format(sql.Identifier(returning))
        return self.connection.execute(statement, {name: row[name] for name in row if name not in literal})


def serialized_dag(tasks: Iterable[str]) -> dict[str, Any]:
    """Return the part of a serialized DAG that lists its tasks."""
    return {"__version": 3, "dag": {"tasks": [{"__type": "operator", "__var": {"task_id": task}} for task in tasks]}}


def stale_run(fleet: Fleet, dag_id: str = "d") -> int:
    """Make a verified run with one stale task instance."""
    old, new = fleet.dag(dag_id, versions=2)
    run = fleet.run(dag_id)
    fleet.ti(run, new, "success")
    fleet.ti(run, old, "scheduled")
    return run
