"""Random fleets for whole scheduler loops: DAGs and versions that Airflow itself has written, with random runs and TIs.
Airflow creates one run of each version. Its rows are copied with other states, versions and dates, so they have
everything that a scheduler reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Json

from support.fleet import as_stored, columns_of, named_as_up_to_3_3
from support.releases import environments
from support.releases.worker import Worker
from support.specification import FINISHED

Row = dict[str, Any]

RELEASE = environments.number()
# Up to 3.1.6 a scheduler of 3.1 ends with an error when it queues a TI without a version; elsewhere it does no harm.
NULL_VERSIONS = 0.005 if (3, 1) <= RELEASE < (3, 1, 7) else 0.08
UNFINISHED = (
    None,
    "scheduled",
    "queued",
    "running",
    "restarting",
    "up_for_retry",
    "up_for_reschedule",
    "deferred",
    *(["awaiting_input"] if RELEASE >= (3, 3) else []),
    "a_state_of_4",
)
STARTED = {"running", "restarting", "up_for_retry", "up_for_reschedule", "deferred", *FINISHED}
IN_FUTURE = {"L", "K"}  # tasks whose start_date is
RUN_TYPES = ("manual", "scheduled", "asset_triggered")

# ---- The DAGs, as Airflow writes them ----

HEAD = """\
from datetime import datetime, timedelta, timezone

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task_group

FUTURE = datetime(2100, 1, 1, tzinfo=timezone.utc)
PAST = datetime(2024, 1, 1, tzinfo=timezone.utc)


def task(task_id, **arguments):
    return BashOperator(task_id=task_id, bash_command="true", **arguments)


def mapped(task_id, commands):
    return BashOperator.partial(task_id=task_id).expand(bash_command=commands)


@task_group
def group(n):
    task("inner")


def callback(context): ...
"""
# The arguments of each DAG, and the tasks of its versions; one that begins with # differs in its description only.
DAGS: Mapping[str, tuple[str, Sequence[str]]] = {
    "plain": (
        "schedule=None",
        (
            'task("A") >> task("B") >> task("C")',
            'task("A") >> task("B") >> task("C") >> task("D")',
            'task("A") >> task("B2") >> task("C") >> task("D")',
            'task("A") >> task("B2")',
        ),
    ),
    "literal": (
        "schedule=None",
        (
            'task("A") >> mapped("m", ["true"] * 3)',
            'task("A") >> mapped("m", ["true"] * 5) >> mapped("n", ["true"] * 2)',
            'task("A") >> mapped("m", ["true"] * 2)',
            'task("A") >> task("m") >> task("Z")',
        ),
    ),
    "dynamic": (
        "schedule=None",
        (
            'mapped("m", task("A").output)',
            'mapped("m", task("A").output) >> task("Z")',
            'mapped("n", mapped("m", task("A").output).output)',
        ),
    ),
    "groups": (
        "schedule=None",
        (
            'group.expand(n=[1, 2]) >> task("Z")',
            'group.expand(n=[1, 2, 3]) >> task("Y")',
            'task("group.inner") >> task("Z")',
        ),
    ),
    "timeout": (
        "schedule=None, dagrun_timeout=timedelta(hours=1), on_failure_callback=callback",
        ('task("A") >> task("B")', 'task("A") >> task("B") >> task("C")', 'task("A") >> task("C")'),
    ),
    "rules": (
        "schedule=None, on_success_callback=callback, on_failure_callback=callback",
        (
            '[task("A"), task("B", retries=2)] >> task("J", trigger_rule="all_done") >> EmptyOperator(task_id="E")',
            '[task("A"), task("B", retries=2)] >> task("J", trigger_rule="one_failed") >> EmptyOperator(task_id="E")',
            '[task("A"), task("X")] >> task("J", trigger_rule="none_failed") >> EmptyOperator(task_id="F")',
        ),
    ),
    "dated": (
        "schedule=None",
        ('task("A") >> task("L", start_date=FUTURE)', 'task("A") >> task("K", start_date=FUTURE) >> task("Z")'),
    ),
    "daily": (
        "schedule='@daily', start_date=PAST, catchup=False",
        ('task("A") >> task("B")', 'task("A") >> task("B") >> task("C")'),
    ),
    "reworded": ("schedule=None", ('task("A") >> task("B")', '# \ntask("A") >> task("B")')),
    "single": ("schedule=None", ('task("A") >> task("B", depends_on_past=True)',)),
    "empty": (
        "schedule=None",
        ('EmptyOperator(task_id="E") >> EmptyOperator(task_id="F")', 'EmptyOperator(task_id="E") >> task("A")'),
    ),
}


def source(number: int) -> str:
    """Return a DAG file with that version of each DAG, or its last one."""
    return HEAD + "".join(_dag(dag_id, arguments, bodies, number) for dag_id, (arguments, bodies) in DAGS.items())


def _dag(dag_id: str, arguments: str, bodies: Sequence[str], number: int) -> str:
    body = bodies[min(number, len(bodies)) - 1]
    description, tasks = ("reworded", body[3:]) if body.startswith("# \n") else ("", body)
    return f'\nwith DAG("{dag_id}", description="{description}", {arguments}):\n    {tasks}\n'


@dataclass(frozen=True)
class Prototype:
    """A version of a DAG, and the rows of a new run of it that Airflow has created."""

    version: UUID
    run: Row
    tis: list[Row]


Prototypes = dict[str, list[Prototype]]  # by dag_id, the oldest version first


def write_dags(worker: Worker, connection: psycopg.Connection[Any]) -> Prototypes:
    """Let Airflow write all versions of all DAGs; return them, and leave no run behind."""
    for number in range(1, 1 + max(len(bodies) for _, bodies in DAGS.values())):
        worker("write_dag", file="loops.py", source=source(number))
        for dag_id, (_, bodies) in DAGS.items():
            if number <= len(bodies):  # a run, or the DAG processor would replace the version
                worker("create_run", dag_id=dag_id, run_id=f"v{number}")
    found = {dag_id: list(_prototypes(connection, dag_id)) for dag_id in DAGS}
    assert {dag_id: len(its) for dag_id, its in found.items()} == {dag_id: len(b) for dag_id, (_, b) in DAGS.items()}
    connection.execute("DELETE FROM dag_run")
    return found


def _prototypes(connection: psycopg.Connection[Any], dag_id: str) -> Iterator[Prototype]:
    with connection.cursor(row_factory=dict_row) as cursor:
        versions = cursor.execute(
            "SELECT id, 'v' || version_number AS run_id FROM dag_version WHERE dag_id = %s ORDER BY version_number",
            (dag_id,),
        ).fetchall()
        for row in versions:
            key = (dag_id, row["run_id"])
            (run,) = cursor.execute("SELECT * FROM dag_run WHERE (dag_id, run_id) = (%s, %s)", key).fetchall()
            found = cursor.execute("SELECT * FROM task_instance WHERE (dag_id, run_id) = (%s, %s)", key).fetchall()
            tis = [_as_before_regions(named_as_up_to_3_3(ti)) for ti in found]
            yield Prototype(row["id"], run, sorted(tis, key=lambda ti: (ti["task_id"], ti["map_index"])))


def _as_before_regions(ti: Row) -> Row:
    """Put a TI of a mapped task where a migration to 3.4 leaves it: in the region that all share."""
    return ti | {"region_id": UUID(int=0)} if "region_id" in ti else ti


# ---- Random fleets ----


@dataclass
class RandomFleet:
    """A random state of the database, the same for the same seed; `make` writes it."""

    seed: int
    prototypes: Prototypes
    connection: psycopg.Connection[Any]
    latest: dict[str, UUID] = field(default_factory=dict)  # by dag_id

    def __post_init__(self) -> None:
        self._random = Random(self.seed)  # noqa: S311  (not for secrets)
        self._columns = columns_of(self.connection)
        (now,) = self.connection.execute("SELECT now()").fetchone() or (None,)
        assert now is not None
        self._now: datetime = now

    def make(self) -> None:
        # DAGs whose versions differ most are drawn more often.
        lots = [*sorted(self.prototypes), "plain", "literal", "literal", "dynamic", "timeout"]
        dag_ids = sorted(set(self._random.sample(lots, self._random.randint(1, 5))))
        self.connection.execute(
            "UPDATE dag SET next_dagrun_create_after = NULL WHERE NOT dag_id = ANY (%s)", (dag_ids,)
        )
        kept = {dag_id: self._dag(dag_id) for dag_id in dag_ids}
        if self._chance(0.1):  # nothing can be queued; of few slots, it would depend on the order who gets them
            self.connection.execute("UPDATE slot_pool SET slots = 0")
        for number in range(self._random.choice([1, 2, 3, 5, 8])):
            dag_id = self._random.choice(dag_ids)
            self._run(number, self.prototypes[dag_id], kept[dag_id])

    def missing_tasks(self, connection: psycopg.Connection[Any]) -> dict[int, tuple[str, ...]]:
        """Return the tasks of its version that each running run lacks: without a TI, or with none but REMOVED ones."""
        missing: dict[int, tuple[str, ...]] = {}
        rows = connection.execute(
            """
            SELECT id, dag_id, run_type, logical_date IS NOT NULL, bundle_version, created_dag_version_id,
                ARRAY(SELECT task_id FROM task_instance WHERE (dag_id, run_id) = (run.dag_id, run.run_id)),
                ARRAY(
                    SELECT task_id FROM task_instance
                    WHERE (dag_id, run_id) = (run.dag_id, run.run_id) AND state IS DISTINCT FROM 'removed'
                )
            FROM dag_run AS run WHERE state = 'running'
            """
        ).fetchall()
        serialized = {version for (version,) in connection.execute("SELECT dag_version_id FROM serialized_dag")}
        for run, dag_id, run_type, dated, bundle_version, own, has, alive in rows:
            version = (own if bundle_version else None) or self.latest.get(dag_id)
            tasks = {
                ti["task_id"]
                for prototype in self.prototypes[dag_id]
                if prototype.version == version and version in serialized
                for ti in prototype.tis
            }
            created = tasks - IN_FUTURE if dated and run_type != "backfill" else tasks
            if lacking := (created - set(has)) | (tasks & set(has) - set(alive)):
                missing[run] = tuple(sorted(lacking))
        return missing

    def landed(self) -> None:
        """Write not a random fleet, but one run of version 1 of a DAG that has come to version 2."""
        one, two, *newer = self.prototypes["plain"]
        self._delete_versions(newer)
        self.latest["plain"] = two.version
        self.insert("dag_run", {**one.run, "run_id": "landed"})
        for ti in one.tis:
            self.insert("task_instance", {**ti, "id": self._uuid(), "run_id": "landed"})

    def steady(self, runs: int, dag_ids: Iterable[str]) -> None:
        """Write runs, divided among the DAGs, whose TIs are all of the latest version, and running."""
        ids = list(dag_ids)
        for number in range(runs):
            newest = self.prototypes[ids[number % len(ids)]][-1]
            run = {**newest.run, "run_id": f"steady_{number}", "start_date": self._now}
            self.insert("dag_run", {name: value for name, value in run.items() if name != "id"})
            for ti in newest.tis:
                row = {**ti, "id": self._uuid(), "run_id": run["run_id"], "state": "running"}
                self.insert("task_instance", row)

    def insert(self, table: str, row: Row) -> int | None:
        """Insert the values for which the table has columns. Return the new id, if there is one."""
        table, values = as_stored(table, row, self._columns)
        returning = "id" if "id" in self._columns[table] else "NULL"
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING " + returning).format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Placeholder, values)),
        )
        (key,) = self.connection.execute(
            statement,
            {name: Json(value) if isinstance(value, (dict, list)) else value for name, value in values.items()},
        ).fetchone() or (None,)
        return key

    def _dag(self, dag_id: str) -> list[Prototype]:
        """Leave some of a DAG's versions; return these."""
        its = self.prototypes[dag_id]
        most = max(self._random.randint(1, len(its)) for _ in range(2))
        kept = its[: 0 if self._chance(0.04) else most]
        self._delete_versions(its[len(kept) :])
        if kept:
            self.latest[dag_id] = kept[-1].version
            if self._chance(0.06):
                self.connection.execute("DELETE FROM serialized_dag WHERE dag_version_id = %s", (kept[-1].version,))
        self.connection.execute(
            "UPDATE dag SET is_paused = %s, is_stale = %s, max_active_runs = %s WHERE dag_id = %s",
            (self._chance(0.1), self._chance(0.05), self._random.choice([1, 2, 16]), dag_id),
        )
        if self._chance(0.5):  # else a run of the one that has a schedule is due
            self.connection.execute("UPDATE dag SET next_dagrun_create_after = NULL WHERE dag_id = %s", (dag_id,))
        return kept

    def _delete_versions(self, prototypes: Iterable[Prototype]) -> None:
        ids = [prototype.version for prototype in prototypes]
        self.connection.execute("DELETE FROM dag_version WHERE id = ANY (%s)", (ids,))

    def _run(self, number: int, every: list[Prototype], kept: list[Prototype]) -> None:
        origin = self._random.choice(kept or every)
        state = self._weighted({"running": 75, "queued": 15, "success": 5, "failed": 5})
        logical_date = self._weighted({None: 50, self._ago(hours=100 + number): 45, self._ago(hours=-30 - number): 5})
        run: Row = {
            **origin.run,
            "run_id": f"run_{number}",
            "state": state,
            "run_type": self._random.choice(RUN_TYPES if logical_date else ("manual", "asset_triggered")),
            "bundle_version": self._weighted({None: 75, "": 10, "abc": 15}),
            "created_dag_version_id": self._random.choice([None, *(one.version for one in kept)]),
            "run_after": self._ago(minutes=7 * number + 1) if self._chance(0.93) else self._ago(hours=-20 - number),
            "logical_date": logical_date,
            "data_interval_start": logical_date,
            "data_interval_end": logical_date and logical_date + timedelta(days=1),
            "queued_at": self._ago(hours=5),
            "start_date": None if state == "queued" else self._ago(minutes=self._random.choice([1, 90, 180])),
            "end_date": self._ago(minutes=1) if state in FINISHED else None,
            "last_scheduling_decision": self._random.choice([None, self._ago(minutes=number, seconds=5)]),
            "updated_at": self._ago(minutes=1),
        }
        del run["id"]
        key = self.insert("dag_run", run)
        if self._chance(0.15):
            self._backfill(key, run)
        self._tis(run["run_id"], origin, every, kept)

    def _backfill(self, run: int | None, row: Row) -> None:
        times = dict.fromkeys(("from_date", "to_date", "created_at", "updated_at"), self._ago(hours=1))
        backfill = self.insert(
            "backfill",
            {
                "dag_id": row["dag_id"],
                "is_paused": self._chance(0.2),
                "dag_run_conf": {},
                "reprocess_behavior": "none",
                "max_active_runs": self._random.choice([1, 16]),
                **times,
            },
        )
        link = {"backfill_id": backfill, "dag_run_id": run, "sort_ordinal": self._random.randint(1, 3)}
        self.insert("backfill_dag_run", link | {"logical_date": row["logical_date"] or self._now})
        self.connection.execute(
            "UPDATE dag_run SET backfill_id = %s, run_type = 'backfill' WHERE id = %s", (backfill, run)
        )

    def _tis(self, run_id: str, origin: Prototype, every: list[Prototype], kept: list[Prototype]) -> None:
        rows = {(ti["task_id"], ti["map_index"]): ti for ti in origin.tis if self._chance(0.9)}
        if self._chance(0.15):  # of another version there are some too
            rows |= {(ti["task_id"], ti["map_index"]): ti for ti in self._random.choice(every).tis if self._chance(0.5)}
        if self._chance(0.05):
            rows = {}
        if self._chance(0.4):
            rows = self._expanded(rows)
        versions = self._versions_of_tis(origin, kept)
        states = self._random.choice(
            [(None,), ("success", "running", None), ("success", "skipped"), (*UNFINISHED, *FINISHED), UNFINISHED]
        )
        for (_, map_index), ti in rows.items():
            self._ti(run_id, ti, map_index, self._random.choice(states), self._random.choice(versions), kept)
        if ("A", -1) in rows and rows["A", -1]["dag_id"] == "dynamic" and self._chance(0.7):
            self._finish_upstream(run_id)

    def _expanded(self, rows: dict[tuple[str, int], Row]) -> dict[tuple[str, int], Row]:
        """Let a task that is mapped over the XCom of another have been expanded."""
        dynamic = {key: ti for key, ti in rows.items() if key == ("m", -1) and ti["dag_id"] == "dynamic"}
        expanded = {("m", index): ti for ti in dynamic.values() for index in range(self._random.randint(1, 3))}
        return {key: ti for key, ti in rows.items() if key not in dynamic} | expanded

    def _finish_upstream(self, run_id: str) -> None:
        """Let the task whose XCom is mapped over have succeeded; its length need not be that of what is expanded."""
        condition = "(dag_id, task_id, run_id) = ('dynamic', 'A', %s)"
        if "working_set" in self._columns["task_instance"]:
            condition += " AND working_set"
        row = self.connection.execute(
            f"UPDATE task_instance SET state = 'success' WHERE {condition} RETURNING id", (run_id,)
        ).fetchone()
        assert row is not None
        length = self._random.randint(0, 3)
        if "task_map" in self._columns:
            key = {"dag_id": "dynamic", "task_id": "A", "run_id": run_id, "map_index": -1}
            self.insert("task_map", {**key, "length": length})
        else:  # from 3.4 on
            key = {"id": self._uuid(), "task_instance_id": row[0], "key": "return_value", "timestamp": self._now}
            self.insert("xcom_v2", {**key, "value": list(range(length)), "mapped_length": length})

    def _versions_of_tis(self, origin: Prototype, kept: list[Prototype]) -> list[UUID | None]:
        if not kept:
            return [None]
        choices: dict[str, list[UUID | None]] = {
            "origin": [origin.version],
            "any": [one.version for one in kept],
            "latest": [kept[-1].version],
        }
        return choices[self._weighted({"origin": 60, "any": 25, "latest": 15})]

    def _ti(
        self, run_id: str, ti: Row, map_index: int, state: str | None, version: UUID | None, kept: list[Prototype]
    ) -> None:
        started = self._ago(minutes=self._random.randint(1, 50)) if state in STARTED else None
        row = {
            **ti,
            "id": self._uuid(),
            "run_id": run_id,
            "map_index": map_index,
            "state": state,
            "dag_version_id": None if self._chance(NULL_VERSIONS) else version,
            "try_number": self._random.randint(0, 2) + (1 if started else 0),
            "start_date": started,
            "end_date": started and self._ago() if state in {"up_for_retry", *FINISHED} else None,
            "updated_at": self._ago(hours=1),
        }
        self.insert("task_instance", row)
        if self._chance(0.12):
            past = self._random.choice([None, *(one.version for one in kept)])
            earlier = {"state": "failed", "dag_version_id": past, "task_instance_id": self._uuid()}
            self.insert("task_instance_history", {**row, **earlier, "try_number": row["try_number"] - 1})

    def _ago(self, **how_long: float) -> datetime:
        return self._now - timedelta(**how_long)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _weighted(self, weights: Mapping[Any, float]) -> Any:
        (value,) = self._random.choices(list(weights), list(weights.values()))
        return value

    def _uuid(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)
