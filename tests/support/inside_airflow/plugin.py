"""Like components.py, for the plugin: turns it on and off in one process, and lets things go wrong in a loop."""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from types import FunctionType, ModuleType
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import airflow
import sqlalchemy as sa
from airflow import settings
from airflow.configuration import conf
from airflow.jobs import scheduler_job_runner
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.listeners import hookimpl
from airflow.listeners.listener import get_listener_manager
from airflow.models import dagrun
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.utils.retries import retry_db_transaction
from airflow.utils.sqlalchemy import prohibit_commit
from airflow.utils.state import DagRunState
from dagbump import client
from dagbump.airflow_metrics import Metric
from dagbump.airflow_plugin import DagbumpPlugin
from dagbump.airflow_plugin.page import plugin_state
from dagbump.airflow_plugin.reporting import Reporter
from dagbump.airflow_plugin.scheduling import Scheduling
from dagbump.airflow_settings import OPTIONS
from dagbump.results import BumpResult, RunScope
from sqlalchemy.exc import OperationalError

from support.inside_airflow import other_patches
from support.inside_airflow.components import Commands, main
from support.inside_airflow.loops import verifies

# What the plugin replaces.
REPLACED = (
    (SchedulerJobRunner, "_schedule_all_dag_runs"),
    (SchedulerJobRunner, "_verify_integrity_if_dag_changed"),
    (DagRun, "get_running_dag_runs_to_examine"),
)
STOCK = {(owner, name): vars(owner)[name] for owner, name in REPLACED}


def as_written_in(module: ModuleType) -> Callable[[Any], Any]:
    """Let a function look as if it came with Airflow."""
    return lambda function: FunctionType(function.__code__, vars(module), function.__name__)


@retry_db_transaction
@as_written_in(dagrun)
def with_a_limit(session: Any, limit: int) -> None: ...


def without_version(self: Any, *, session: Any) -> None: ...


@as_written_in(scheduler_job_runner)
def without_retries(self: Any, guard: Any, dag_runs: Any, session: Any) -> None: ...


class Panic(BaseException):
    """An error that `except Exception` does not catch, for example of a library in another language."""


def enabled(value: str) -> AbstractContextManager[Any]:
    return patch.dict(os.environ, {"AIRFLOW__DAGBUMP__ENABLED": value})


def warn_held_after(value: str) -> AbstractContextManager[Any]:
    return patch.dict(os.environ, {"AIRFLOW__DAGBUMP__WARN_HELD_AFTER": value})


def missing_tasks_interval(value: str) -> AbstractContextManager[Any]:
    return patch.dict(os.environ, {"AIRFLOW__DAGBUMP__MISSING_TASKS_INTERVAL": value})


@contextmanager
def as_variables(options: Mapping[str, str]) -> Iterator[bool]:
    """Set the environment variables of these options, and unset those of others."""
    with patch.dict(os.environ):
        for name in OPTIONS:
            os.environ.pop(f"AIRFLOW__DAGBUMP__{name.upper()}", None)
        os.environ.update({f"AIRFLOW__DAGBUMP__{name.upper()}": value for name, value in options.items()})
        yield True


@contextmanager
def in_airflow_cfg(options: Mapping[str, str]) -> Iterator[bool]:
    """Have a section [dagbump] read, as Airflow reads it in its file; yield whether it could."""
    lines = [f"{name} = {value}" for name, value in options.items()]
    with as_variables({}):
        try:
            conf.read_string("\n".join(["[dagbump]", *lines, ""]))
        except configparser.Error:
            yield False
        else:
            yield True
        finally:
            conf.remove_section("dagbump")


MISFITS: dict[str, AbstractContextManager[Any]] = {
    "release": patch.object(airflow, "__version__", "3.5.0"),
    "method gone": patch.object(SchedulerJobRunner, "_verify_integrity_if_dag_changed", None),
    "other parameters": patch.object(DagRun, "get_running_dag_runs_to_examine", with_a_limit),
    "parameter gone": patch.object(DagRun, "verify_integrity", without_version),
    "no retries": patch.object(SchedulerJobRunner, "_schedule_all_dag_runs", without_retries),
    "database": patch.object(settings, "engine", sa.create_engine("sqlite://")),
    "disabled": enabled("False"),
    "enabled: yes please": enabled("yes please"),
    "enabled, but empty": enabled(""),
    "warn_held_after: a while": warn_held_after("a while"),
    "warn_held_after: -1": warn_held_after("-1"),
    "warn_held_after: nan": warn_held_after("nan"),
    "warn_held_after: 0": warn_held_after("0"),
    "warn_held_after: next loop": warn_held_after("0.000001"),
    "missing_tasks_interval: a while": missing_tasks_interval("a while"),
    "missing_tasks_interval: -1": missing_tasks_interval("-1"),
    "missing_tasks_interval: nan": missing_tasks_interval("nan"),
    "missing_tasks_interval: 0": missing_tasks_interval("0"),
    "module gone": patch.dict(sys.modules, {"airflow.jobs.job": None}),
    "configuration fails": patch.object(conf, "getboolean", side_effect=ValueError("no such file")),
    "the first try fails": patch.object(
        client, "bump", side_effect=[OperationalError("a statement", {}, Exception("cancelled")), BumpResult(())]
    ),
    "panic": patch.object(client, "bump", side_effect=Panic("a library has given up")),
    "sessions fail": patch.object(sa.event, "listen", side_effect=RuntimeError("no more listeners")),
    "not a scheduler": patch.dict(sys.modules, {"airflow.jobs.scheduler_job_runner": None}),
}


class PluginCommands(Commands):
    """The commands: those of the other worker, and some for the plugin."""

    def stop_scheduler(self) -> None:
        """Put Airflow's own functions back."""
        for (owner, name), stock in STOCK.items():
            setattr(owner, name, stock)
        if hasattr(SchedulerJobRunner, "dagbump"):
            del SchedulerJobRunner.dagbump

    def is_stock(self) -> bool:
        """Say whether all functions are Airflow's own."""
        return all(vars(owner)[name] is stock for (owner, name), stock in STOCK.items())

    def start_scheduler_with(self, misfit: str) -> list[str]:
        """Turn the plugin on in an Airflow that it does not fit, and answer its log lines."""
        with MISFITS[misfit]:
            return self.start_scheduler()

    def start_scheduler_configured(self, options: Mapping[str, str], *, in_file: bool) -> dict[str, Any] | None:
        """Turn the plugin on with these options and nothing else of section [dagbump], in airflow.cfg or as variables.

        Answer its log lines, what the page in the UI would say, and None if Airflow cannot read such a file.
        """
        with in_airflow_cfg(options) if in_file else as_variables(options) as was_read:
            return {"logged": self.start_scheduler(), "shown": plugin_state.is_enabled()} if was_read else None

    def patch(self, name: str, how: str) -> None:
        """Let somebody else patch one of the functions that the plugin replaces."""
        (owner,) = [owner for owner, replaced in REPLACED if replaced == name]
        other_patches.patch(owner, name, how)

    def calls_of_patches(self) -> list[str]:
        """Answer which of somebody else's patches have been called since the last time."""
        calls = other_patches.calls.copy()
        other_patches.calls.clear()
        return calls

    def start_job_beside_others(self, misfit: str) -> dict[str, Any]:
        """Let Airflow call all listeners that there are, dagbump's between two others; answer who has started."""
        started: list[str] = []
        (ours,) = DagbumpPlugin.listeners
        with MISFITS[misfit], listening(Other("first", started), ours, Other("last", started)):
            Job()
        return {"started": started, "logged": self.logged()}

    def let_the_interval_pass(self) -> None:
        """Let it be long ago that missing tasks were looked for, and that a verify_integrity was tried."""
        for memory in SchedulerJobRunner.dagbump.memory.runs.values():
            memory.looked_at = -inf
            memory.tried = None

    def let_a_day_pass(self) -> None:
        """Let it be long ago that a loop examined the runs that are remembered."""
        for memory in SchedulerJobRunner.dagbump.memory.runs.values():
            memory.seen = -inf

    def clear(self, run: int, task: str, *, on_latest: bool = False) -> None:
        """Clear a task instance, as a person does; "on the latest version" from Airflow 3.1 on."""
        orm = self.airflow.session("api server")
        ti = self._tis(orm, run)[task]
        options = {"run_on_latest_version": True} if on_latest else {}
        clear_task_instances([ti], orm, dag_run_state=DagRunState.RUNNING, **options)
        self.end("api server", "commit")

    def remembered(self) -> list[int]:
        """Answer which runs the plugin knows something about that the database does not say."""
        runs = SchedulerJobRunner.dagbump.memory.runs
        return sorted(run for run, memory in runs.items() if memory.unverified or memory.verified)

    def loop(
        self,
        fault: str | None = None,
        run: int | None = None,
        meanwhile: Mapping[str, str] | None = None,
        when: str = "before the bump",
    ) -> dict[str, Any]:
        """Do a scheduler's loop; answer what became of it.

        Args:
            fault: what goes wrong, one of `FAULTS`.
            run: the only run, whatever its state; the scheduler has no lock on it.
            meanwhile: what somebody else does: {"statement": …}, or the DAG file that the DAG processor writes.
            when: when that is, one of `TIMES`.
        """
        bumps: list[list[int]] = []
        verified: list[int] = []
        skipped: list[int] = []
        loaded_by_verifying: list[object] = []
        tis: list[object] = []
        error = None
        others = partial(self._do, **meanwhile) if meanwhile else lambda: None
        with (
            counted_bumps(bumps),
            verifies(verified),
            watched_verify(skipped, loaded_by_verifying),
            loaded(tis),
            FAULTS[fault](),
            TIMES[when](others),
        ):
            try:
                self._examine_and_schedule(tis, run)
            except Exception as raised:  # noqa: BLE001  (the test shall see it)
                error = f"{type(raised).__name__}: {raised}"
        return {
            "error": error,
            "logged": self.logged(),
            "bumps": bumps,
            "verified": verified,
            "skipped": skipped,
            "loaded_by_examining": tis[0],
            "loaded_by_verifying": len(loaded_by_verifying),
        }

    def _examine_and_schedule(self, tis: list[object], run: int | None) -> None:
        assert settings.NonScopedSession is not None
        with closing(settings.NonScopedSession()) as session, prohibit_commit(session) as guard:
            runs = [session.get(DagRun, run)] if run else self.airflow.examine(session)
            tis[:] = [len(tis)]
            self.airflow.scheduler._schedule_all_dag_runs(guard, runs, session)

    def _do(self, statement: str = "", file: str = "", source: str = "") -> None:
        if file:
            self.write_dag(file, source)
        else:
            assert settings.engine is not None
            with settings.engine.begin() as other:
                other.execute(sa.text(statement))


@dataclass(eq=False)
class Other:
    """Somebody else's listener."""

    name: str
    started: list[str]

    @hookimpl
    def on_starting(self, component: object) -> None:  # noqa: ARG002  (pluggy goes by the name)
        self.started.append(self.name)


@contextmanager
def listening(*listeners: object) -> Iterator[None]:
    manager = get_listener_manager()
    try:
        for listener in listeners:
            manager.add_listener(listener)
        yield
    finally:
        manager.clear()


@contextmanager
def counted_bumps(bumps: list[list[int]]) -> Iterator[None]:
    def bump(session: Any, dag_run_ids: list[int], **arguments: Any) -> Any:
        bumps.append(dag_run_ids)
        return original(session, dag_run_ids=dag_run_ids, **arguments)

    original = client.bump
    with patch.object(client, "bump", bump):
        yield


@contextmanager
def watched_verify(skipped: list[int], loaded_tis: list[object]) -> Iterator[None]:
    """Collect the runs whose verify_integrity was due and would do nothing, and the TIs that the others had loaded."""

    def count(self: Any, metric: Metric, number: int = 1) -> None:
        if metric is Metric.VERIFY_SKIPPED:
            skipped.append(runs[-1])
        stock_count(self, metric, number)

    def verify(self: Any, loop: Any, run: Any, *, mending: bool) -> None:
        runs.append(run.id)
        with patch.object(DagRun, "fetch_task_instances", staticmethod(fetch)):
            stock_verify(self, loop, run, mending=mending)

    def fetch(**arguments: Any) -> Any:
        tis = stock_fetch(**arguments)
        loaded_tis.extend(tis)
        return tis

    runs: list[int] = []
    stock_verify, stock_fetch, stock_count = Scheduling._verify, DagRun.fetch_task_instances, Reporter.count
    with patch.object(Scheduling, "_verify", verify), patch.object(Reporter, "count", count):
        yield


@contextmanager
def loaded(tis: list[object]) -> Iterator[None]:
    def on_load(ti: object, _: object) -> None:
        tis.append(ti)

    sa.event.listen(TaskInstance, "load", on_load)
    try:
        yield
    finally:
        sa.event.remove(TaskInstance, "load", on_load)


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def verify_raises() -> Iterator[None]:
    def verify_integrity(self: Any, **_: Any) -> None:
        raise RuntimeError(f"no verify_integrity of {self.run_id}")

    with patch.object(DagRun, "verify_integrity", verify_integrity):
        yield


@contextmanager
def another_creates_the_same() -> Iterator[None]:
    """Just before verify_integrity writes its new task instances, somebody else commits the same."""

    def create(self: Any, dag_id: str, tasks: Any, *args: Any, **kwargs: Any) -> None:
        mappings = list(tasks)
        assert settings.NonScopedSession is not None
        theirs = [mapping | {"id": str(uuid4())} for mapping in mappings]
        with closing(settings.NonScopedSession()) as other:
            other.bulk_insert_mappings(sa.inspect(TaskInstance), theirs)
            other.commit()
        original(self, dag_id, iter(mappings), *args, **kwargs)

    original = DagRun._create_task_instances
    with patch.object(DagRun, "_create_task_instances", create):
        yield


@contextmanager
def database_fails(times: int) -> Iterator[None]:
    """The first tries to schedule a run fail with an error after which Airflow tries again."""

    def schedule(self: Any, dag_run: Any, session: Any) -> Any:
        callback = original(self, dag_run, session)
        tries.append(dag_run.run_id)
        if len(tries) <= times:
            raise OperationalError("a statement", {}, Exception(f"try {len(tries)}"))
        return callback

    tries: list[str] = []
    original = SchedulerJobRunner._schedule_dag_run
    with patch.object(SchedulerJobRunner, "_schedule_dag_run", schedule):
        yield


@contextmanager
def connection_is_lost() -> Iterator[None]:
    """The server ends the scheduler's session, once, when it is to bump."""

    def bump(session: Any, **arguments: Any) -> Any:
        if not lost:
            lost.append(True)
            pid = session.connection().connection.driver_connection.info.backend_pid
            assert settings.engine is not None
            with settings.engine.connect() as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        return counted(session, **arguments)

    lost: list[bool] = []
    counted = client.bump
    with patch.object(client, "bump", bump):
        yield


@contextmanager
def bump_fails_at_its_end() -> Iterator[None]:
    """The answer of the bump is there already when its savepoint is rolled back."""

    def take(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        raise RuntimeError("too late")

    original = Scheduling._take
    with patch.object(Scheduling, "_take", take):
        yield


def mutation_hook() -> AbstractContextManager[Any]:
    """Let the deployment have a task_instance_mutation_hook."""
    return patch.object(settings, "task_instance_mutation_hook", lambda _, **__: None)


@contextmanager
def unreadable_dags() -> Iterator[None]:
    """The serialized DAGs cannot be read, as if Airflow compressed them."""

    def verify_scope(_: Any, dag_run_ids: Any) -> Any:
        return tuple(RunScope(run, None, None, None, None) for run in dag_run_ids)

    with patch.object(client, "verify_scope", verify_scope):
        yield


@contextmanager
def holders_are_gone() -> Iterator[None]:
    """The function is not there when it is asked."""

    def holders(connection: Any, _: object) -> Any:
        connection.execute(sa.text("SELECT * FROM dagbump.nobody()"))

    with patch.object(client, "holders", holders):
        yield


@contextmanager
def only_one_savepoint() -> Iterator[None]:
    """The first savepoint, for the bump, can be opened. Opening another one raises."""
    opened = 0

    def begin_nested(connection: Any) -> Any:
        nonlocal opened
        opened += 1
        if opened > 1:
            raise OperationalError("SAVEPOINT", None, Exception("no more savepoints"))
        return original(connection)

    original = sa.engine.Connection.begin_nested
    with patch.object(sa.engine.Connection, "begin_nested", begin_nested):
        yield


@contextmanager
def holders_are_not_asked() -> Iterator[None]:
    with patch.object(client, "holders", side_effect=AssertionError("asked")):
        yield


FAULTS: dict[str | None, Callable[[], AbstractContextManager[None]]] = {
    None: nothing,
    "verify raises": verify_raises,
    "another creates the same": another_creates_the_same,
    "database fails once": partial(database_fails, 1),
    "database fails": partial(database_fails, 100),
    "connection is lost": connection_is_lost,
    "bump fails at its end": bump_fails_at_its_end,
    "mutation hook": mutation_hook,
    "unreadable DAGs": unreadable_dags,
    "holders are gone": holders_are_gone,
    "holders are not asked": holders_are_not_asked,
    "only one savepoint": only_one_savepoint,
}


@contextmanager
def before_the_loop(others: Callable[[], None]) -> Iterator[None]:
    """Between the choice of the runs and the loop."""

    def looping(*arguments: Any) -> AbstractContextManager[list[Any]]:
        others()
        return original(*arguments)

    original = Scheduling.looping
    with patch.object(Scheduling, "looping", looping):
        yield


@contextmanager
def around_the_bump(others: Callable[[], None], *, before: bool, seen: bool) -> Iterator[None]:
    """Just before the bump, or just after it; if it has been seen, the bump has left the run alone."""

    def bump(session: Any, **arguments: Any) -> Any:
        if before:
            others()
        result = BumpResult(()) if seen else original(session, **arguments)
        if not before:
            others()
        return result

    original = client.bump
    with patch.object(client, "bump", bump):
        yield


TIMES: dict[str, Callable[[Callable[[], None]], AbstractContextManager[None]]] = {
    "before the loop": before_the_loop,
    "before the bump": partial(around_the_bump, before=True, seen=False),
    "in the middle of the bump": partial(around_the_bump, before=True, seen=True),
    "after the bump": partial(around_the_bump, before=False, seen=False),
}


if __name__ == "__main__":
    main(PluginCommands)
