"""Which database to talk to, and an engine for it.

Accepts any SQLAlchemy URL, with any driver's name in it, and any libpq connection string, because it reads
what Airflow's own configuration holds. A password never leaves this module.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from dagbump.errors import DagbumpError, Unreachable, UnsupportedAirflow, sqlstate, summary

WHERE_URL_COMES_FROM = (
    "--url, else DAGBUMP_URL, else AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, else sql_alchemy_conn in airflow.cfg"
)
_POSTGRESQL = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://")
_DEFAULTS = {"fallback_application_name": "dagbump", "connect_timeout": "10"}


class InvalidUrl(DagbumpError, ValueError):  # noqa: N818
    """No database was named, or what names it cannot be understood."""


def find_url(explicit: str | None = None) -> str:
    """Return the database to use: what was given, else the first of the places that name one.

    Raises:
        InvalidUrl: none of them does.
    """
    url = (
        explicit
        or os.environ.get("DAGBUMP_URL")
        or os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
        or _from_airflow_cfg()
    )
    if not url:
        raise InvalidUrl(f"no database was named: it is taken from {WHERE_URL_COMES_FROM}.")
    return url


def _from_airflow_cfg() -> str | None:
    home = os.environ.get("AIRFLOW_HOME", "~/airflow")
    path = Path(os.environ.get("AIRFLOW_CONFIG", f"{home}/airflow.cfg")).expanduser()
    parser = configparser.ConfigParser(strict=False)
    try:
        parser.read(path, encoding="utf-8")
        return os.path.expandvars(parser.get("database", "sql_alchemy_conn"))
    except configparser.Error:
        return None


def create_engine(url: str) -> sa.engine.Engine:
    """Make an engine, without a pool, that uses psycopg where this SQLAlchemy knows it, else psycopg2.

    Raises:
        InvalidUrl: the URL cannot be understood; the message does not repeat it.
        UnsupportedAirflow: it names another database system than PostgreSQL.
    """
    if "://" in url and not _POSTGRESQL.match(url):
        raise UnsupportedAirflow(
            f"dagbump works in PostgreSQL only, and this URL names {url.split(':', 1)[0].split('+', 1)[0]!r}."
        )
    module, drivername = _driver()
    if "://" in url:
        try:
            parsed = sa.engine.make_url(url).set(drivername=drivername)
        except Exception:  # noqa: BLE001, S110  (it may quote the password; several hosts are for libpq to read)
            pass
        else:
            missing = {key: value for key, value in _DEFAULTS.items() if key not in parsed.query}
            return _engine(parsed.update_query_dict(missing))
    return _engine(f"{drivername}://", creator=_libpq_creator(module, url))


def _engine(url: str | sa.engine.URL, **options: Any) -> sa.engine.Engine:
    # future: SQLAlchemy 1.4 behaves as 2.x does.
    return sa.create_engine(url, poolclass=NullPool, future=True, **options)


def _libpq_creator(module: ModuleType, url: str) -> Callable[[], Any]:
    conninfo = re.sub(r"^postgres(?:ql)?\+\w+://", "postgresql://", url)
    try:
        given = _parse_conninfo(module, conninfo)
    except Exception:  # noqa: BLE001  (libpq's message may quote a part of the password)
        raise InvalidUrl(
            "the database URL cannot be understood; it is a SQLAlchemy URL or a libpq connection string, "
            "such as postgresql://user:password@host:5432/airflow, with special characters percent-encoded."
        ) from None
    return lambda: module.connect(**{**_DEFAULTS, **given})


def _parse_conninfo(module: ModuleType, conninfo: str) -> dict[str, Any]:
    if module.__name__ == "psycopg":
        from psycopg.conninfo import conninfo_to_dict  # needs libpq

        return conninfo_to_dict(conninfo)
    from psycopg2.extensions import parse_dsn

    parsed: dict[str, Any] = parse_dsn(conninfo)
    return parsed


def _driver() -> tuple[ModuleType, str]:
    """Return the driver's module and SQLAlchemy's name for it."""
    if not sa.__version__.startswith("1."):  # SQLAlchemy 1.4, Airflow 3.0's, has no dialect for psycopg
        try:
            import psycopg
        except ImportError:  # not there, or no libpq
            pass
        else:
            return psycopg, "postgresql+psycopg"
    try:
        import psycopg2
    except ImportError:
        raise DagbumpError("no PostgreSQL driver can be loaded: pip install 'dagbump[binary]'") from None
    return psycopg2, "postgresql+psycopg2"


def describe(engine: sa.engine.Engine) -> str:
    """Name the database for a person: user, host, port and database, never a password."""
    url = engine.url
    if not url.database and not url.host:
        return "the database of that connection string"
    place = f"{url.host or url.query.get('host') or 'local socket'}{f':{url.port}' if url.port else ''}"
    return f"{url.database or 'the default database'} on {place}{f' as {url.username}' if url.username else ''}"


def connect(engine: sa.engine.Engine) -> sa.engine.Connection:
    """Open a connection.

    Raises:
        Unreachable: it could not be made.
    """
    try:
        return engine.connect()
    except sa.exc.DBAPIError as error:
        raise Unreachable(f"cannot connect to {describe(engine)}: {summary(error)}") from error


def is_outage(error: sa.exc.DBAPIError) -> bool:
    """Tell whether a fresh connection, later, may do what this one could not."""
    state = sqlstate(error) or ""
    return (
        error.connection_invalidated
        or not state
        or state[:2] in {"08", "40", "53"}  # connection exception, transaction rollback, insufficient resources
        or state[:4] == "57P0"  # shutdown, crash, not yet started
        or state == "25006"  # read-only: a failover
    )
