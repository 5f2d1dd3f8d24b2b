"""A real PgBouncer in transaction mode, with one server connection for each database and role.

The next client gets what a client has left on that connection.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL

from support.server import libpq
from support.waits import until

_CONFIGURATION = """
[databases]
* = {target}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = {pool_size}
server_login_retry = 0
"""


@contextmanager
def in_front_of(server: URL, passwords: Mapping[str, str], pool_size: int = 1) -> Iterator[URL]:
    """Start a PgBouncer for every database of a server.

    Args:
        server: where it connects to.
        passwords: by role, besides that of the URL.
        pool_size: server connections, for each database and role.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        missing = pytest.fail if os.environ.get("DAGBUMP_REQUIRE_CONTAINERS") == "1" else pytest.skip
        missing("PgBouncer is not installed. On Debian: apt-get install pgbouncer")
    host = server.host or str(server.query["host"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="dagbump-pgbouncer-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        known = {str(server.username): server.password or "", **passwords}
        users = "".join(f'"{role}" "{password}"\n' for role, password in known.items())
        (directory / "users").write_text(users)
        target = f"host={host} port={server.port or 5432}"
        text = _CONFIGURATION.format(target=target, port=port, directory=directory, pool_size=pool_size)
        (directory / "configuration").write_text(text)
        log = directory / "log"
        with (
            log.open("w") as written,  # not a pipe, because PgBouncer would wait once it is full
            subprocess.Popen(
                [program, *_as_somebody(host), str(directory / "configuration")],
                stdout=subprocess.DEVNULL,
                stderr=written,
            ) as process,
        ):
            try:
                until(lambda: process.poll() is not None or _listens(port), lambda: "PgBouncer listens")
                if process.poll() is not None:
                    pytest.fail(f"PgBouncer ended: {log.read_text()}")
                yield server.set(host="127.0.0.1", port=port, password=None, query={})
            finally:
                process.kill()


def _as_somebody(host: str) -> list[str]:
    """Choose a user, because PgBouncer refuses to run as root. The owner of the server's socket may connect to it."""
    if os.geteuid() != 0:
        return []
    uid = Path(host).stat().st_uid if host.startswith("/") else 0
    return ["-u", pwd.getpwuid(uid).pw_name if uid else "nobody"]


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def server_connection(pooled: URL) -> tuple[int, dict[str, Any]]:
    """Return the process behind a pooler with one server connection, and all that a client may have left there."""
    ((pid, left),) = server_connections(pooled, 1).items()
    return pid, left


def server_connections(pooled: URL, pool_size: int) -> dict[int, dict[str, Any]]:
    """Return the processes behind the pooler, and all that clients may have left there.

    An open transaction keeps each of them from being given to the next observer.
    """
    found = {}
    with ExitStack() as stack:
        for _ in range(pool_size):
            connection = psycopg.connect(
                libpq(pooled), prepare_threshold=None, application_name="observer", client_encoding="utf8"
            )
            stack.callback(connection.close)
            stack.callback(connection.rollback)
            found[_pid(connection)] = _left(connection)
    return found


def _left(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    connection.execute("DO $$ BEGIN END $$")  # its own settings show once PL/pgSQL is loaded
    left: dict[str, Any] = {name: setting for name, setting, _ in connection.execute("SHOW ALL").fetchall()}
    for what, query in _LEFT.items():
        left[what] = connection.execute(query.encode()).fetchall()
    return left


def _pid(connection: psycopg.Connection[Any]) -> int:
    # libpq knows only a number of PgBouncer's own.
    (pid,) = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone() or (0,)
    return int(pid)


_LEFT = {
    "roles": "SELECT current_user::text, session_user::text",
    "locks": "SELECT classid, objid, mode FROM pg_catalog.pg_locks "
    "WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'advisory'",
    "prepared statements": "SELECT name FROM pg_catalog.pg_prepared_statements",
    "cursors": "SELECT name FROM pg_catalog.pg_cursors WHERE name <> ''",
    "temporary schema": "SELECT pg_catalog.pg_my_temp_schema()",
    "channels": "SELECT pg_catalog.pg_listening_channels()",
    "path": "SELECT pg_catalog.current_schemas(TRUE)::text[]",
}
