"""The page in Airflow's UI when many look at it at once, or connections are few: a real API server of the release."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy.engine import URL
from support.fleet import Fleet, stale_run
from support.releases.web import Web, serving
from support.server import Server, libpq
from support.waits import until

pytestmark = pytest.mark.ui

HEALTH, DAGS = "/api/v2/monitor/health", "/api/v2/dags"
TABS = ("/dagbump/", "/dagbump/versions", "/dagbump/history")
ONE_CONNECTION = {"sql_alchemy_pool_size": "1", "sql_alchemy_max_overflow": "0"}
MANY = 100


@dataclass(frozen=True)
class Answer:
    status: int
    retry_after: str | None
    text: str


@dataclass(frozen=True)
class User:
    """A user who has logged in, without a browser."""

    web: Web
    headers: dict[str, str]

    def ask(self, path: str, body: object = None, **headers: str) -> Answer:
        """Send a GET, or a POST if there is a body."""
        with closing(self.begin_to_ask(path, body, **headers)) as connection:
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers["Retry-After"], answer.read().decode())

    def begin_to_ask(self, path: str, body: object = None, **headers: str) -> HTTPConnection:
        """Do the same, but read no answer."""
        connection = self.connect()
        headers = {**self.headers, "Content-Type": "application/json", **headers}
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, json.dumps(body), headers)
        return connection

    def connect(self) -> HTTPConnection:
        return HTTPConnection(urlsplit(self.web.url).netloc)


def log_in(web: Web) -> User:
    login = User(web, {}).ask("/auth/token", {"username": "admin", "password": "admin"})
    return User(web, {"Authorization": f"Bearer {json.loads(login.text)['access_token']}"})


class Visited(NamedTuple):
    """An API server, with a user who has logged in, and a fleet to see."""

    admin: User
    fleet: Fleet
    url: URL


@contextmanager
def visited(postgres: Server, template: str, directory: Path, **options: Any) -> Iterator[Visited]:
    with (
        serving(postgres, template, directory, **options) as (web, url),
        psycopg.connect(libpq(url), autocommit=True) as connection,
    ):
        yield Visited(log_in(web), Fleet(connection), url)


def count(fleet: Fleet, condition: str) -> int:
    """Return how many connections to the fleet's database meet a condition, without the test's own."""
    query = f"""
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}
    """
    (number,) = fleet.connection.execute(query.encode()).fetchone() or (0,)
    return int(number)


def test_one_connection_is_enough(postgres: Server, dagbump_template: str, tmp_path: Path) -> None:
    with visited(postgres, dagbump_template, tmp_path, database=ONE_CONNECTION) as (admin, fleet, _):
        run = stale_run(fleet, "d")
        assert [admin.ask(tab).status for tab in TABS] == [200, 200, 200]
        (token,) = re.findall('data-token="([^"]+)"', admin.ask("/dagbump/").text)
        moved = admin.ask("/dagbump/bump", {"dag_run_ids": [run]}, **{"X-Dagbump-Token": token})
        assert moved.status == 200
        assert "Moved 1 task instance of 1 run." in moved.text
        assert fleet.execute("SELECT caller FROM dagbump.history").fetchall() == [("page 'Dag versions': admin",)]
        audited = fleet.execute("SELECT owner, extra FROM {schema}.log WHERE event = 'dagbump_bump'").fetchall()
        assert audited == [("admin", json.dumps({"dag_run_ids": [run], "refused": False, "method": "POST"}))]


@pytest.fixture(scope="module")
def usual(postgres: Server, dagbump_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visited]:
    """An API server with as many connections as Airflow has by default."""
    with visited(postgres, dagbump_template, tmp_path_factory.mktemp("usual")) as server:
        stale_run(server.fleet, "d")
        yield server


def test_while_the_page_hangs_the_rest_goes_on(usual: Visited) -> None:
    admin, fleet, url = usual
    with ThreadPoolExecutor(MANY) as threads:
        with psycopg.connect(libpq(url)) as other:
            other.execute("LOCK TABLE dagbump.history")
            asked = [threads.submit(admin.ask, "/dagbump/") for _ in range(MANY)]
            until(lambda: sum(map(Future.done, asked)) == MANY - 2, lambda: "all but two are answered")
            assert count(fleet, "application_name = 'dagbump page' AND wait_event_type = 'Lock'") == 2
            assert {admin.ask(path).status for path in (HEALTH, DAGS) * 10} == {200}
        answers = [future.result() for future in asked]
    assert Counter(answer.status for answer in answers) == {200: 2, 503: MANY - 2}
    assert all(answer.retry_after for answer in answers if answer.status == 503)


def test_a_hundred_at_once_leave_the_rest_of_the_api_server_alone(usual: Visited) -> None:
    admin = usual.admin
    with ThreadPoolExecutor(MANY) as threads:
        asked = [threads.submit(admin.ask, "/dagbump/") for _ in range(MANY)]
        beside = []
        while not all(map(Future.done, asked)):
            beside += [admin.ask(HEALTH).status, admin.ask(DAGS).status]
    assert set(beside) == {200}
    statuses = Counter(future.result().status for future in asked)
    assert statuses[200] > 0
    assert set(statuses) <= {200, 503}


def test_who_sends_a_request_slowly_keeps_nobody_waiting(usual: Visited) -> None:
    admin = usual.admin
    with ExitStack() as stack:
        for _ in range(3):
            slow = stack.enter_context(closing(admin.connect()))
            slow.putrequest("POST", "/dagbump/bump")
            for name, value in {**admin.headers, "Content-Length": "20"}.items():
                slow.putheader(name, value)
            slow.endheaders(b"{")
        assert {admin.ask(tab).status for tab in TABS} == {200}


@pytest.fixture
def slow(postgres: Server, dagbump_template: str, tmp_path: Path) -> Iterator[Visited]:
    """An API server whose auth manager takes 40 ms for each question."""
    with visited(postgres, dagbump_template, tmp_path, slow=True) as server:
        yield server


def questions(user: User) -> int:
    file = user.web.home / "questions"
    return file.stat().st_size if file.exists() else 0


def test_the_auth_manager_is_asked_about_what_is_shown(slow: Visited) -> None:
    admin, fleet, _ = slow
    for number in range(200):
        fleet.dag(f"idle_{number}", versions=1)
    for dag_id in ("one", "two"):
        stale_run(fleet, dag_id)
    fleet.execute("SELECT dagbump.bump(dag_ids => '{{one}}')")
    asked = {}
    for tab in TABS:
        before = questions(admin)
        assert admin.ask(tab).status == 200
        asked[tab] = questions(admin) - before
    # About each DAG two questions: may they see it, and its runs? One has a verdict: may they edit both?
    assert asked == {"/dagbump/": 2 * 2 + 2, "/dagbump/versions": 51 * 2, "/dagbump/history": 2}


def test_no_work_goes_on_for_clients_that_have_gone(slow: Visited) -> None:
    admin, fleet, _ = slow
    for number in range(1_000):  # 80 s for a request
        fleet.dag(f"dag_{number}")
        fleet.run(f"dag_{number}")
    with ExitStack() as clients:
        for _ in range(20):
            clients.enter_context(closing(admin.begin_to_ask("/dagbump/")))
        until(lambda: questions(admin) > 20, lambda: "the auth manager is asked")
        until(lambda: is_idle(fleet), lambda: "no connection is held")

    def is_quiet() -> bool:
        before = questions(admin)
        return admin.ask("/dagbump/history").status == 200 and questions(admin) == before

    until(is_quiet, lambda: "nothing is asked any more")
    until(lambda: is_idle(fleet), lambda: "no connection is held")


def is_idle(fleet: Fleet) -> bool:
    return count(fleet, "state LIKE 'idle in transaction%'") == 0
