"""`make bench-page`: the page in Airflow's UI, beside the dagbump.preview that it has to call.

Both are timed here, in turns: the page over HTTP, from a real API server and with a login, and dagbump.preview through
psycopg.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from urllib.request import Request, urlopen

import dagbump
from support.releases import environments
from support.releases.web import web_server

from benchmarks import fleet
from benchmarks.bench import QUIET, Bench, Stage
from benchmarks.results import Rows, figure

RELEASES, SETTINGS = (environments.release(),), QUIET


def measure(bench: Bench) -> Rows:
    """Measure one fleet after the other."""
    rows = []
    for shape in bench.plan.page:
        with bench.stage(shape) as at:
            rows.append(_measure(at, bench))
    return Rows(bench.describe(), rows)


def _measure(at: Stage, bench: Bench) -> dict[str, int | float | str]:
    at.stock(RELEASES[0])
    url = at.copy("page", RELEASES[0], with_index=False)
    connection = at.connect("page", RELEASES[0])
    fleet.make_stale(connection)
    bench.say(f"{at.shape}: the API server starts")
    with web_server(RELEASES[0], url, at.home) as web:
        request = Request(f"{web.url}/dagbump/", headers={"Authorization": f"Bearer {_token(web.url)}"})  # noqa: S310  (on loopback)

        def page() -> object:
            return urlopen(request).read()  # noqa: S310

        def preview() -> object:
            return dagbump.preview(connection)

        page()
        preview()
        taken = [(_ms(page), _ms(preview)) for _ in range(bench.plan.page_rounds)]
    of_page, of_preview = map(statistics.median, zip(*taken, strict=True))
    return {
        "runs x TIs": str(at.shape),
        "the page, ms": figure(of_page),
        "`preview`, ms": figure(of_preview),
        "ratio, round by round": figure(statistics.median(one / other for one, other in taken)),
    }


def _token(url: str) -> str:
    words = json.dumps({"username": "admin", "password": "admin"}).encode()
    login = Request(f"{url}/auth/token", words, {"Content-Type": "application/json"})  # noqa: S310  (on loopback)
    return str(json.load(urlopen(login))["access_token"])  # noqa: S310


def _ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000
