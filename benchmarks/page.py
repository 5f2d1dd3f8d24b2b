"""`make bench-page`: the page in Airflow's UI, beside what Airflow's own page of DAG runs asks its API server for.

Both are asked for over HTTP, from the same real API server and with a login, in turns. Each shows the first 50 runs.
Two other routes of Airflow's are asked for beside a crowd that asks for dagbump's page, and beside one that asks for
Airflow's list.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from support.releases import environments
from support.releases.web import web_server

from benchmarks import fleet
from benchmarks.bench import QUIET, Bench, Stage
from benchmarks.figures import Rows, figure

PAGE = "/dagbump/"
# What Airflow's UI asks for to show the newest running runs of all DAGs, as many as a page of dagbump's has.
DAG_RUNS = "/api/v2/dags/~/dagRuns?limit=50&offset=0&state=running&order_by=-run_after"
ROUTES = ("/api/v2/monitor/health", "/api/v2/dags")
CROWD = 100
RELEASES, SETTINGS = (environments.release(),), QUIET


def measure(bench: Bench) -> Rows:
    """Measure one fleet after the other."""
    rows = []
    for size in bench.plan.page:
        with bench.stage(size) as at:
            rows.append(_measure(at, bench))
    return Rows(bench.describe(), rows)


def _measure(at: Stage, bench: Bench) -> dict[str, int | float | str]:
    at.stock(RELEASES[0])
    url = at.copy("page", RELEASES[0], with_index=False)
    connection = at.connect("page", RELEASES[0])
    fleet.make_stale(connection)
    bench.say(f"{at.size}: the API server starts")
    with web_server(RELEASES[0], url, at.home) as web:
        headers = {"Authorization": f"Bearer {_token(web.url)}"}

        def get(path: str) -> object:
            return urlopen(Request(f"{web.url}{path}", headers=headers)).read()  # noqa: S310  (on loopback)

        page, dag_runs = partial(get, PAGE), partial(get, DAG_RUNS)
        page()
        dag_runs()
        rounds = range(bench.plan.page_rounds)
        taken = [(_ms(page), _ms(dag_runs)) for _ in rounds]
        beside = {
            route: [
                (_ms_in_a_crowd(partial(get, route), page), _ms_in_a_crowd(partial(get, route), dag_runs))
                for _ in rounds
            ]
            for route in ROUTES
        }
    of_page, of_dag_runs = map(statistics.median, zip(*taken, strict=True))
    row: dict[str, float | str] = {
        "runs x TIs": str(at.size),
        "the page, ms": figure(of_page),
        "Airflow's list of DAG runs, ms": figure(of_dag_runs),
        "ratio, round by round": _ratio(taken),
    }
    for route, times in beside.items():
        row[f"`{route}` beside {CROWD} requests of the page, to beside {CROWD} of Airflow's list"] = _ratio(times)
    return row


def _ratio(times: list[tuple[float, float]]) -> float:
    return figure(statistics.median(one / other for one, other in times))


def _ms_in_a_crowd(route: Callable[[], object], crowded: Callable[[], object]) -> float:
    def visit() -> None:
        with suppress(HTTPError):  # 503: to come back later
            crowded()

    with ThreadPoolExecutor(CROWD) as threads:
        for _ in range(CROWD):
            threads.submit(visit)
        return _ms(route)


def _token(url: str) -> str:
    words = json.dumps({"username": "admin", "password": "admin"}).encode()
    login = Request(f"{url}/auth/token", words, {"Content-Type": "application/json"})  # noqa: S310  (on loopback)
    return str(json.load(urlopen(login))["access_token"])  # noqa: S310  (on loopback)


def _ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000
