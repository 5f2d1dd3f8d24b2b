"""Stock Airflow: a release in its own environment, its own methods called."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import dagbump
import psycopg
from sqlalchemy.engine import URL
from support import airflow

from benchmarks.sides import Loop, Memory

_SCRIPT = Path(__file__).parents[1] / "stock_worker.py"
_TESTS = Path(airflow.__file__).parents[1]
_PY_CLIENT = Path(dagbump.__file__).parents[1]


class WorkerError(Exception):
    """Airflow has failed; holds its traceback, or its log."""


class Worker:
    """An Airflow process: ``worker("command", argument=…)`` asks and waits for the answer."""

    def __init__(self, release: str, questions: IO[str], answers: IO[str], log: Path) -> None:
        """Take the pipes of a process that has been started, and wait until it is ready."""
        self.release = release
        self._questions = questions
        self._answers = answers
        self._log = log
        self.versions: dict[str, str] = self._answer()

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Let Airflow do something."""
        print(json.dumps({"command": command, **arguments}), file=self._questions, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise WorkerError(f"Airflow {self.release} has ended:\n{self._log.read_text(encoding='utf-8')[-4000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"in Airflow {self.release}: {answer['error']}")
        return answer["answer"]


@contextmanager
def start_worker(release: str, url: URL, home: Path, most_runs: int) -> Iterator[Worker]:
    """Start a process of that release on a database that it has migrated; killed at the end."""
    home.mkdir(exist_ok=True)
    environment = airflow.environment_for(url, home) | {
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE": str(most_runs),
        "PYTHONPATH": os.pathsep.join(map(str, (_PY_CLIENT, _TESTS))),
    }
    log = home / "worker.log"
    answers_read, answers_write = os.pipe()  # stdout is where Airflow logs to
    # -P: the script's own directory stays off the path.
    command = [str(airflow.python_of(release)), "-P", str(_SCRIPT), str(answers_write)]
    with (
        os.fdopen(answers_read, encoding="utf-8") as answers,
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[answers_write],
            text=True,
        ) as process,
    ):
        os.close(answers_write)
        try:
            if process.stdin is None:
                raise WorkerError("no pipe to Airflow")
            yield Worker(release, process.stdin, answers, log)
        finally:
            process.kill()
            if process.stdin is not None:
                with suppress(BrokenPipeError):  # of a question that was not read; it would hide why
                    process.stdin.close()


class Stock:
    """The loop of that release: get_running_dag_runs_to_examine, then _verify_integrity_if_dag_changed per run."""

    in_python = True

    def __init__(self, worker: Worker, connection: psycopg.Connection[Any]) -> None:
        """Take a worker, and a connection to its database."""
        self.name = f"stock-{worker.release}"
        self.connection = connection
        self._worker = worker

    def warm_up(self) -> None:
        """Do a loop."""
        self.loop()

    def prepare(self, version: UUID) -> None:
        """Nothing: Airflow finds the version itself."""

    def loop(self) -> Loop:
        """Do a loop; the worker holds the clock, so that the pipe to it is not timed."""
        return Loop(**self._worker("loop"))

    def inspect(self) -> Memory:
        """Do a loop under tracemalloc."""
        return Memory(**self._worker("inspect"))
