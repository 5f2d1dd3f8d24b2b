"""Like plugin.py and loops.py, for one process that is a stock scheduler, or one with dagbump, as it is told.

A loop is all of `_do_scheduling`. What goes wrong in it goes wrong in either kind of scheduler; only an exception at a
call of the plugin's own (`calls_of_plugin`) has no counterpart in a stock one.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from types import FrameType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa
import tenacity
from airflow import settings
from airflow.jobs import scheduler_job_runner
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from dagbump import airflow_plugin, client
from dagbump.airflow_plugin import compatibility, patches
from sqlalchemy.exc import DBAPIError, OperationalError

from support.inside_airflow.components import Airflow, main
from support.inside_airflow.loops import LoopCommands, in_short, session, verifies
from support.inside_airflow.plugin import PluginCommands, nothing, verify_raises

# Modules whose functions fail for reasons of their own. What makes an attribute, a clause or a log record does not.
CAN_FAIL = ("airflow.", "dagbump.client", "dagbump.wording", "sqlalchemy.engine.", "sqlalchemy.orm.session")
# Of a session, those that talk to the database.
OF_SESSION = ("commit", "connection", "execute", "flush", "get", "scalar", "scalars")
ERRORS: dict[str, Callable[[str], Exception]] = {
    "RuntimeError": RuntimeError,
    "OperationalError": lambda message: OperationalError("a statement", {}, Exception(message)),
}
# Modules of decorators, whose frames stand between a function and its caller.
WRAPPERS = ("airflow.utils.retries", "airflow.utils.session", "contextlib", "support.inside_airflow", "tenacity")


class NeverWorseCommands(PluginCommands, LoopCommands):
    """The commands: those of the other workers, and loops in which something goes wrong."""

    def begin(self, *, dagbump: bool) -> list[str]:
        """Start again, as a stock scheduler or one with dagbump, on another database."""
        self.stop_scheduler()
        self.connect()
        self.logged()
        return self.start_scheduler() if dagbump else []

    def write_dag(self, file: str, source: str, session: str = "dag processor", *, commit: bool = True) -> None:
        """Write it at once, in a process that, unlike a scheduler, does not wait between two versions of a DAG."""
        with patch.dict(os.environ, {"AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0"}):
            super().write_dag(file, source, session, commit=commit)

    def verify_as_another_scheduler(self, run: int) -> None:
        """Let another scheduler, which has read nothing yet, verify a run for the latest version of its DAG."""
        ours, self.airflow = self.airflow, Airflow()
        self.verify_run(run)
        self.airflow = ours

    def push(self, run: int, names: list[str], value: list[str]) -> None:
        """Let TIs succeed and push this value, over which other tasks may be mapped."""
        orm = self.airflow.session("api server")
        for name in names:
            ti = self._tis(orm, run)[name]
            ti.state = "success"
            self.airflow.push(ti, value, orm)
        self.end("api server", "commit")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, for Airflow and for dagbump."""
        clock.ahead += seconds
        for name, module in list(sys.modules.items()):
            if name.startswith(airflow_plugin.__name__) and hasattr(module, "monotonic"):
                module.monotonic = clock  # type: ignore[attr-defined]

    def do_loop(
        self,
        fault: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        file: Mapping[str, Any] | None = None,
        before_statement: int = 0,
        *,
        sessions_end: bool = False,
    ) -> dict[str, Any]:
        """Do one loop; answer what became of it.

        Args:
            fault: what goes wrong, one of `FAULTS`.
            arguments: what it wants to know.
            file: a DAG file that the DAG processor writes in mid-loop.
            sessions_end: in mid-loop, the server ends the scheduler's sessions.
            before_statement: before which statement of the scheduler's one of the two happens, counted from 1.
        """
        executors = self._executors()
        error = None
        verified: list[int] = []
        sent: list[str] = []
        meanwhile = partial(self.write_dag, **file) if file else end_sessions if sessions_end else lambda: None
        writer = Writer(meanwhile, before_statement, sent)
        with (
            patch.object(tenacity.nap, "time", SimpleNamespace(sleep=lambda _: None)),  # tries again at once
            FAULTS[fault](**arguments or {}) as extra,
            verifies(verified),
            looks() as looked_at,
            warnings() as warned,
            before_each_statement(writer),
            closing(session()) as orm,
        ):
            try:
                self.airflow.scheduler._do_scheduling(orm)
                orm.commit()
            except Exception as raised:  # noqa: BLE001  (the test shall see it)
                orm.rollback()
                error = f"{type(raised).__name__}: {raised}"
        return {
            "error": error,
            "logged": self.logged(),
            "warned": warned,
            "verified": verified,
            "looked_at": looked_at,
            "queued": [in_short(task.ti) for executor in executors for task in executor.queued_tasks.values()],
            "statements": len(sent),
            "interrupted": sent[before_statement - 1] if 0 < before_statement <= len(sent) else "",
            "not_written": writer.error,
            "extra": extra,
        }


class Clock:
    """The monotonic clock, put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._real = time.monotonic

    def __call__(self) -> float:
        return self._real() + self.ahead


clock = Clock()
time.monotonic = clock


def end_sessions() -> None:
    """Let the server end all sessions of this process, except the one that asks for it."""
    assert settings.engine is not None
    with settings.engine.connect() as other:
        other.execute(sa.text(_END_SESSIONS))


# The test's own sessions have another name.
_END_SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()
"""


class Writer:
    """The DAG processor, which writes a file between two statements of the scheduler's, or somebody else."""

    def __init__(self, write: Callable[[], None], before: int, sent: list[str]) -> None:
        self._write = write
        self._before = before
        self._sent = sent
        self._writing = False
        self.error: str | None = None

    def __call__(self, statement: str) -> None:
        if self._writing:  # its own statements
            return
        self._sent.append(statement)
        if len(self._sent) == self._before:
            self._writing = True
            try:
                self._write()
            except DBAPIError as raised:  # a lock that the scheduler holds: it comes later
                self.error = str(raised.orig)
            finally:
                self._writing = False


@contextmanager
def before_each_statement(called: Callable[[str], None]) -> Iterator[None]:
    def on_execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        called(statement)

    assert settings.engine is not None
    sa.event.listen(settings.engine, "before_cursor_execute", on_execute)
    try:
        yield
    finally:
        sa.event.remove(settings.engine, "before_cursor_execute", on_execute)


@contextmanager
def looks() -> Iterator[list[int]]:
    """Collect the ids of the runs for which dagbump calls verify_scope."""

    def verify_scope(connection: Any, dag_run_ids: Any) -> Any:
        looked_at.extend(dag_run_ids)
        return original(connection, dag_run_ids)

    looked_at: list[int] = []
    original = client.verify_scope
    with patch.object(client, "verify_scope", verify_scope):
        yield looked_at


@contextmanager
def warnings() -> Iterator[list[str]]:
    """Collect what Airflow's scheduler warns of."""

    warned: list[str] = []
    real = SchedulerJobRunner.logger()
    with patch.object(SchedulerJobRunner, "log", Log(real, warned)):
        yield warned


class Log:
    """Airflow's log, with its warnings."""

    def __init__(self, real: Any, warned: list[str]) -> None:
        self._real = real
        self._warned = warned

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def warning(self, message: str, *arguments: Any, **options: Any) -> None:
        self._warned.append(message % arguments)
        self._real.warning(message, *arguments, **options)


# ---- What goes wrong ----


@contextmanager
def hook_raises(task: str) -> Iterator[None]:
    """The deployment's task_instance_mutation_hook raises for the TIs of a task."""

    def hook(ti: Any, **_: Any) -> None:
        if ti.task_id == task:
            raise RuntimeError(f"the policy forbids {task}")

    with patch.object(settings, "task_instance_mutation_hook", hook):
        yield


@contextmanager
def no_ti_can_be_made(task: str) -> Iterator[None]:
    """Creating the TI of a task raises, for example in a priority weight strategy."""

    def insert_mapping(run_id: str, of: Any, *arguments: Any, **options: Any) -> Any:
        if of.task_id == task:
            raise ValueError(f"{task} has no weight")
        return original(run_id, of, *arguments, **options)

    original = TaskInstance.insert_mapping
    with patch.object(TaskInstance, "insert_mapping", staticmethod(insert_mapping)):
        yield


@contextmanager
def cannot_be_expanded(task: str) -> Iterator[None]:
    """How many TIs a task has cannot be found out."""

    def create(self: Any, tasks: Any, *arguments: Any, **options: Any) -> Any:
        tasks = list(tasks)
        if any(one.task_id == task for one in tasks):
            raise TypeError(f"{task} is mapped over what has no length")
        return original(self, tasks, *arguments, **options)

    name = "_create_initial_tasks" if compatibility.knows_regions(scheduler_job_runner) else "_create_tasks"
    original = getattr(DagRun, name)
    with patch.object(DagRun, name, create):
        yield


@contextmanager
def savepoint_is_rolled_back(of: str) -> Iterator[None]:
    """While the first run is scheduled, somebody rolls back to a savepoint; Airflow 3.4 itself does."""

    def schedule(self: Any, dag_run: Any, session: Any) -> Any:
        callback = original(self, dag_run, session)
        if not done:
            done.append(True)
            (session if of == "session" else session.connection()).begin_nested().rollback()
        return callback

    done: list[bool] = []
    original = SchedulerJobRunner._schedule_dag_run
    with patch.object(SchedulerJobRunner, "_schedule_dag_run", schedule):
        yield


# ---- Exceptions at the calls of the plugin ----


@contextmanager
def calls_of_plugin() -> Iterator[list[str]]:
    """Collect the plugin's calls of functions that can fail."""
    calls: list[str] = []

    def on_call(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (call := call_of_plugin(frame)):
            calls.append(call)

    with tracing(on_call):
        yield calls


@contextmanager
def a_call_raises(call: str, error: str, when: str, how_often: str, *, on_stock: bool) -> Iterator[list[str]]:
    """Let what a call of the plugin reaches raise.

    Args:
        call: one that `calls_of_plugin` has collected.
        error: which one, of `ERRORS`.
        when: "at its beginning", or, when the work is done, "at its end".
        how_often: "once", or "always".
        on_stock: it is Airflow that calls the same.
    """

    def on_call(frame: FrameType, event: str, _: object) -> Any:
        if event != "call" or (raised and how_often == "once") or not reached(frame):
            return None
        if when == "at its beginning":
            fail()
        return on_return

    def on_return(_: FrameType, event: str, __: object) -> Any:
        if event == "return":
            fail()
        return on_return

    def reached(frame: FrameType) -> bool:
        return name_of(frame) == callee if on_stock else call_of_plugin(frame) == call

    def fail() -> None:
        raised.append(call)
        raise ERRORS[error](f"{call}: no")

    raised: list[str] = []
    callee = call.partition(" calls ")[2]
    with tracing(on_call):
        yield raised


def call_of_plugin(frame: FrameType) -> str | None:
    """Return the name of a call, if the plugin makes it, and it can fail."""
    if not module_of(frame).startswith(CAN_FAIL) or module_of(frame).startswith(WRAPPERS):
        return None
    name = frame.f_code.co_name
    if module_of(frame) == "sqlalchemy.orm.session" and name not in OF_SESSION:
        return None
    if module_of(frame) == "sqlalchemy.engine.util" and name == "__exit__":
        return None  # what that promises is done, also where it fails
    caller = frame.f_back
    while caller is not None and module_of(caller).startswith(WRAPPERS):
        caller = caller.f_back
    if caller is None or not module_of(caller).startswith(airflow_plugin.__name__):
        return None
    if module_of(caller) == patches.__name__ and (
        caller.f_code.co_name == name or module_of(frame).startswith("sqlalchemy.")
    ):
        return None  # in the place of a function of Airflow's it calls that, and reads the runs, as Airflow does
    return f"{name_of(caller)} calls {name_of(frame)}"


@contextmanager
def tracing(on_call: Callable[[FrameType, str, Any], Any]) -> Iterator[None]:
    """Tell of each call; an exception raised there is raised by that which is called."""

    def trace_on(*_: object) -> None:
        if sys.gettrace() is None:  # Python ends it with an exception
            sys.settrace(on_call)

    sys.setprofile(trace_on)
    try:
        yield
    finally:
        sys.setprofile(None)
        sys.settrace(None)


def name_of(frame: FrameType) -> str:
    return f"{module_of(frame)}.{frame.f_code.co_name}"


def module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


FAULTS: dict[str | None, Callable[..., AbstractContextManager[Any]]] = {
    None: nothing,
    "the hook raises": hook_raises,
    "no TI can be made": no_ti_can_be_made,
    "cannot be expanded": cannot_be_expanded,
    "verify raises": verify_raises,
    "a savepoint is rolled back": savepoint_is_rolled_back,
    "calls of the plugin": calls_of_plugin,
    "a call raises": a_call_raises,
}


if __name__ == "__main__":
    logging.getLogger("tenacity").setLevel(logging.CRITICAL)
    main(NeverWorseCommands)
