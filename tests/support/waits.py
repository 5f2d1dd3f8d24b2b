"""Waits for a state that the server itself reports, so that no test sleeps and hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg

PATIENCE_SECONDS = 20.0


def until(condition: Callable[[], object], awaited: Callable[[], str], patience: float = PATIENCE_SECONDS) -> None:
    """Wait until the condition holds. If it never does, fail and name it."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {awaited()}"
        time.sleep(0.005)


def until_waiting_for_lock(observer: psycopg.Connection[Any], waiting: psycopg.Connection[Any]) -> None:
    """Return when pg_stat_activity shows that this connection's backend waits for a lock."""
    query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
    pid = waiting.info.backend_pid
    until(lambda: observer.execute(query, (pid,)).fetchone() == (True,), lambda: f"backend {pid} waits for a lock")
