"""A scheduler's process of an Airflow release, before which one database after the other is put."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from support import server
from support.releases import environments
from support.releases.worker import Worker, start_worker
from support.server import Server


@dataclass
class Scheduler:
    """A scheduler's process, and its database, which is replaced for each fleet."""

    worker: Worker
    postgres: Server
    database: str

    def replace_database(self, template: str) -> psycopg.Connection[Any]:
        """Replace the database by a copy of a template; return a connection to it. The process has none."""
        self.worker("disconnect")
        self.postgres.drop_database(self.database)
        self.postgres.create_database(self.database, template)
        return self.connection()

    def connection(self, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        return psycopg.connect(server.libpq(self.postgres.database(self.database)), autocommit=autocommit)

    def save(self, template: str) -> None:
        """Make a template of the database."""
        self.worker("disconnect")
        self.postgres.drop_database(template)
        self.postgres.create_database(template, self.database)


@contextmanager
def scheduler_process(
    script: Path, postgres: Server, template: str, home: Path, environment: Mapping[str, str]
) -> Iterator[Scheduler]:
    """Start a process that runs this script on a copy of the template."""
    with (
        postgres.temporary_database(template) as url,
        start_worker(environments.release(), url, home, environment, script) as worker,
    ):
        yield Scheduler(worker, postgres, str(url.database))
