"""One call of a SQL function: what a caller may give it, and the statement."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

# The casts let every driver send an empty list.
_TYPES = {"dag_run_ids": "bigint[]", "dag_ids": "text[]", "max_runs": "integer", "caller_verifies": "boolean"}


@dataclass(frozen=True)
class Call:
    """One call of a function in schema ``dagbump``, ready for psycopg and for SQLAlchemy.

    Only what the caller has given is sent: the steady loop of a scheduler, every second, has next to nothing to parse.
    """

    function: str
    arguments: dict[str, Any]

    @classmethod
    def to(cls, function: str, dag_run_ids: object, dag_ids: object, max_runs: object, caller_verifies: object) -> Call:
        """Take the arguments as they were given.

        Raises:
            TypeError: one is not of the kind that is meant; the message holds the right call.
        """
        given: dict[str, Any] = {}
        if dag_run_ids is not None:
            given["dag_run_ids"] = _list(function, "dag_run_ids", dag_run_ids, "integers", "[17, 18]", _integer)
        if dag_ids is not None:
            given["dag_ids"] = _list(function, "dag_ids", dag_ids, "str", "['etl']", _text)
        if max_runs is not None:
            try:
                given["max_runs"] = _integer(max_runs)
            except TypeError:
                raise _misused(function, "max_runs", "an integer or None", max_runs, "20") from None
        if not isinstance(caller_verifies, bool):
            raise _misused(function, "caller_verifies", "True or False", caller_verifies, "False")
        if caller_verifies:
            given["caller_verifies"] = True
        return cls(function, given)

    def sql(self, placeholder: str) -> str:
        """Return the statement; ``placeholder`` is a driver's way to write a parameter, with ``{}`` for its name."""
        arguments = (f"{name} => CAST({placeholder.format(name)} AS {_TYPES[name]})" for name in self.arguments)
        return f"SELECT * FROM dagbump.{self.function}({', '.join(arguments)})"  # noqa: S608  (constants only)


def _list(
    function: str, name: str, value: object, kind: str, example: str, convert: Callable[[object], Any]
) -> list[Any]:
    """Return what an argument that takes several ids holds; a text is one thing here, not its letters."""
    if isinstance(value, str | bytes | bytearray | memoryview) or not isinstance(value, Iterable):
        raise _misused(function, name, f"an iterable of {kind}", value, example)
    converted = []
    for item in value:
        try:
            converted.append(convert(item))
        except TypeError:
            raise _misused(function, name, f"an iterable of {kind}, and nothing else in it", item, example) from None
    return converted


def _integer(value: object) -> int | None:
    """Return whatever counts as an integer, numpy's for one, as an int; None is the server's to refuse."""
    if isinstance(value, bool):
        raise TypeError
    return None if value is None else operator.index(value)  # type: ignore[arg-type]


def _text(value: object) -> str | None:
    if not isinstance(value, str | None):
        raise TypeError
    return value


def _misused(function: str, name: str, wanted: str, given: object, example: str) -> TypeError:
    return TypeError(
        f"{name} takes {wanted}, not {type(given).__name__}: dagbump.{function}(connection, {name}={example})"
    )
