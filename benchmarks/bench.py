"""The place of a measurement: a PostgreSQL, fleets that Airflow makes there, and copies of them with dagbump."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import dagbump
import psutil
import psycopg
from dagbump import database
from dagbump.commit import commit
from dagbump.installation import installer, state
from sqlalchemy.engine import URL
from support import server as servers
from support.releases import environments
from support.releases.worker import Worker, start_worker
from support.server import Server, libpq

from benchmarks import fleet
from benchmarks.figures import Touched
from benchmarks.fleet import Connection, scalar
from benchmarks.plan import FleetSize, Plan

T = TypeVar("T")

# Nothing may run in the background while a loop is timed. Without fsync a commit costs nearly nothing, for every
# contender, so that the differences between them can be seen.
QUIET = {
    "autovacuum": "off",  # the benchmark vacuums between rounds
    "checkpoint_timeout": "1d",
    "fsync": "off",
    "max_connections": "50",
    "max_parallel_maintenance_workers": "0",
    "max_wal_size": "32GB",
    "pg_stat_statements.track_utility": "off",  # BEGIN and COMMIT are not counted as statements
    "shared_buffers": "1GB",
    "shared_preload_libraries": "pg_stat_statements",
}
_OTHER_SETTINGS = ("effective_cache_size", "full_page_writes", "jit", "random_page_cost", "wal_level", "work_mem")
_AIRFLOW = {
    "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
    "AIRFLOW__DAGBUMP__ENABLED": "True",
    "AIRFLOW__DAGBUMP__MISSING_TASKS_INTERVAL": "0",
}


@dataclass(frozen=True)
class Bench:
    """A server, the plan, and a function that prints progress."""

    plan: Plan
    say: Callable[[str], None]
    server: Server
    observer: Connection  # to a database in which nothing is measured

    @contextmanager
    def stage(self, size: FleetSize, **airflow_settings: str) -> Iterator[Stage]:
        """Prepare for one fleet."""
        settings = {"AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE": str(size.runs)} | airflow_settings
        with ExitStack() as stack:
            home = Path(stack.enter_context(TemporaryDirectory(prefix="dagbump-bench-")))
            yield Stage(size, self, home, _AIRFLOW | settings, stack)

    def observe(self, name: str, work: Callable[[], T]) -> tuple[T, Touched]:
        """Do some work in the database of that name, and return what the server counted."""
        self.observer.execute("SELECT pg_stat_statements_reset()")
        start = scalar(self.observer, "SELECT pg_current_wal_insert_lsn()")
        answer = work()
        end = scalar(self.observer, "SELECT pg_current_wal_insert_lsn()")
        # SELECT $1 is the ping of SQLAlchemy's connection pool.
        (row,) = self.observer.execute(
            """
            SELECT coalesce(sum(calls), 0)::bigint, coalesce(sum(shared_blks_hit + shared_blks_read), 0)::bigint,
                   (%s::pg_lsn - %s::pg_lsn)::bigint
            FROM pg_stat_statements AS statement
            JOIN pg_database AS database ON database.oid = statement.dbid
            WHERE database.datname = %s AND statement.toplevel AND statement.query <> 'SELECT $1'
            """,
            (end, start, name),
        )
        return answer, Touched(*row)

    def describe(self, airflow: Mapping[str, dict[str, str]] | None = None) -> dict[str, Any]:
        """Return the commit, the machine, the versions and PostgreSQL's settings, but no name of a host or a user."""
        settings = self.observer.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%s) ORDER BY name",
            ([*QUIET, *_OTHER_SETTINGS],),
        )
        return {
            "commit": commit(),
            "date": datetime.now(timezone.utc).date().isoformat(),
            "cores": os.cpu_count(),
            "processor": _processor(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "postgresql": scalar(self.observer, "SHOW server_version"),
            "postgresql_source": self.server.source,
            "settings": dict(settings.fetchall()),
            "airflow": dict(airflow or {}),
            "dagbump": dagbump.__version__,
            "dagbump_revision": state.NEWEST_REVISION,
            "python": platform.python_version(),
            "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        }


@contextmanager
def start(
    plan: Plan,
    releases: Sequence[str],
    settings: Mapping[str, str],
    say: Callable[[str], None],
    own: AbstractContextManager[Server] | None = None,
) -> Iterator[Bench]:
    """Start a program's own PostgreSQL, else a new one, or use the one in DAGBUMP_TEST_URL.

    Each Airflow release creates its tables there.
    """
    with ExitStack() as stack:
        server = stack.enter_context(own or servers.start(settings))
        observer = stack.enter_context(server.maintenance())
        counted = "shared_preload_libraries" in settings
        if counted and "pg_stat_statements" not in scalar(observer, "SHOW shared_preload_libraries"):
            raise SystemExit(
                f"benchmark: {server.source} does not count statements: start a container engine, or name in "
                "DAGBUMP_TEST_URL a server with pg_stat_statements in shared_preload_libraries"
            )
        if counted:
            observer.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        home = Path(stack.enter_context(TemporaryDirectory(prefix="dagbump-bench-")))
        for release in releases:
            say(f"Airflow {release} makes its tables")
            name = database_name("template", release)
            stack.callback(server.drop_database, name)
            environments.migrate(release, server.create_database(name), home)
        yield Bench(plan, say, server, observer)


@dataclass(frozen=True)
class Stage:
    """One fleet. Its databases, processes and connections end with the stage."""

    size: FleetSize
    bench: Bench
    home: Path
    settings: Mapping[str, str]  # of Airflow
    stack: ExitStack

    def stock(self, release: str, more_tasks: str = "") -> Worker:
        """Let an Airflow release create the fleet in a new database, and return its process."""
        self.bench.say(f"{self.size}: Airflow {release} makes the fleet")
        worker = self._start(release, self._create("stock", release, "template"))
        with self.connect("stock", release) as connection:
            fleet.make(self.size, worker, connection, more_tasks)
        worker("disconnect")  # a database that is copied must have no connections
        return worker

    def copy(self, what: str, release: str, *, with_index: bool = True) -> URL:
        """Copy the fleet into another database, and install dagbump there."""
        url = self._create(what, release, "stock")
        engine = database.create_engine(libpq(url))
        installer.upgrade(engine)
        if with_index:
            installer.upgrade(engine, installer.NEWEST_INDEX)
        engine.dispose()
        with connect(url) as connection:
            connection.execute("VACUUM (ANALYZE)")
        return url

    def plugin(self, release: str) -> Worker:
        """Start a process with the plugin turned on, on a copy of the fleet."""
        worker = self._start(release, self.copy("plugin", release))
        worker("turn_on")
        return worker

    def worker(self, what: str, release: str, number: int) -> Worker:
        """Start one more process on one of the databases."""
        url = self.bench.server.database(database_name(what, release))
        return self._start(release, url, f"{url.database}_{number}")

    def connect(self, what: str, release: str) -> Connection:
        """Open a connection to one of the databases."""
        return self.stack.enter_context(closing(connect(self.bench.server.database(database_name(what, release)))))

    def _create(self, what: str, release: str, template: str) -> URL:
        name = database_name(what, release)
        self.stack.callback(self.bench.server.drop_database, name)
        return self.bench.server.create_database(name, database_name(template, release))

    def _start(self, release: str, url: URL, home: str | None = None) -> Worker:
        script = Path(__file__).with_name("airflow_worker.py")
        return self.stack.enter_context(
            start_worker(release, url, self.home / (home or str(url.database)), self.settings, script)
        )


def connect(url: URL) -> psycopg.Connection[Any]:
    """Open a connection in autocommit, so that a call is a transaction."""
    return psycopg.connect(libpq(url), autocommit=True)


def database_name(what: str, release: str) -> str:
    """Return the name of a fleet's database."""
    return f"bench_{what}_{release.replace('.', '_')}"


def _processor() -> str:
    """Return the model of the processor, if Linux tells it."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)", file.read_text("utf-8"), re.MULTILINE) if file.exists() else None
    return found[1] if found else platform.machine()
