"""Starts inside_airflow/components.py, or a script that speaks like it, with the Python of an Airflow release."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import dagbump
from sqlalchemy.engine import URL

from support.releases import environments

_TESTS = Path(__file__).parents[2]
SCRIPT = _TESTS / "support" / "inside_airflow" / "components.py"
PATH = [Path(dagbump.__file__).parents[1], _TESTS]
_STOP_SECONDS = 5


class WorkerError(Exception):
    """Airflow has failed; holds its traceback, or its log."""


class Worker:
    """An Airflow process: ``worker("command", argument=…)`` asks and waits for the answer."""

    def __init__(self, release: str, questions: IO[str], answers: IO[str], log: Path) -> None:
        """Take the pipes of a process that has been started, and wait until it is ready."""
        self.release = release
        self.log = log
        self._questions = questions
        self._answers = answers
        self.greeting = self._answer()

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Let Airflow do something."""
        print(json.dumps({"command": command, **arguments}), file=self._questions, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise WorkerError(f"Airflow {self.release} has ended:\n{self.log.read_text(encoding='utf-8')[-4000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"in Airflow {self.release}: {answer['error']}")
        return answer["answer"]


@contextmanager
def start_worker(
    release: str, url: URL, home: Path, environment: Mapping[str, str], script: Path = SCRIPT
) -> Iterator[Worker]:
    """Start a process of that release on a database that it has migrated; killed at the end."""
    home.mkdir(exist_ok=True)
    variables = environments.environment_for(url, home) | {
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "PYTHONPATH": os.pathsep.join(map(str, PATH)),
        **environment,
    }
    log = home / "worker.log"
    answers_read, answers_write = os.pipe()  # stdout is where Airflow logs to
    command = [str(environments.python_of(release)), str(script), str(answers_write)]
    with (
        os.fdopen(answers_read, encoding="utf-8") as answers,
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(
            command,
            env=variables,
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
            process.terminate()  # it may count coverage, which it keeps when it is told to end
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()
            if process.stdin is not None:
                with suppress(BrokenPipeError):  # of a question that was not read; it would hide why
                    process.stdin.close()
