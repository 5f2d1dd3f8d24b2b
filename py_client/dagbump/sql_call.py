"""One call of a SQL function: what a caller may give it, and the statement."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Call:
    """One call of a function in schema ``dagbump``, ready for psycopg and for SQLAlchemy.

    Only what the caller has given is sent: the steady loop of a scheduler, every second, has next to nothing to parse.
    """

    function: str
    arguments: dict[str, Any]

    @classmethod
    def to(cls, function: str, /, **arguments: object) -> Call:
        """Take the arguments as they were given.

        Raises:
            TypeError: one is not of the kind that is meant; the message holds the right call.
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
        """Return the statement; ``placeholder`` is a driver's way to write a parameter, with ``{}`` for its name."""
        arguments = (f"{name} => {value}" for name, value in self._values(placeholder).items())
        return f"SELECT * FROM dagbump.{self.function}({', '.join(arguments)})"  # noqa: S608  (constants only)

    def parameters(self) -> dict[str, Any]:
        """Return what the statement's parameters stand for."""
        return {name: _ARGUMENTS[name].send(value) for name, value in self.arguments.items()}

    def _values(self, placeholder: str) -> dict[str, str]:
        return {name: _ARGUMENTS[name].sql.format(placeholder.format(name)) for name in self.arguments}


@dataclass(frozen=True)
class HistoryQuery(Call):
    """A look into the table ``dagbump.history``: what the arguments leave of it, the newest last."""

    def sql(self, placeholder: str) -> str:
        """Return the statement, as `Call` does."""
        values = self._values(placeholder)
        limit = values.pop("limit", "NULL")
        wanted = [_OF_HISTORY[name].format(value) for name, value in values.items()]
        where = " AND ".join(wanted) or "TRUE"
        # The pieces are constants of this module, and placeholders: no value is in the text.
        newest = f"SELECT * FROM dagbump.history WHERE {where} ORDER BY bumped_at DESC LIMIT {limit}"  # noqa: S608  (so)
        return f"SELECT * FROM ({newest}) AS history ORDER BY bumped_at"  # noqa: S608  (so)


_OF_HISTORY = {
    "dag_run_ids": "dag_run_id = ANY ({})",
    "dag_ids": "dag_id = ANY ({})",
    "since": "bumped_at >= {}",
    "until": "bumped_at < {}",
}


class _Misfit(Exception):  # noqa: N818  (it never leaves this module)
    """A value that is not of the kind that is meant, and what to add to the name of that kind."""

    def __init__(self, value: object, more: str = "") -> None:
        self.value = value
        self.more = more


def _integer(value: object) -> int:
    """Return whatever counts as an integer, numpy's for one, as an int."""
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
    """Take several ids; a text is one thing here, not its letters, and None among them is the server's to refuse."""

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
    """Return it as PostgreSQL reads it, ``{17,NULL}``."""
    return "{" + ",".join("NULL" if item is None else str(item) for item in value) + "}"


@dataclass(frozen=True)
class _Argument:
    """What the functions' arguments of one name take.

    Attributes:
        sql: the value in SQL, with ``{}`` for the parameter. The cast lets every driver send an empty list.
        kind: what is meant, in words.
        example: a right one, in Python.
        convert: makes the right kind of value; raises `_Misfit`.
        default: what is not sent.
        send: makes of that what the driver is given.
    """

    sql: str
    kind: str
    example: str
    convert: Callable[[object], Any]
    default: object = None
    send: Callable[[Any], object] = _as_it_is


_TIME = "CAST({} AS pg_catalog.timestamptz)"

# Only types that every driver knows by itself. asyncpg looks others up, bigint[] for one, and that runs operators which
# somebody may have made in a schema on the caller's search path.
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
    "batch_size": _Argument("CAST({} AS integer)", "an integer", "1000", _integer),
    "days": _Argument("CAST({} AS integer)", "an integer or None", "14", _integer),
    "since": _Argument(_TIME, "a datetime or None", "datetime.now(timezone.utc)", _time),
    "until": _Argument(_TIME, "a datetime or None", "datetime.now(timezone.utc)", _time),
    "limit": _Argument("CAST({} AS bigint)", "an integer or None", "20", _integer),
}
