"""`make bench-page`: how long the page in Airflow's UI takes, beside the dagbump.preview that it has to ask anyway.

And how long routes of Airflow's own take while many ask for the page at once, beside the same routes alone.

All are timed from here, in turns, in one run: the page over HTTP, as a real API server answers a user who has logged
in, and dagbump.preview by psycopg, its rows fetched.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from urllib.error import HTTPError

import dagbump
import psycopg
from dagbump import database as dagbump_database
from dagbump.installation import installer
from support import server
from support.fleet import Fleet
from support.processes import CHECKOUT
from support.releases import environments
from support.releases.web import web_server

from benchmarks.machine import processor

DOCUMENT = CHECKOUT / "docs" / "page.md"
ROUNDS = 15
_BLOCK = re.compile(r"(<!-- measured -->\n).*(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Shape:
    """A fleet: so many running runs of one DAG, of so many TIs each, of which nine in ten are stale."""

    runs: int
    task_instances: int


ROUTES = ("/api/v2/monitor/health", "/api/v2/dags")
CROWD = 100
SHAPES = (Shape(20, 50), Shape(20, 5_000), Shape(1_000, 20))


def make(fleet: Fleet, shape: Shape) -> None:
    """Fill an empty database."""
    for table in ("task_instance", "dag_run", "serialized_dag", "dag_version", "dag"):
        fleet.connection.execute(f"TRUNCATE {table} CASCADE".encode())
    tasks = [f"task_{number}" for number in range(shape.task_instances)]
    fleet.dag("d")
    old, latest = (fleet.version("d", number, tasks=tasks) for number in (1, 2))
    run = fleet.run("d")
    with fleet.connection.transaction():
        for number, task_id in enumerate(tasks):
            done = number % 10 == 0
            fleet.ti(run, latest if done else old, "success" if done else "scheduled", task_id=task_id)
    fleet.copy_run(run, shape.runs - 1)
    fleet.connection.execute("VACUUM ANALYZE")


def timed(work: Callable[[], object]) -> float:
    """Return how many milliseconds it takes."""
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def measure(shape: Shape, fleet: Fleet, page: Callable[[], object]) -> str:
    """Return a row of the table."""
    make(fleet, shape)
    preview: Callable[[], object] = lambda: dagbump.preview(fleet.connection)  # noqa: E731
    page()
    preview()
    rounds = [(timed(page), timed(preview)) for _ in range(ROUNDS)]
    of_page, of_preview = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(one / other for one, other in rounds)
    return f"| {shape.runs:,} | {shape.task_instances:,} | {of_page:.0f} | {of_preview:.0f} | {ratio:.2f} |"


def measure_beside(route: Callable[[], object], page: Callable[[], object]) -> str:
    """Return the columns of a route of Airflow's: while a crowd asks for the page at once, and alone, in turns."""

    def visit() -> None:
        with suppress(HTTPError):  # 503: to come back later
            page()

    rounds = []
    for _ in range(ROUNDS):
        with ThreadPoolExecutor(CROWD) as threads:
            for _ in range(CROWD):
                threads.submit(visit)
            crowded = timed(route)
        rounds.append((crowded, timed(route)))
    of_crowded, alone = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(one / other for one, other in rounds)
    return f"{of_crowded:.0f} | {alone:.0f} | {ratio:.2f}"


def main() -> int:
    """Measure, print, and put the tables into the document."""
    release = environments.release()
    with tempfile.TemporaryDirectory() as directory, server.start() as postgres:
        postgres.drop_database("bench_page")
        url = postgres.create_database("bench_page")
        environments.migrate(release, url, Path(directory))
        installer.upgrade(dagbump_database.create_engine(server.libpq(url)))
        web_directory = Path(directory) / "web"
        web_directory.mkdir()
        with (
            web_server(release, url, web_directory) as web,
            psycopg.connect(server.libpq(url), autocommit=True) as connection,
        ):
            login = urllib.request.Request(  # noqa: S310  (on loopback)
                f"{web.url}/auth/token",
                json.dumps({"username": "admin", "password": "admin"}).encode(),
                {"Content-Type": "application/json"},
            )
            token = json.load(urllib.request.urlopen(login))["access_token"]  # noqa: S310

            def ask(path: str) -> object:
                request = urllib.request.Request(f"{web.url}{path}", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
                with urllib.request.urlopen(request) as answer:  # noqa: S310
                    return answer.read()

            page = partial(ask, "/dagbump/")
            fleet = Fleet(connection)
            rows = [measure(shape, fleet, page) for shape in SHAPES]
            beside = [f"| `{route}` | {measure_beside(partial(ask, route), page)} |" for route in ROUTES]
    header = ["| running runs | TIs each | the page, ms | `preview`, ms | ratio |", "|---:|---:|---:|---:|---:|"]
    beside_header = [
        f"| route | beside {CROWD} requests for the page, ms | alone, ms | ratio |",
        "|---|---:|---:|---:|",
    ]
    table = "\n".join((*header, *rows, "", *beside_header, *beside))
    print(table)
    about = (
        f"{datetime.now(timezone.utc):%Y-%m-%d}, Airflow {release}, {postgres.source}, {os.cpu_count()} cores, "
        f"{processor()}; "
        f"medians of {ROUNDS} rounds, the ratio that of each round's."
    )
    text = DOCUMENT.read_text("utf-8")
    DOCUMENT.write_text(_BLOCK.sub(lambda found: f"{found[1]}{about}\n\n{table}\n{found[2]}", text), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
