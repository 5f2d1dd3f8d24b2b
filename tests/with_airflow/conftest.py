"""Fixtures of the tests that run a real Airflow: its database, and where it sends its metrics."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy.engine import URL
from support.page import browser, emptied, enter, served, web
from support.server import Server

__all__ = ["browser", "emptied", "enter", "served", "web"]  # fixtures


@pytest.fixture(scope="module")
def airflow_url(postgres: Server, dagbump_template: str) -> Iterator[URL]:
    """One database for the module, because Airflow takes seconds to start."""
    with postgres.temporary_database(dagbump_template) as url:
        yield url


@pytest.fixture(scope="module")
def statsd() -> Iterator[socket.socket]:
    """What Airflow sends its metrics to."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        yield listener
