"""Run by the Python of an Airflow environment: does with Airflow's own code what its components do to the database.

Reads one JSON object per line from stdin, ``{"command": …, arguments}``, and answers one, ``{"answer": …}`` or
``{"error": …}``, to the file descriptor that it is given: stdout is where Airflow logs to.
Works with Airflow 3.0 to 3.4; what differs between them is in `Airflow`, and nothing else knows the release.

Sessions are Airflow's, known by name, so that one command can leave a transaction open beside the next one's.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import dagbump
from airflow import settings
from airflow.dag_processing import collection
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.sdk.execution_time.task_runner import TaskRunnerMarker
from airflow.serialization import serialized_objects
from airflow.utils.sqlalchemy import prohibit_commit
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from dagbump.airflow_plugin.plugin import Listener
from sqlalchemy import select
from sqlalchemy.orm import Session

BUNDLE = "dags-folder"  # the one that Airflow has without being configured
DAGS = Path(os.environ["AIRFLOW_HOME"]) / "dags"


class LogRecords(logging.Handler):
    """Keeps what dagbump logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger("dagbump").addHandler(self)
        logging.getLogger("dagbump").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname}: {record.getMessage()}")


class Airflow:
    """The parts of Airflow that the commands use, under one name in every release."""

    def __init__(self) -> None:
        manager = DagBundlesManager()
        manager.sync_bundles_to_db()
        self.sessions: dict[str, Session] = {}

    @cached_property
    def scheduler(self) -> Any:
        """A scheduler that has not been started: its steps are called one by one."""
        return SchedulerJobRunner(job=Job())

    def session(self, name: str) -> Session:
        if name not in self.sessions:
            assert settings.NonScopedSession is not None
            self.sessions[name] = settings.NonScopedSession()
        return self.sessions[name]

    def examine(self, session: Session) -> list[Any]:
        """Return the runs that a scheduler's loop takes, locked."""
        options = {"eagerly_load_dag_tags": False} if hasattr(DagRun, "dag_tags_for_stats") else {}  # from 3.4 on
        return list(DagRun.get_running_dag_runs_to_examine(session=session, **options))

    def parse(self, file: Path) -> list[Any]:
        """Import a DAG file and serialize its DAGs, as the DAG processor does."""
        try:
            module = importlib.import_module("airflow.dag_processing.dagbag")  # from 3.2 on
        except ModuleNotFoundError:
            module = importlib.import_module("airflow.models.dagbag")
        bag = module.DagBag(str(file), bundle_path=DAGS)
        assert not bag.import_errors, bag.import_errors
        to_dict = getattr(serialized_objects, "DagSerialization", serialized_objects.SerializedDAG).to_dict
        return [serialized_objects.LazyDeserializedDAG(data=to_dict(dag)) for dag in bag.dags.values()]

    def persist(self, dags: Iterable[Any], session: Session) -> None:
        """Do the DAG processor's writing: dag, dag_version, serialized_dag, dag_code."""
        errors: dict[Any, str] = {}
        known = inspect.signature(collection.update_dag_parsing_results_in_db).parameters
        optional = {name: None for name in ("parse_duration",) if name in known}  # from 3.1 on
        collection.update_dag_parsing_results_in_db(
            BUNDLE, None, list(dags), import_errors=errors, warnings=set(), session=session, **optional
        )
        assert not errors, errors

    def push(self, ti: Any, value: Sequence[Any], session: Session) -> None:
        """Store what a task returns, and its length, because other tasks may be mapped over it."""
        if hasattr(XComModel, "set_for_attempt"):  # from 3.4 on
            XComModel.set_for_attempt(
                task_instance_id=ti.id, key="return_value", value=value, mapped_length=len(value), session=session
            )
            return
        XComModel.set(
            "return_value",
            value,
            dag_id=ti.dag_id,
            task_id=ti.task_id,
            run_id=ti.run_id,
            map_index=ti.map_index,
            session=session,
        )
        session.merge(importlib.import_module("airflow.models.taskmap").TaskMap.from_task_instance_xcom(ti, value))

    def verify(self, run: Any, version: Any, session: Session) -> None:
        bag = self.scheduler.scheduler_dag_bag
        get_dag = getattr(bag, "get_dag_for_run", None) or bag.get_dag  # from 3.1 on, 3.0
        run.dag = get_dag(dag_run=run, session=session)
        run.verify_integrity(dag_version_id=version, session=session)


class Commands:
    """The commands: the public methods."""

    def __init__(self) -> None:
        self.airflow = Airflow()
        self.log = LogRecords()

    def connect(self) -> None:
        """Connect to the database that has replaced the last one, and forget what was remembered."""
        self.airflow = Airflow()

    def disconnect(self) -> None:
        """Close all connections, so that the database can be dropped."""
        self.abandon()
        assert settings.engine is not None
        settings.engine.dispose()

    def start_scheduler(self, *, as_task: bool = False) -> list[str]:
        """Tell dagbump's listener that this process starts, as a scheduler or a task; answer what dagbump logs."""
        Listener().on_starting(component=TaskRunnerMarker() if as_task else Job())
        return self.logged()

    def logged(self) -> list[str]:
        """Answer what dagbump has logged since the last time."""
        lines, self.log.lines = self.log.lines, []
        return lines

    def write_dag(self, file: str, source: str, session: str = "dag processor", *, commit: bool = True) -> None:
        """Write a DAG file, and let Airflow write its DAGs to the database."""
        DAGS.mkdir(exist_ok=True)
        (DAGS / file).write_text(source, encoding="utf-8")
        self.airflow.persist(self.airflow.parse(DAGS / file), self.airflow.session(session))
        if commit:
            self.end(session, "commit")

    def create_run(self, dag_id: str, run_id: str, session: str = "api server") -> int:
        """Make a running DAG run of the latest version, with its task instances."""
        orm = self.airflow.session(session)
        now = datetime.now(timezone.utc)
        run = SerializedDagModel.get(dag_id, session=orm).dag.create_dagrun(
            run_id=run_id,
            run_after=now,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            start_date=now,
            session=orm,
        )
        run_key: int = run.id
        self.end(session, "commit")
        return run_key

    def set_states(self, run: int, states: Mapping[str, str | None], session: str = "api server") -> None:
        """Set the states of task instances, by task_id, or by task_id[map_index]."""
        tis = self._tis(self.airflow.session(session), run)
        for name, state in states.items():
            tis[name].state = state
        self.end(session, "commit")

    def stock_loop(self, session: str = "scheduler") -> None:
        """Do the part of a scheduler's loop that is about running DAG runs."""
        orm = self.airflow.session(session)
        with prohibit_commit(orm) as guard:
            self.airflow.scheduler._schedule_all_dag_runs(guard, self.airflow.examine(orm), orm)
        self.end(session, "commit")

    def stock_verify(self, session: str = "scheduler") -> None:
        """Do the part of that loop that dagbump does otherwise, and leave the transaction open."""
        orm = self.airflow.session(session)
        for run in self.airflow.examine(orm):
            self.airflow.scheduler._verify_integrity_if_dag_changed(dag_run=run, session=orm)

    def dagbump_verify(self, session: str = "scheduler", *, verify: bool = True) -> list[dict[str, Any]]:
        """Do it as a scheduler with dagbump: one bump, and verify_integrity where it is due, in one transaction."""
        orm = self.airflow.session(session)
        with prohibit_commit(orm):
            runs = {run.id: run for run in self.airflow.examine(orm)}
            result = dagbump.bump(orm, dag_run_ids=runs, caller_verifies=True)
            for row in result.needs_verify if verify else ():
                self.airflow.verify(runs[row.dag_run_id], row.dag_version_id, orm)
        return [asdict(row) for row in result.runs]

    def verify_run(self, run: int, session: str = "scheduler") -> None:
        """Run verify_integrity of one run, for the latest version of its DAG."""
        orm = self.airflow.session(session)
        dag_run = orm.get(DagRun, run)
        assert dag_run is not None
        self.airflow.verify(dag_run, DagVersion.get_latest_version(dag_run.dag_id, session=orm).id, orm)
        self.end(session, "commit")

    def tis_across_a_bump(
        self, run: int, pending: Mapping[str, str], session: str = "scheduler"
    ) -> list[dict[str, list[Any]]]:
        """Answer the attributes of a run's ORM objects before and after a bump, with pending changes of state."""
        orm = self.airflow.session(session)
        tis = self._tis(orm, run)

        def said() -> dict[str, list[Any]]:
            return {name: [ti.state, str(ti.dag_version_id), ti.dag_version.version_number] for name, ti in tis.items()}

        before = said()
        for name, state in pending.items():
            tis[name].state = state
        dagbump.bump(orm, dag_run_ids=[run], caller_verifies=True)
        after = said()
        self.end(session, "commit")
        return [before, after]

    def abandon(self) -> None:
        """Roll back what a test has left open."""
        for session in list(self.airflow.sessions):
            self.end(session, "rollback")

    def end(self, session: str, how: str) -> None:
        """Commit or roll back a session, and close it."""
        with closing(self.airflow.sessions.pop(session)) as orm:
            getattr(orm, how)()

    def _tis(self, session: Session, run: int) -> dict[str, Any]:
        """Load the task instances of a run, by task_id, or by task_id[map_index]."""
        key = select(DagRun.dag_id, DagRun.run_id).where(DagRun.id == run)
        (dag_id, run_id) = session.execute(key).one()
        tis = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id))
        return {ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]": ti for ti in tis}


def main(commands_class: Callable[[], Commands] = Commands, greeting: Any = "ready") -> None:
    """Answer questions until there are no more."""
    sys.dont_write_bytecode = True  # of DAG files: one may be replaced within a second
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as answers:
        commands = commands_class()
        print(json.dumps({"answer": greeting}), file=answers, flush=True)
        for line in sys.stdin:
            arguments = json.loads(line)
            try:
                answer = {"answer": getattr(commands, arguments.pop("command"))(**arguments)}
            except Exception:  # noqa: BLE001  (the test that asked shall see it)
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer, default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()
