"""Fills the large database: years of finished runs of many DAGs, and the runs that are running now."""

from __future__ import annotations

import os

from sqlalchemy.engine import URL
from typing_extensions import LiteralString

from benchmarks.bench import Bench, connect
from benchmarks.fleet import Connection, scalar
from benchmarks.on_disk import OnDisk

RUNS_OF_DAG = 20  # that are running
OTHER_VERSIONS = 10  # of each DAG but the first

# Nothing is there that a crash could destroy. With wal_level = minimal, a table that was truncated in the same
# transaction, and a new index, are not written to the WAL.
_LOAD = {
    "autovacuum": "off",
    "checkpoint_timeout": "1d",
    "fsync": "off",
    "full_page_writes": "off",
    "maintenance_work_mem": "2GB",
    "max_parallel_maintenance_workers": "1",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "shared_buffers": "1GB",
    "wal_level": "minimal",
}
_COPIED = ("dag", "dag_version", "serialized_dag", "dag_run", "task_instance")
# What has to be done after the rows are in: the keys, the indexes, and then the foreign keys, as Airflow made them.
_DEFER = """
    CREATE TABLE todo AS
    SELECT CASE contype WHEN 'f' THEN 3 ELSE 1 END AS step, conname::text AS name,
        format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS before,
        format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS after
    FROM pg_constraint
    WHERE contype IN ('p', 'u', 'f') AND '{dag_run,task_instance}'::regclass[] && ARRAY[conrelid, confrelid]::regclass[]
    UNION ALL
    SELECT 1, indexrelid::regclass::text, format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
    FROM pg_index AS index
    WHERE indrelid = ANY ('{dag_run,task_instance}'::regclass[])
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype <> 'f')
"""
_COLUMNS: LiteralString = """
    SELECT array_agg(quote_ident(attname) ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped
"""
# A run per hour and DAG. The DAGs take turns, so the rows lie in the order of time, as in a real table. What a row
# does not get here, it has from a row that Airflow made.
_DAGS = "FROM pattern_dag AS pattern, generate_series(0, {dags} - 1) AS dag"
_VERSIONS = f"""{_DAGS.replace("pattern_dag", "pattern_{table}")},
    generate_series(1, CASE dag WHEN 0 THEN {{versions}} ELSE {OTHER_VERSIONS} END) AS number"""
_RUNS = f"""FROM pattern_dag_run AS pattern, (
        SELECT number, hour, number % {{dags}} AS dag, number >= {{finished}} AS running,
            date_trunc('hour', now()) - ({{hours}} - hour) * interval '1 hour' AS time,
            CASE number % {{dags}} WHEN 0 THEN {{versions}} ELSE {OTHER_VERSIONS} END AS versions
        FROM (SELECT number, number / {{dags}} AS hour FROM generate_series(0, {{dags}} * {{hours}} - 1) AS number) AS _
    ) AS run"""
# One run after the other.
_TIS = """FROM dag_run AS run
    CROSS JOIN LATERAL (SELECT * FROM pattern_task_instance WHERE run.id > 0 OFFSET 0) AS pattern"""
_DAG_ID, _VERSION_ID = "'dag_' || lpad(dag::text, 3, '0')", "md5(dag || '/' || {})::uuid"
_VALUES = {
    "dag": {"dag_id": _DAG_ID},
    "dag_version": {
        "id": _VERSION_ID.format("number"),
        "dag_id": _DAG_ID,
        "version_number": "number",
        "created_at": "pattern.created_at - interval '1 hour' + number * interval '0.1 s'",
    },
    "serialized_dag": {
        "id": _VERSION_ID.format("number"),
        "dag_id": _DAG_ID,
        "dag_version_id": _VERSION_ID.format("number"),
        "dag_hash": "md5(dag || '/' || number)",
    },
    "dag_run": {
        "id": "number + 1",
        "dag_id": _DAG_ID,
        "run_id": "'scheduled__' || to_char(time, 'YYYY-MM-DD\"T\"HH24:MI:SS') || '+00:00'",
        "run_type": "'scheduled'",
        "state": "CASE WHEN running THEN 'running' ELSE 'success' END",
        **dict.fromkeys(("logical_date", "run_after", "queued_at", "start_date"), "time"),
        "end_date": "CASE WHEN NOT running THEN time + interval '1 hour' END",
        "created_dag_version_id": _VERSION_ID.format(
            "CASE WHEN running THEN versions ELSE 1 + hour * versions / {hours} END"
        ),
    },
    "task_instance": {
        "id": "(lpad(to_hex(run.id), 12, '0') || right(md5(run.id || pattern.task_id), 20))::uuid",
        "dag_id": "run.dag_id",
        "run_id": "run.run_id",
        "dag_version_id": "run.created_dag_version_id",
        "hostname": "'worker-' || run.id % 10 || '.example.com'",
        **{
            column: f"CASE run.state WHEN 'running' THEN pattern.{column} ELSE {finished} END"
            for column, finished in {
                "state": "'success'",
                "duration": "60",
                "pid": "run.id",
                "try_number": "1",
                **dict.fromkeys(("scheduled_dttm", "queued_dttm", "start_date"), "run.run_after"),
                **dict.fromkeys(
                    ("last_heartbeat_at", "end_date", "updated_at"), "run.run_after + random() * interval '1 hour'"
                ),
            }.items()
        },
    },
}
_SOURCES = dict(zip(_COPIED, (_DAGS, _VERSIONS, _VERSIONS, _RUNS, _TIS), strict=True))


def load(bench: Bench, server: OnDisk, template: str) -> URL:
    """Fill the database, unless it is there; go on if it is there in part. The template holds a fleet."""
    url, plan = server.database("scale"), bench.plan
    with server.maintenance() as connection:
        there = scalar(connection, "SELECT count(*) FROM pg_database WHERE datname = 'scale'")
    if there and not _todo(url):
        return url
    server.restart(_LOAD)
    if not there:
        server.create_database("scale", template)
    with connect(url) as connection:
        if not there:
            with connection.transaction():
                _prepare(connection, plan.large.runs // RUNS_OF_DAG, plan.finished_tis // plan.large.tis, plan.versions)
        for step, name, statement in _todo(url):
            bench.say(f"the large database: {name}")
            connection.execute(statement.encode())
            connection.execute("DELETE FROM todo WHERE (step, name) = (%s, %s)", (step, name))
    server.stop()
    os.sync()
    return url


def _todo(url: URL) -> list[tuple[int, str, str]]:
    with connect(url) as connection:
        return connection.execute("SELECT step, name, after FROM todo ORDER BY step, name").fetchall()


def _prepare(connection: Connection, dags: int, finished: int, versions: int) -> None:
    """Keep the rows that Airflow made as patterns, empty the tables, and write down what is to be done."""
    numbers = {"dags": dags, "finished": finished, "versions": versions, "hours": finished // dags + RUNS_OF_DAG}
    for table in _COPIED:
        of_one_run = "WHERE run_id = 'run_0'" if table in _COPIED[3:] else ""
        connection.execute(f"CREATE TABLE pattern_{table} AS SELECT * FROM {table} {of_one_run}".encode())
    connection.execute("TRUNCATE dag, dag_run, task_instance CASCADE")
    connection.execute(_DEFER)
    for (drop,) in connection.execute("SELECT before FROM todo ORDER BY step DESC, name").fetchall():
        connection.execute(drop.encode())
    for number, table in enumerate(_COPIED):
        columns: list[str] = scalar(connection, _COLUMNS.format(table))
        values = [_VALUES[table].get(column, f"pattern.{column}") for column in columns]
        empty = f"TRUNCATE {table}; " if table in _COPIED[3:] else ""
        insert = f"{empty}INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} {_SOURCES[table]}"
        _add(connection, 0, f"{number} {table}", insert.format(table=table, **numbers))
    _add(connection, 2, "vacuum", "VACUUM (FREEZE, ANALYZE)")
    _add(connection, 4, "sequence", "SELECT setval('dag_run_id_seq', max(id)) FROM dag_run")


def _add(connection: Connection, step: int, name: str, statement: str) -> None:
    connection.execute("INSERT INTO todo VALUES (%s, %s, '', %s)", (step, name, statement))
