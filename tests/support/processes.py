"""Runs the command line as a user does: in a process of its own, with nothing of the machine's configuration."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.waits import until

CHECKOUT = Path(__file__).parents[2]
ALEMBIC = (sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini")
DAGBUMP = (sys.executable, "-m", "dagbump")


def clean_environment(**added: str) -> dict[str, str]:
    """Return this process's environment without the variables of dagbump, libpq and Airflow. COLUMNS is removed too,
    because pytest sets it for its workers.
    """
    prefixes = ("DAGBUMP", "AIRFLOW", "PG", "COLUMNS", "PYTHONDONTWRITEBYTECODE")  # the last would slow every start
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return kept | {"AIRFLOW_HOME": os.devnull} | added


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without a terminal."""
    return subprocess.run(
        words,
        env=clean_environment(**environment),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=120,
    )


def on_terminal(
    *words: str, columns: int = 80, typed: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end on a terminal of that width; what it prints on both streams is in stdout."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.write(ours, typed.encode())
    environment = {"TERM": "xterm-256color", **environment}
    with subprocess.Popen(
        words, env=clean_environment(**environment), cwd=CHECKOUT, stdin=its, stdout=its, stderr=its
    ) as process:
        os.close(its)
        printed = b""
        with suppress(OSError):  # EIO: its end is closed
            while part := os.read(ours, 65536):
                printed += part
        os.close(ours)
        code = process.wait(timeout=120)
    return subprocess.CompletedProcess(words, code, printed.decode().replace("\r\n", "\n"), "")


class RunningProcess:
    """A command that keeps running. Its output is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)

    def until_printed(self, text: str, times: int = 1) -> None:
        """Wait until so many lines hold the text. Fail if the command ends first, or if it takes too long."""
        until(
            lambda: self.count(text) >= times or self.process.poll() is not None,
            lambda: f"{text!r} is printed; so far:\n{''.join(self.lines)}",
        )
        if self.process.poll() is not None:
            self._reader.join()
        assert self.count(text) >= times, f"ended without printing {text!r}:\n{''.join(self.lines)}"

    def finish(self, timeout: float) -> int:
        code = self.process.wait(timeout)
        self._reader.join()
        return code


@contextmanager
def running(*words: str, **environment: str) -> Iterator[RunningProcess]:
    """Start a command, standard error joined to standard output; kill it at the end if it is still there."""
    with subprocess.Popen(
        words,
        env=clean_environment(**environment),
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield RunningProcess(process)
        finally:
            process.kill()


@contextmanager
def unread(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command whose standard output is a pipe that nobody reads; kill it at the end if it is still there."""
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        words,
        env=clean_environment(**environment),
        cwd=CHECKOUT,
        stdout=writer,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        os.close(writer)
        try:
            yield process
        finally:
            process.kill()
