"""The same fleet in the hands of a stock scheduler and of one with dagbump, with the same faults, and who is worse off.

A test makes a fleet and says what happens to it: loops, and what other actors do between and in them. `Harness.both`
lets that happen twice, on copies of one database; `worse` names what is worse with dagbump.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from dagbump import __version__
from psycopg import sql

from support.loop_comparison import Key, Row, by_key, snapshot
from support.releases import environments
from support.releases.live_dag import LiveDag, Tis, tis_of
from support.releases.scheduler import Scheduler
from support.specification import FINISHED

IS_ON = f"INFO: dagbump {__version__} is on: one dagbump.bump per scheduler loop"
BAD = set(FINISHED) - {"success"}
# From 3.4 on, past tries are in the same table.
LIVE = "working_set" if environments.number() >= (3, 4) else "TRUE"


@dataclass
class Life:
    """The end of a fleet: its rows, and what was logged."""

    loops: list[dict[str, Any]] = field(default_factory=list)  # answers of inside_airflow/never_worse.py
    runs: dict[Key, Row] = field(default_factory=dict)
    tis: dict[Key, Row] = field(default_factory=dict)
    by_run: dict[int, Tis] = field(default_factory=dict)
    metrics: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> list[str | None]:
        return [loop["error"] for loop in self.loops]

    @property
    def lines(self) -> list[str]:
        return [line for loop in self.loops for line in loop["logged"]]

    def state_of(self, dag: LiveDag) -> str:
        """Return the state of a DAG's first run."""
        (state,) = [run["state"] for run in self.runs.values() if run["id"] == dag.run]
        return str(state)

    def warnings_of(self, dag: LiveDag) -> list[str]:
        """Return dagbump's warnings that name the DAG."""
        named = re.compile(rf"WARNING: .*\b{dag.dag_id}\b")
        return [line for line in self.lines if named.match(line)]


def worse(stock: Life, dagbump: Life) -> str:
    """Return what is worse with dagbump than with the stock scheduler, one line each."""
    return "\n".join([*_worse_loops(stock, dagbump), *_worse_runs(stock, dagbump), *_worse_tis(stock, dagbump)])


def _worse_loops(stock: Life, dagbump: Life) -> Iterator[str]:
    for number, (theirs, ours) in enumerate(zip(stock.errors, dagbump.errors, strict=True), start=1):
        if ours and not theirs:
            yield f"loop {number} is left by {ours}"


def _worse_runs(stock: Life, dagbump: Life) -> Iterator[str]:
    for key, theirs in stock.runs.items():
        ours = dagbump.runs[key]
        if theirs["state"] != "running" and ours["state"] != theirs["state"]:
            yield f"run {key} is {theirs['state']} on stock, and {ours['state']} here"


def _worse_tis(stock: Life, dagbump: Life) -> Iterator[str]:
    for key, theirs in stock.tis.items():
        ours = dagbump.tis.get(key)
        if theirs["state"] == "removed":
            continue
        if ours is None:
            yield f"TI {key} is {theirs['state']} on stock, and missing here"
        elif ours["state"] != theirs["state"] and (theirs["state"] in FINISHED or ours["state"] in BAD):
            yield f"TI {key} is {theirs['state']} on stock, and {ours['state']} here"


class Harness:
    """One scheduler's process, a database of its own for each test, and a copy of that for each life."""

    def __init__(self, scheduler: Scheduler, base: str, statsd: socket.socket) -> None:
        """Put an empty database before the scheduler, which is stock."""
        self._scheduler = scheduler
        self._statsd = statsd
        self._dags: list[LiveDag] = []
        self._connections = ExitStack()
        self._fleet = f"{scheduler.database}_fleet"
        self._begin(base, dagbump=False)

    def dag(self, tasks: str, states: Mapping[str, str], *, write: str = "") -> LiveDag:
        """Start a run of a new DAG, whose TIs have come to these states; perhaps write its second version."""
        dag = LiveDag(self.worker, self.connection)
        self._dags.append(dag)
        dag.start(tasks, states)
        if write:
            dag.write(write)
        return dag

    def both(self, life: Callable[[], object]) -> tuple[Life, Life]:
        """Let the fleet live with a stock scheduler, and with one that has dagbump."""
        self.save()
        return self.live(life, dagbump=False), self.live(life, dagbump=True)

    def save(self) -> None:
        """Keep the fleet as it is: each life begins with it."""
        self.close()
        self._scheduler.save(self._fleet)

    def live(self, life: Callable[[], object], *, dagbump: bool) -> Life:
        """Let the fleet live."""
        self._begin(self._fleet, dagbump=dagbump)
        life()
        return self._end()

    def loop(self, fault: str | None = None, **options: Any) -> dict[str, Any]:
        """Let the scheduler do a loop, in which something may go wrong."""
        known = {name: options.pop(name) for name in ("file", "before_statement", "sessions_end") if name in options}
        answer: dict[str, Any] = self.worker("do_loop", fault=fault, arguments=options, **known)
        self.life.loops.append(answer)
        return answer

    def loops(self, count: int, fault: str | None = None, **options: Any) -> None:
        """Let it do some, between which all that has been queued succeeds."""
        for _ in range(count):
            self.loop(fault, **options)
            self.finish_tasks()

    def finish_tasks(self) -> None:
        """Let the TIs succeed that run, or would run."""
        self.execute(
            "UPDATE task_instance SET state = 'success', start_date = now(), end_date = now() "
            f"WHERE state IN ('scheduled', 'queued', 'running') AND {LIVE}"
        )

    def pass_time(self, seconds: float = 61) -> None:
        """Let time pass for the scheduler: by default, the interval in which missing tasks are looked for once."""
        self.worker("pass_time", seconds=seconds)

    def execute(self, statement: str, *parameters: Any) -> psycopg.Cursor[Any]:
        return self.connection.execute(statement.encode(), parameters or None)

    @contextmanager
    def other(self, statement: str, *parameters: Any) -> Iterator[psycopg.Connection[Any]]:
        """Let somebody else do something, and hold it."""
        with self._scheduler.connection(autocommit=False) as other:
            other.execute(statement.encode(), parameters or None)
            yield other
            other.rollback()
        other.close()

    def reconnect(self) -> None:
        """Let the scheduler make new connections, on which new settings and rights are in force."""
        self.worker("disconnect")

    def set_for_all(self, setting: str, value: str | None) -> None:
        """Change a default of the database; None: reset it."""
        how = sql.SQL("RESET {}" if value is None else "SET {} = {}")
        names = [sql.Identifier(setting), *([] if value is None else [sql.Literal(value)])]
        database = sql.Identifier(self._scheduler.database)
        self.connection.execute(sql.SQL("ALTER DATABASE {} ").format(database) + how.format(*names))
        self.reconnect()

    def close(self) -> None:
        self._connections.close()

    def _begin(self, template: str, *, dagbump: bool) -> None:
        self.close()
        self.connection = self._connections.enter_context(closing(self._scheduler.replace_database(template)))
        self.worker = self._scheduler.worker
        for dag in self._dags:
            dag.connection = self.connection
        assert self.worker("begin", dagbump=dagbump) == [IS_ON] * dagbump
        self._received()
        self.life = Life()

    def _end(self) -> Life:
        rows = snapshot(self.connection)
        life = self.life
        life.runs, life.tis = by_key(rows, "dag_run"), by_key(rows, "task_instance")
        life.by_run = {run["id"]: tis_of(self.connection, run["id"]) for run in life.runs.values()}
        life.metrics = self._received()
        return life

    def _received(self) -> Counter[str]:
        """Return what Airflow's Stats have counted since the last time."""
        counted: Counter[str] = Counter()
        with suppress(BlockingIOError):
            while True:
                name, _, value = self._statsd.recv(65535).decode().partition(":")
                number, _, kind = value.partition("|")
                if kind.startswith("c"):
                    counted[name.removeprefix("airflow.").partition(",")[0]] += int(number)
        return counted
