"""Fixtures of the tests that run a real Airflow: its database, where its metrics go, and its page in a browser."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from playwright.sync_api import Browser
from sqlalchemy.engine import URL
from support.browser import Visitor, chromium, visitor
from support.fleet import Fleet
from support.page import Enter, Served, emptied_fleet
from support.releases.web import Web, serving
from support.server import Server


@pytest.fixture(scope="module")
def airflow_url(postgres: Server, dagbump_template: str) -> Iterator[URL]:
    """One database for the module, because Airflow takes seconds to start."""
    with postgres.temporary_database(dagbump_template) as url:
        yield url


@pytest.fixture(scope="module")
def statsd() -> Iterator[socket.socket]:
    """A UDP socket to which Airflow sends its metrics."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        yield listener


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(postgres: Server, dagbump_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An API server with the simple auth manager, for all tests."""
    with serving(postgres, dagbump_template, tmp_path_factory.mktemp("web")) as served:
        yield served


@pytest.fixture
def web(served: Served) -> Web:
    return served[0]


@pytest.fixture
def emptied(served: Served) -> Iterator[Fleet]:
    """A database without a DAG, and with dagbump as it was installed."""
    with emptied_fleet(served[1]) as fleet:
        yield fleet


@pytest.fixture
def enter(browser: Browser, web: Web) -> Iterator[Enter]:
    """Lets a user log in. Fails if the browser's console has complaints about the page."""
    with ExitStack() as stack:
        visitors: list[Visitor] = []

        def enter(name: str, airflow: str = web.url, **options: Any) -> Visitor:
            somebody = stack.enter_context(visitor(browser, **options))
            visitors.append(somebody)
            somebody.log_in(airflow, name)
            return somebody

        yield enter
        assert [somebody.complaints for somebody in visitors] == [[] for _ in visitors]
