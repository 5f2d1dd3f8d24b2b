"""The sides of the comparison: who does a scheduler's loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import psycopg


@dataclass(frozen=True)
class Memory:
    """What a loop makes of Python's memory.

    Attributes:
        kept: bytes that are held when its work is done, before the result of it is let go.
        peak: bytes that were held at most.
        tis_loaded: task instances that have become Python objects, or rows.
    """

    kept: int
    peak: int
    tis_loaded: int


@dataclass(frozen=True)
class Loop:
    """What one loop took, in milliseconds.

    Attributes:
        ms: from its first statement to the end of its commit.
        verify_ms: of which Airflow's verify_integrity, and the reading of the DAG for it: what a scheduler that
            calls dagbump does as well, when a version has landed.
    """

    ms: float
    verify_ms: float = 0.0


class Side(Protocol):
    """One side, on a database of a fleet.

    Attributes:
        name: how it is called in the report.
        in_python: whether Python does most of the work, and not the server.
        connection: to its database, for the benchmark's own questions; never the one that the side works on.
    """

    name: str
    in_python: bool
    connection: psycopg.Connection[Any]

    def warm_up(self) -> None:
        """Do what happens every second: a loop in which nothing changed."""
        ...

    def prepare(self, version: UUID) -> None:
        """Get ready, before the clock starts, for the loop in which this version has landed."""
        ...

    def loop(self) -> Loop:
        """Do one loop."""
        ...

    def inspect(self) -> Memory | None:
        """Do one loop, tracing memory, which takes several times as long; None where there is nothing to trace."""
        ...


class OnConnection:
    """What the sides that work on a connection of their own have in common."""

    in_python = False

    def __init__(self, name: str, worker: psycopg.Connection[Any], connection: psycopg.Connection[Any]) -> None:
        """Take a connection to work on, and one for the benchmark's questions."""
        self.name = name
        self.connection = connection
        self._worker = worker

    def prepare(self, version: UUID) -> None:
        """Nothing, where the side finds the version itself or needs none."""
