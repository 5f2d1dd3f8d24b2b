"""One DAG in a real Airflow: its file, which a worker (worker.py) writes, and the run that a test is about."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import dagbump
import psycopg

from support.releases import environments
from support.releases.worker import Worker

Tis = dict[str, tuple[str | None, int | None]]
Row = tuple[Any, ...]
COLUMNS = ("dag_run_id", "version_number", "bumped", "locked", "needs_verify")  # of a Row
_numbers = count(1)

DAG_FILE = """\
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG


def task(task_id):
    return BashOperator(task_id=task_id, bash_command="true")


def mapped(task_id, commands):
    return BashOperator.partial(task_id=task_id).expand(bash_command=commands)


with DAG("{dag_id}", description="{description}", schedule=None, {arguments}):
    {tasks}
"""


# From 3.4 on, past tries are in the same table.
_TIS = (
    "task_instance"
    if environments.number() < (3, 4)
    else "(SELECT *, region_index AS map_index FROM task_instance WHERE working_set)"
)


def tis_of(connection: psycopg.Connection[Any], run: int) -> Tis:
    """Return state and version number of each task instance of a run, by task_id or task_id[map_index]."""
    rows = connection.execute(
        f"""
        SELECT ti.task_id || CASE WHEN ti.map_index < 0 THEN '' ELSE '[' || ti.map_index || ']' END,
            ti.state, version.version_number
        FROM {_TIS} AS ti
        JOIN dag_run AS run ON run.dag_id = ti.dag_id AND run.run_id = ti.run_id
        LEFT JOIN dag_version AS version ON version.id = ti.dag_version_id
        WHERE run.id = %s
        """,
        (run,),
    )
    return {name: (state, number) for name, state, number in rows}


class LiveDag:
    """One DAG, and the run of it that a test is about."""

    def __init__(self, worker: Worker, connection: psycopg.Connection[Any]) -> None:
        self.worker = worker
        self.connection = connection
        self.dag_id = f"dag_{next(_numbers)}"
        self.run = 0

    def write(self, tasks: str, *, description: str = "", arguments: str = "", commit: bool = True) -> None:
        """Let the DAG processor write a new DAG file; arguments are those of the DAG."""
        self.worker("write_dag", **self.file(tasks, description=description, arguments=arguments), commit=commit)

    def file(self, tasks: str, *, description: str = "", arguments: str = "") -> dict[str, str]:
        """Return a DAG file's name, and what is in it."""
        source = DAG_FILE.format(dag_id=self.dag_id, description=description, arguments=arguments, tasks=tasks)
        return {"file": f"{self.dag_id}.py", "source": source}

    def start(self, tasks: str, states: Mapping[str, str]) -> None:
        """Write the first version and start a run, whose task instances have come to these states, others to none."""
        self.write(tasks)
        self.run = self.start_another_run()
        self.worker("set_states", run=self.run, states=states)

    def start_another_run(self) -> int:
        run: int = self.worker("create_run", dag_id=self.dag_id, run_id=f"manual__{next(_numbers)}")
        return run

    def stock_loop(self) -> None:
        self.worker("stock_loop")

    def dagbump_loop(self, *, verify: bool = True) -> list[Row]:
        rows = self.open_dagbump_loop(verify=verify)
        self.commit("scheduler")
        return rows

    def open_dagbump_loop(self, *, verify: bool = True) -> list[Row]:
        return [tuple(row[name] for name in COLUMNS) for row in self.worker("dagbump_verify", verify=verify)]

    def safe_bump(self) -> list[Row]:
        """Bump in the safe form, as a person or `dagbump run` does beside a stock scheduler."""
        return [tuple(getattr(row, name) for name in COLUMNS) for row in dagbump.bump(self.connection).runs]

    def commit(self, session: str) -> None:
        self.worker("end", session=session, how="commit")

    def tis(self) -> Tis:
        return tis_of(self.connection, self.run)

    def rows(self) -> list[tuple[str]]:
        """Return the addresses of the run's task instances, which every write changes."""
        rows = self.connection.execute(
            "SELECT ti.ctid::text FROM task_instance AS ti "
            "JOIN dag_run AS run ON run.dag_id = ti.dag_id AND run.run_id = ti.run_id WHERE run.id = %s ORDER BY 1",
            (self.run,),
        )
        return rows.fetchall()

    def versions(self) -> dict[int, str]:
        """Return the ids of the DAG's versions by number."""
        rows = self.connection.execute("SELECT version_number, id FROM dag_version WHERE dag_id = %s", (self.dag_id,))
        return {number: str(version) for number, version in rows}

    def locks_to_be_had(self, version: int) -> list[str]:
        """Return the row locks on a version that nobody's lock stands in the way of."""
        free = []
        for lock in ("KEY SHARE", "SHARE", "NO KEY UPDATE", "UPDATE"):
            row = self.connection.execute(
                f"SELECT FROM dag_version WHERE id = %s FOR {lock} SKIP LOCKED".encode(), (self.versions()[version],)
            )
            free += [lock] * row.rowcount
        return free

    def finish(self) -> None:
        """End the DAG's runs, so that no scheduler examines them."""
        self.worker("abandon")
        self.connection.execute("UPDATE dag_run SET state = 'success' WHERE dag_id = %s", (self.dag_id,))
