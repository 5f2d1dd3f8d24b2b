"""Compares two databases, in which a stock scheduler and one with dagbump have done the same loops, row by row.

Ids, times and durations that a loop has created are not compared, only whether they are there. TIs that dagbump moves
and the stock scheduler leaves are no difference: `mended` lists them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from support.fleet import named_as_up_to_3_3
from support.specification import FINISHED

Row = dict[str, Any]
Snapshot = dict[str, list[Row]]  # rows by table
Key = tuple[Any, ...]

KEYS: Mapping[str, tuple[str, ...]] = {
    "dag": ("dag_id",),
    "dag_run": ("dag_id", "run_id"),
    "dag_version": ("dag_id", "version_number"),
    "task_instance": ("dag_id", "run_id", "task_id", "map_index"),
}
MOVED = ("dag_version_id", "updated_at")  # what dagbump writes
GENERATED_TYPES = (datetime, UUID, float)  # float: a duration
# Ids and points in time inside JSON: a UUID, an ISO date, a trace's parent.
GENERATED = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"
)


def snapshot(connection: psycopg.Connection[Any]) -> Snapshot:
    """Read all that is in Airflow's tables."""
    tables = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE (table_schema, table_type) = ('public', 'BASE TABLE')"
    ).fetchall()
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = {
            table: cursor.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))).fetchall()
            for (table,) in sorted(tables)
        }
    return _as_up_to_3_3(rows) if "dynamic_region" in rows else rows


def _as_up_to_3_3(snapshot: Snapshot) -> Snapshot:
    """Part task instances and past tries, as Airflow did before it kept both in one table."""
    tries = [named_as_up_to_3_3(ti) for ti in snapshot["task_instance"]]
    return snapshot | {
        "task_instance": [ti for ti in tries if ti["working_set"]],
        "task_instance_history": [ti for ti in tries if not ti["working_set"]],
    }


def by_key(snapshot: Snapshot, table: str) -> dict[Key, Row]:
    return {tuple(row[name] for name in KEYS[table]): row for row in snapshot[table]}


def pairs(before: Snapshot, after: Snapshot, table: str) -> Iterator[tuple[Row, Row]]:
    found = by_key(after, table)
    # One that is expanded gets another key.
    yield from ((row, found[key]) for key, row in by_key(before, table).items() if key in found)


@dataclass
class Comparison:
    """The result of two schedulers on copies of one database.

    Attributes:
        before: the rows before the loops.
        stock: the rows after the stock scheduler.
        dagbump: the rows after the scheduler with dagbump.
        latest: the latest version of each DAG, by dag_id.
        mended: keys of the TIs that dagbump alone has moved to the latest version.
        differences: all other differences, to be read by a person.
    """

    before: Snapshot
    stock: Snapshot
    dagbump: Snapshot
    latest: Mapping[str, UUID]
    mended: list[Key] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        values = [value for rows in self.before.values() for row in rows for value in row.values()]
        self._known = {value for value in values if isinstance(value, GENERATED_TYPES)}
        self._known_texts = {text for value in values for text in GENERATED.findall(as_text(value))}
        self._tis_before = by_key(self.before, "task_instance")
        # A removed TI is moved when it is restored; update_state may remove it again, as a map index that is too many.
        self._stale_tasks = {
            key[:3] for key, ti in self._tis_before.items() if self._is_stale(ti) or ti["state"] == "removed"
        }
        self._scheduled = set(self._runs_scheduled())
        assert self.stock.keys() == self.dagbump.keys()
        for table in self.stock:
            compare = self._compare_by_key if table in KEYS else self._compare_as_bags
            self.differences += [f"{table}: {difference}" for difference in compare(table)]

    def runs(self) -> Iterator[tuple[Row, Row]]:
        """Yield the runs that were there before, as they were, and as dagbump's scheduler left them."""
        yield from pairs(self.before, self.dagbump, "dag_run")

    def tis(self) -> Iterator[tuple[Row, Row]]:
        """Yield the TIs that were there before, as they were, and as dagbump's scheduler left them."""
        yield from pairs(self.before, self.dagbump, "task_instance")

    def created(self, table: str) -> list[Row]:
        """Return the rows that dagbump's scheduler has created."""
        before = by_key(self.before, table)
        return [row for key, row in by_key(self.dagbump, table).items() if key not in before]

    def stale(self, *dag_runs: Key) -> list[Row]:
        """Return the stale TIs of runs, as dagbump's scheduler found them, that it left so."""
        return [
            ti
            for was, ti in self.tis()
            if (ti["dag_id"], ti["run_id"]) in dag_runs
            and self._is_stale(was)
            and ti["dag_version_id"] == was["dag_version_id"]
        ]

    def was_stale(self, key: Key) -> bool:
        """Say whether a TI, or another of its task, from which it may have been expanded, was stale or removed."""
        return key[:3] in self._stale_tasks

    def had_no_version(self, key: Key) -> bool:
        """Say whether a TI was there before, without a version."""
        return key in self._tis_before and self._tis_before[key]["dag_version_id"] is None

    def _compare_by_key(self, table: str) -> Iterator[str]:
        stock, dagbump = by_key(self.stock, table), by_key(self.dagbump, table)
        for key in sorted(stock.keys() | dagbump.keys()):
            if key not in stock or key not in dagbump:
                only, row = ("stock", stock[key]) if key in stock else ("dagbump", dagbump[key])
                yield f"{key} is only in the database of {only}: {self._readable(row)}"
                continue
            for name in self._columns_to_compare(table, key, stock[key], dagbump[key]):
                mine, other = self._scrubbed(dagbump[key][name]), self._scrubbed(stock[key][name])
                if mine != other:
                    yield f"{key}.{name}: stock {stock[key][name]!r}, dagbump {dagbump[key][name]!r}"

    def _columns_to_compare(self, table: str, key: Key, stock: Row, dagbump: Row) -> list[str]:
        if table == "task_instance" and self._is_mended(key, stock, dagbump):
            self.mended.append(key)
            return [name for name in stock if name not in MOVED]
        return list(stock)

    def _is_mended(self, key: Key, stock: Row, dagbump: Row) -> bool:
        """Say whether a TI was stale, is on the latest version with dagbump, and is not without it."""
        latest = self.latest.get(dagbump["dag_id"])
        if latest is None or dagbump["dag_version_id"] != latest or stock["dag_version_id"] == latest:
            return False
        if key[:2] not in self._scheduled:
            return False
        before = self._tis_before.get(key)
        if before is None:
            # Without a version, it was created by one loop, and found by the next one; else it comes from the expansion
            # of a task, with the version of another TI of that task.
            return stock["dag_version_id"] is None or self.was_stale(key)
        return self._is_stale(before) or before["state"] == "removed"

    def _runs_scheduled(self) -> Iterator[Key]:
        """Yield the keys of the runs that may be bumped: unpinned ones that the stock scheduler has made a decision on.

        Not with those, for example, that it has not examined, has ended for their timeout, or has found without a DAG.
        """
        before = by_key(self.before, "dag_run")
        for key, run in by_key(self.stock, "dag_run").items():
            decided = run["last_scheduling_decision"]
            if not run["bundle_version"] and (key not in before or decided != before[key]["last_scheduling_decision"]):
                yield key

    def _is_stale(self, ti: Row) -> bool:
        return ti["state"] not in FINISHED and ti["dag_version_id"] != self.latest.get(ti["dag_id"])

    def _compare_as_bags(self, table: str) -> Iterator[str]:
        stock, dagbump = self._bag(self.stock[table]), self._bag(self.dagbump[table])
        yield from (f"only in the database of stock: {row}" for row in (stock - dagbump).elements())
        yield from (f"only in the database of dagbump: {row}" for row in (dagbump - stock).elements())

    def _bag(self, rows: Iterable[Row]) -> Counter[str]:
        return Counter(self._readable(row) for row in rows)

    def _readable(self, row: Row) -> str:
        return str({name: self._scrubbed(value) for name, value in row.items()})

    def _scrubbed(self, value: Any) -> Hashable:
        """Leave of a generated value that was not there before its kind alone."""
        if isinstance(value, GENERATED_TYPES):
            return str(value) if value in self._known else f"a new {type(value).__name__}"
        if isinstance(value, (dict, list, str)) and as_text(value):
            return GENERATED.sub(
                lambda found: found[0] if found[0] in self._known_texts else "a new one", as_text(value)
            )
        known: Hashable = value
        return known


def as_text(value: Any) -> str:
    """Return ids and times as JSON writes them; nothing for other values."""
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, default=str)
    if isinstance(value, str) and value.startswith("{"):  # a callback's request, in JSON
        return value
    return str(value) if isinstance(value, UUID) else ""
