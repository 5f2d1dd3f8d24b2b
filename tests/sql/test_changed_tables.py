"""Airflow's tables change under an installed dagbump: every function that reads them fails, with one error.

These tests do what `airflow db migrate` from 3.3 to 3.4 does to the tables that dagbump reads, on the tables of any
release. tests/with_airflow/test_airflow_migrations.py runs the command itself.
"""

from __future__ import annotations

from typing import Any

import dagbump
import psycopg
import pytest
from support.fleet import Fleet, stale_run
from support.releases import environments
from support.server import Connect

CALLS = {
    "bump": "",
    "holders": "",
    "preview": "",
    "repair_batch": "'{1}', 10",
    "repairable": "",
    "running": "",
    "tasks_of_run": "1",
    "verify_scope": "'{1}'",
    "versions": "",
    "versions_by_day": "",
    "versions_of_runs": "'{1}'",
}
OF_3_4 = """
    ALTER TABLE task_instance RENAME map_index TO region_index;
    ALTER TABLE task_instance ADD working_set boolean DEFAULT TRUE, ADD region_id uuid;
    DROP TABLE task_instance_history CASCADE;
"""
OF_3_3 = """
    ALTER TABLE task_instance RENAME region_index TO map_index;
    ALTER TABLE task_instance DROP working_set CASCADE;
"""
OF_THE_OTHER_SHAPE = OF_3_4 if environments.number() < (3, 4) else OF_3_3


def test_which_functions_read_them(connection: psycopg.Connection[Any]) -> None:
    rows = connection.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'dagbump'::regnamespace AND prosecdef AND proname <> 'check'"
    ).fetchall()
    assert sorted(name for (name,) in rows) == list(CALLS)


@pytest.mark.parametrize("routine", CALLS)
@pytest.mark.parametrize("change", [OF_THE_OTHER_SHAPE, "ALTER TABLE task_instance RENAME updated_at TO changed_at"])
def test_each_fails_with_the_same_error(fleet: Fleet, connect: Connect, routine: str, change: str) -> None:
    stale_run(fleet)
    has_called, new = connect(autocommit=True), connect(autocommit=True)
    call = f"SELECT * FROM dagbump.{routine}({CALLS[routine]})".encode()
    for _ in range(7):  # its plans are made and kept
        has_called.execute(call)

    fleet.connection.execute(change.encode())
    for caller in (has_called, new):
        with pytest.raises(psycopg.DatabaseError, match="tables have changed since dagbump was installed") as raised:
            caller.execute(call)
        assert (raised.value.sqlstate, "dagbump upgrade" in str(raised.value.diag.message_hint)) == ("DBU02", True)


@pytest.mark.parametrize("routine", CALLS)
def test_each_refuses_a_view_of_a_stranger_in_the_place_of_a_table(
    fleet: Fleet, connect: Connect, role: str, routine: str
) -> None:
    """After `airflow db reset`, any role that may create objects in the schema could create a view there."""
    stale_run(fleet)
    has_called = connect(autocommit=True)
    call = f"SELECT * FROM dagbump.{routine}({CALLS[routine]})".encode()
    for _ in range(7):
        has_called.execute(call)

    for table in ("dag", "task_instance"):
        fleet.connection.execute(
            f"ALTER TABLE {table} RENAME TO {table}_away; CREATE VIEW {table} AS SELECT * FROM {table}_away;"
            f"ALTER VIEW {table} OWNER TO {role}".encode()
        )
        for caller in (has_called, connect(autocommit=True)):
            with pytest.raises(
                psycopg.DatabaseError, match=rf"not the tables of Airflow.*{table} \(of {role}\)"
            ) as raised:
                caller.execute(call)
            assert raised.value.sqlstate == "DBU02"


def test_what_python_says(fleet: Fleet, connection: psycopg.Connection[Any]) -> None:
    fleet.connection.execute(OF_THE_OTHER_SHAPE.encode())
    with pytest.raises(dagbump.UnsupportedAirflow, match="dagbump upgrade"):
        dagbump.bump(connection)
