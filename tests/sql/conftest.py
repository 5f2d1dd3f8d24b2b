"""Fixtures of the tests of what is in the database."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest


@pytest.fixture
def impatient(connection: psycopg.Connection[Any]) -> None:
    """Any wait for a lock fails the test's main connection."""
    connection.execute("SET lock_timeout = '50ms'")
    connection.commit()
