"""A deployment of one Airflow release: scheduler, DAG processor and API server as processes of their own, on loopback.

Its environment is a copy of that of the release, with dagbump's wheel. Its database is on the tests' server. The tests
read what the components do from the database and from their logs. Runs are made by inside_airflow/components.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg
from dagbump import database as dagbump_database
from dagbump.installation import installer
from sqlalchemy.engine import URL

from support import server
from support.releases import environments
from support.releases.live_dag import Tis, tis_of
from support.releases.worker import Worker, start_worker

PATIENCE_SECONDS = 90.0
_POLL_SECONDS = 0.1
_STOP_SECONDS = 5.0
_COMPONENT = "TEST_AIRFLOW_COMPONENT"  # in the environment of a component, and of all that it starts

# Short intervals, so that what takes minutes in a deployment takes seconds here.
_SETTINGS: dict[str, dict[str, str]] = {
    "core": {
        "executor": "LocalExecutor",
        "parallelism": "8",
        "dags_are_paused_at_creation": "False",
        "load_examples": "False",
        "hostname_callable": "socket.gethostname",
        "min_serialized_dag_update_interval": "0",
        "min_serialized_dag_fetch_interval": "0",
        "simple_auth_manager_all_admins": "True",
    },
    "api": {"secret_key": "a secret of the tests"},
    "api_auth": {"jwt_secret": "a secret of the tests, long enough for every algorithm: " + "x" * 64},
    "dag_processor": {
        "refresh_interval": "0",
        "bundle_refresh_check_interval": "0",
        "min_file_process_interval": "3600",  # a file that has changed is parsed at once all the same
        "parsing_processes": "1",
    },
    "logging": {"colored_console_log": "False"},
    "scheduler": {"scheduler_idle_sleep_time": "0.3"},
    "workers": {"min_heartbeat_interval": "1"},  # a slot is free no sooner than the next heartbeat
    "usage_data_collection": {"enabled": "False"},
}

_DAG_FILE = """\
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, chain

WAIT = 'until [ -e "$AIRFLOW_HOME/go" ]; do sleep 0.2; done'


def task(task_id, command="true"):
    return BashOperator(task_id=task_id, bash_command=command)


def mapped(task_id, commands):
    return BashOperator.partial(task_id=task_id).expand(bash_command=commands)


def empty(task_id):
    return EmptyOperator(task_id=task_id)  # the scheduler itself ends it
"""


class Component:
    """A running `airflow scheduler`, `dag-processor` or `api-server`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def logged(self, text: str) -> list[str]:
        """Return the lines of the log that hold a text."""
        return [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if text in line]

    def tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"--- {self.log.name}", *lines[-40:]])

    def stop(self) -> None:
        """Send SIGTERM, wait, and then kill the processes that are left, those of its tasks among them."""
        for _ in range(3):  # a SIGTERM that comes during a finalizer is lost: its SystemExit is ignored there
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_SECONDS)
                break
        for left in self._family():
            with suppress(psutil.NoSuchProcess):
                left.kill()
        self.process.wait(_STOP_SECONDS)

    def _family(self) -> list[psutil.Process]:
        """Find its processes by their session, which a task keeps, and the command of a task by its environment."""
        family = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                session = os.getsid(process.pid)
                if session == self.process.pid or process.environ().get(_COMPONENT) == str(self.log):
                    family.append(process)
        return family


@dataclass
class Deployed:
    """An Airflow on a database, whose components are started one by one."""

    python: Path
    url: URL
    home: Path
    running: list[Component] = field(default_factory=list, kw_only=True)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1), kw_only=True)

    @contextmanager
    def component(self, name: str, *arguments: str, **environment: str) -> Iterator[Component]:
        """Run `airflow NAME ARGUMENTS…` until the block ends."""
        log = self.home / f"{name}-{next(self._numbers)}.log"
        variables = environments.environment_for(self.url, self.home) | {
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            _COMPONENT: str(log),
            **environment,
        }
        command = [str(self.python), "-m", "airflow", name, *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=variables,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        component = Component(name, process, log)
        self.running.append(component)
        try:
            yield component
        finally:
            self.running.remove(component)
            component.stop()

    def until(self, condition: Callable[[], object], awaited: str) -> None:
        """Wait until the condition holds. If it never does, fail and show the logs of the components."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            dead = [component.name for component in self.running if component.process.poll() is not None]
            late = time.monotonic() > deadline
            assert not dead, f"{dead} ended before {awaited}\n{self._tails()}"
            assert not late, f"waited in vain until {awaited}\n{self._tails()}"
            time.sleep(_POLL_SECONDS)

    def _tails(self) -> str:
        return "\n".join(component.tail() for component in self.running)


@dataclass
class Deployment(Deployed):
    """One Airflow, whose DAG processor and API server run as long as it does."""

    connection: psycopg.Connection[Any]
    worker: Worker

    @contextmanager
    def scheduler(self, *, dagbump: bool | None = None) -> Iterator[Component]:
        """Run a scheduler, with dagbump on or off, or with nothing said about it; begin when it is at work."""
        environment = {} if dagbump is None else {"AIRFLOW__DAGBUMP__ENABLED": str(dagbump)}
        with self.component("scheduler", "--skip-serve-logs", **environment) as scheduler:
            self.until(lambda: scheduler.logged("orphaned tasks for active dag runs"), "the scheduler is at work")
            yield scheduler

    # dagbump in the database.

    def install(self) -> None:
        """Install dagbump again."""
        self.remove()
        installer.upgrade(dagbump_database.create_engine(server.libpq(self.url)))

    def remove(self) -> None:
        self.connection.execute("DROP SCHEMA IF EXISTS dagbump CASCADE")

    # DAGs and their runs.

    def land(self, file: str, description: str, dags: Mapping[str, str]) -> None:
        """Write a file of DAGs, given as the tasks of each; return when the DAG processor has done its part."""
        sources = [
            f'with DAG("{dag_id}", description="{description}", schedule=None):\n    {tasks}\n'
            for dag_id, tasks in dags.items()
        ]
        self._write(file, "\n\n".join([_DAG_FILE, *sources]))
        query = "SELECT count(*) FROM dag WHERE dag_id = ANY(%s) AND description = %s"
        self.until(
            lambda: self.connection.execute(query, (list(dags), description)).fetchone() == (len(dags),),
            f"the DAG processor has written {description!r} of {list(dags)}",
        )

    def go(self) -> None:
        """Let the tasks that run WAIT come to their end."""
        (self.home / "go").touch()

    def _write(self, file: str, source: str) -> None:
        dags = self.home / "dags"
        dags.mkdir(exist_ok=True)
        # The length must change, because Python recognises old bytecode only by the second and the length.
        padding = "#" * next(self._numbers)
        draft = dags / f"{file}.draft"
        draft.write_text(f"{source}\n{padding}\n", encoding="utf-8")
        draft.replace(dags / file)

    def create_run(self, dag_id: str) -> int:
        run: int = self.worker("create_run", dag_id=dag_id, run_id=f"manual__{next(self._numbers)}")
        return run

    def state_of(self, run: int) -> str:
        (state,) = self.connection.execute("SELECT state FROM dag_run WHERE id = %s", (run,)).fetchone() or ("",)
        return str(state)

    def until_ended(self, *runs: int) -> None:
        """Return when none of the runs is running any more."""

        def ended() -> bool:
            query = "SELECT count(*) FROM dag_run WHERE id = ANY(%s) AND state IN ('queued', 'running')"
            return self.connection.execute(query, (list(runs),)).fetchone() == (0,)

        self.until(ended, f"the runs {runs} have ended")

    def run(self, dag_id: str) -> str:
        """Run a DAG to its end, and return how it ended."""
        run = self.create_run(dag_id)
        self.until_ended(run)
        return self.state_of(run)

    def tis(self, run: int) -> Tis:
        return tis_of(self.connection, run)


@contextmanager
def deployment_of(release: str, url: URL, directory: Path) -> Iterator[Deployment]:
    """Deploy a release on a database that it has migrated; all its processes are killed at the end."""
    home = directory / "home"
    home.mkdir()
    port = free_port()
    configure(home, port)
    with (
        environments.clone_of(release, directory) as python,
        psycopg.connect(server.libpq(url), autocommit=True) as connection,
        start_worker(release, url, home, {}) as worker,
    ):
        environments.install(release, python, str(environments.build_wheel(directory)))
        deployment = Deployment(python, url, home, connection, worker)
        api_server = ("--apps", "execution", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
        with deployment.component("dag-processor"), deployment.component("api-server", *api_server):
            deployment.until(lambda: listens(port), "the API server listens")
            yield deployment


def configure(home: Path, port: int, **settings: Mapping[str, str]) -> None:
    """Write an airflow.cfg for an API server on that port; settings go on top of those of all."""
    execution_api = {"execution_api_server_url": f"http://127.0.0.1:{port}/execution/"}
    config = ConfigParser(interpolation=None)
    for given in (_SETTINGS, {"core": execution_api}, settings):
        config.read_dict(given)
    with (home / "airflow.cfg").open("w", encoding="utf-8") as file:
        config.write(file)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
