"""One call of a SQL function: the check of its arguments, and its statement."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Call:
    """One call of a function in schema ``dagbump``, for psycopg and for SQLAlchemy.

    Only arguments that differ from their default are sent. So the server has little to parse in a scheduler's loop.
    """

    function: str
    arguments: dict[str, Any]

    @classmethod
    def to(cls, function: str, /, **arguments: object) -> Self:
        """Check and convert the arguments as the caller gave them.

        Raises:
            TypeError: an argument has the wrong type; the message shows a right call.
        """
        given: dict[str, Any] = {}
        for name, value in arguments.items():
            takes = _ARGUMENTS[name]
            if value is takes.default:
                continue
            try:
                given[name] = takes.convert(value)
            except _Misfit as misfit:
                raise TypeError(
                    f"{name} takes {takes.kind}{misfit.more}, not {type(misfit.value).__name__}: "
                    f"dagbump.{function}(connection, {name}={takes.example})"
                ) from None
        return cls(function, given)

    def sql(self, placeholder: str) -> str:
        """Return the statement; ``placeholder`` is the driver's form of a parameter, with ``{}`` for its name."""
        arguments = (f"{name} => {value}" for name, value in self._values(placeholder).items())
        return f"SELECT * FROM dagbump.{self.function}({', '.join(arguments)})"  # noqa: S608  (constants only)

    def parameters(self) -> dict[str, Any]:
        """Return the values of the statement's parameters by name."""
        return {name: _ARGUMENTS[name].send(value) for name, value in self.arguments.items()}

    def _values(self, placeholder: str) -> dict[str, str]:
        return {name: _ARGUMENTS[name].sql.format(placeholder.format(name)) for name in self.arguments}


@dataclass(frozen=True)
class HistoryQuery(Call):
    """A query on the table ``dagbump.history``: the rows that the arguments select, the newest last."""

    def sql(self, placeholder: str) -> str:
        """Return the statement, as `Call.sql` does."""
        limit = self._values(placeholder).get("limit", "NULL")
        newest = (
            f"SELECT * FROM dagbump.history WHERE {self.condition(placeholder)} "  # noqa: S608  (no value)
            f"ORDER BY bumped_at DESC LIMIT {limit}"
        )
        return f"SELECT * FROM ({newest}) AS history ORDER BY bumped_at"  # noqa: S608  (no value)

    def condition(self, placeholder: str) -> str:
        """Return the condition on the rows, without the limit."""
        values = self._values(placeholder)
        wanted = [_OF_HISTORY[name].format(values[name]) for name in _OF_HISTORY if name in values]
        return " AND ".join(f"({condition})" for condition in wanted) or "TRUE"


_OF_HISTORY = {
    "dag_run_ids": "dag_run_id = ANY ({})",
    "dag_ids": "dag_id = ANY ({})",
    "since": "bumped_at >= {}",
    "until": "bumped_at < {}",
    "search": "pg_catalog.strpos(pg_catalog.lower(dag_id), pg_catalog.lower({0})) > 0 "
    "OR pg_catalog.strpos(pg_catalog.lower(run_id), pg_catalog.lower({0})) > 0",
}


class _Misfit(Exception):  # noqa: N818  (it never leaves this module)
    """A value has the wrong type; ``more`` is added to the name of the right type in the message."""

    def __init__(self, value: object, more: str = "") -> None:
        self.value = value
        self.more = more


def _integer(value: object) -> int:
    """Return an int for any integer type, such as numpy's."""
    if isinstance(value, bool):
        raise _Misfit(value)
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise _Misfit(value) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Misfit(value)
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Misfit(value)
    return value


def _time(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise _Misfit(value)
    return value


def _several(convert: Callable[[object], Any]) -> Callable[[object], list[Any]]:
    """Return a converter for an iterable of ids, which refuses a str; the server refuses a None in it."""

    def convert_all(value: object) -> list[Any]:
        if isinstance(value, str | bytes | bytearray | memoryview) or not isinstance(value, Iterable):
            raise _Misfit(value)
        try:
            return [None if item is None else convert(item) for item in value]
        except _Misfit as misfit:
            raise _Misfit(misfit.value, ", and nothing else in it") from None

    return convert_all


def _as_it_is(value: object) -> object:
    return value


def _array_of_integers(value: Iterable[int | None]) -> str:
    """Return the array in PostgreSQL's text form, for example ``{17,NULL}``."""
    return "{" + ",".join("NULL" if item is None else str(item) for item in value) + "}"


@dataclass(frozen=True)
class _Argument:
    """An argument, which has the same name and type in all functions.

    Attributes:
        sql: the value in SQL, with ``{}`` for the parameter. The cast lets every driver send an empty list.
        kind: the right type, in words.
        example: a right value, in Python.
        convert: converts a value to the right type, or raises `_Misfit`.
        default: the default, which is not sent.
        send: converts the value to the driver's form.
    """

    sql: str
    kind: str
    example: str
    convert: Callable[[object], Any]
    default: object = None
    send: Callable[[Any], object] = _as_it_is


_TIME = "CAST({} AS pg_catalog.timestamptz)"

# The parameters have only types that every driver knows. asyncpg looks up other types, such as bigint[], in the
# catalogs. That look-up may call operators that somebody has created in a schema on the caller's search path.
_ARGUMENTS = {
    "dag_run_ids": _Argument(
        "CAST(CAST({} AS pg_catalog.text) AS bigint[])",
        "an iterable of integers",
        "[17, 18]",
        _several(_integer),
        send=_array_of_integers,
    ),
    "dag_ids": _Argument("CAST({} AS pg_catalog.text[])", "an iterable of str", "['etl']", _several(_text)),
    "max_runs": _Argument("CAST({} AS integer)", "an integer or None", "20", _integer),
    "caller_verifies": _Argument("CAST({} AS boolean)", "True or False", "False", _boolean, default=False),
    "report_all": _Argument("CAST({} AS boolean)", "True or False", "True", _boolean, default=False),
    "caller": _Argument("CAST({} AS pg_catalog.text)", "a str or None", "'etl cleaner'", _text),
    "dag_run_id": _Argument("CAST({} AS bigint)", "an integer", "17", _integer),
    "search": _Argument("CAST({} AS pg_catalog.text)", "a str or None", "'etl'", _text),
    "page": _Argument("CAST({} AS integer)", "an integer", "1", _integer),
    "page_size": _Argument("CAST({} AS integer)", "an integer", "50", _integer),
    "batch_size": _Argument("CAST({} AS integer)", "an integer", "300", _integer),
    "days": _Argument("CAST({} AS integer)", "an integer or None", "14", _integer),
    "since": _Argument(_TIME, "a datetime or None", "datetime.now(timezone.utc)", _time),
    "until": _Argument(_TIME, "a datetime or None", "datetime.now(timezone.utc)", _time),
    "limit": _Argument("CAST({} AS bigint)", "an integer or None", "20", _integer),
}
