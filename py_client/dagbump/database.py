"""Which database to talk to, and an engine for it.

Accepts any SQLAlchemy URL, with any driver's name and any driver's own parameters in it, and any libpq connection
string, because it reads what Airflow's own configuration holds. A password never leaves this module, nor does what
may be a part of one.
"""

from __future__ import annotations

import configparser
import math
import os
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from dagbump.errors import DagbumpError, Unreachable, UnsupportedAirflow, sqlstate, summary

WHERE_URL_COMES_FROM = (
    "--url, else DAGBUMP_URL, else AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, else sql_alchemy_conn in airflow.cfg"
)
_AIRFLOW_VARIABLE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
_ENCODE = (
    "It looks as if special characters (@ / : ? # %) in the user name or the password were not percent-encoded: "
    "@ is %40, / is %2F, : is %3A."
)


class InvalidUrl(DagbumpError, ValueError):  # noqa: N818
    """No database was named, or what names it cannot be understood."""


@dataclass(frozen=True)
class DatabaseUrl:
    """What names a database, and the place where it was found, which every message about it says."""

    value: str = field(repr=False)
    source: str = "the URL given"


def find_url(explicit: str | None = None) -> DatabaseUrl:
    """Return the database to use: what was given, else the first of the places that name one.

    Raises:
        InvalidUrl: none of them does, or the first that is there is empty: an unset variable must not
            lead to another database.
    """
    if explicit is not None:
        return _not_empty(DatabaseUrl(explicit, "--url"))
    if "DAGBUMP_URL" in os.environ:
        return _not_empty(DatabaseUrl(os.environ["DAGBUMP_URL"], "DAGBUMP_URL"))
    if _AIRFLOW_VARIABLE in os.environ:
        return _not_empty(DatabaseUrl(os.path.expandvars(os.environ[_AIRFLOW_VARIABLE]), _AIRFLOW_VARIABLE))
    for suffix in ("_CMD", "_SECRET"):
        if _AIRFLOW_VARIABLE + suffix in os.environ:
            return _from_airflow(_AIRFLOW_VARIABLE + suffix)
    found = _from_airflow_cfg()
    if found is None:
        raise InvalidUrl(f"no database was named: it is taken from {WHERE_URL_COMES_FROM}.")
    return found


def _not_empty(url: DatabaseUrl) -> DatabaseUrl:
    value = url.value.strip()  # a command ends what it prints with a newline
    if not value:
        raise InvalidUrl(f"{url.source} is empty: name the database in it, or leave it out.")
    return DatabaseUrl(value, url.source)


def _from_airflow_cfg() -> DatabaseUrl | None:
    home = os.environ.get("AIRFLOW_HOME", "~/airflow")
    path = Path(os.environ.get("AIRFLOW_CONFIG", f"{home}/airflow.cfg")).expanduser()
    parser = configparser.ConfigParser(strict=False)
    try:
        # A comment in another encoding does no harm.
        parser.read_string(path.read_text(encoding="utf-8", errors="surrogateescape"))
        section = parser["database"]
        for key in ("sql_alchemy_conn", "sql_alchemy_conn_cmd", "sql_alchemy_conn_secret"):
            source = f"{key} in {path}"
            if section.get(key):
                value = os.path.expandvars(section[key])
                return DatabaseUrl(value, source) if key == "sql_alchemy_conn" else _from_airflow(source)
        if "sql_alchemy_conn" in section:
            return _not_empty(DatabaseUrl("", f"sql_alchemy_conn in {path}"))
    except PermissionError:
        raise InvalidUrl(f"{path} cannot be read: permission denied.") from None
    except configparser.InterpolationError:
        raise InvalidUrl(f"the database in {path} cannot be read: a % is written %% there.") from None
    except (OSError, KeyError, configparser.Error):  # there is none, or it says nothing about a database
        pass
    return None


def _from_airflow(source: str) -> DatabaseUrl:
    """Let Airflow's own configuration run the command, or ask the secrets backend."""
    try:
        with redirect_stdout(None):  # what Airflow prints must not get between the rows of an answer
            from airflow.configuration import conf

            return _not_empty(DatabaseUrl(conf.get("database", "sql_alchemy_conn"), source))
    except ImportError:
        raise InvalidUrl(
            f"{source} is for Airflow to follow, which is not installed here: run this where it is, or give --url."
        ) from None
    except InvalidUrl:
        raise
    except Exception:  # noqa: BLE001  (Airflow's message quotes what the command printed)
        raise InvalidUrl(
            f"Airflow could not follow {source}; `airflow config get-value database sql_alchemy_conn` shows why."
        ) from None


_DATABASE = "dagbump_database"  # the execution option of an engine that holds its _Database


@dataclass(frozen=True)
class _Database:
    """What may be told about a database."""

    description: str
    source: str


def create_engine(url: str | DatabaseUrl) -> sa.engine.Engine:
    """Make an engine, without a pool, that uses psycopg where this SQLAlchemy knows it, else psycopg2.

    Raises:
        InvalidUrl: the URL cannot be understood; the message does not repeat it.
        UnsupportedAirflow: it names another database system than PostgreSQL.
    """
    found = url if isinstance(url, DatabaseUrl) else DatabaseUrl(url)
    module, drivername = _driver()
    defaults = {"fallback_application_name": "dagbump", "connect_timeout": "10"}
    parameters = {**defaults, **_connection_parameters(found, module, drivername)}
    return sa.create_engine(
        f"{drivername}://",
        creator=lambda: module.connect(**parameters),
        poolclass=NullPool,
        future=True,  # SQLAlchemy 1.4 behaves as 2.x does
        execution_options={_DATABASE: _Database(_description(parameters), found.source)},
    )


# As SQLAlchemy reads it: credentials, which a slash does not end, then host, port and database, then the query.
_URL = re.compile(
    r"(?P<scheme>[\w.+-]+)://(?P<credentials>[^:/]*(?::[^@]*)?@)?(?P<place>[^?]*)(?:\?(?P<query>.*))?", re.DOTALL
)
_POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+\w+)?")


def _connection_parameters(url: DatabaseUrl, module: ModuleType, drivername: str) -> dict[str, Any]:
    """Return what libpq is to be given: it never sees, and so never quotes, what cannot be right."""
    unclear = InvalidUrl(
        f"the database URL cannot be understood ({url.source}); it is a SQLAlchemy URL or a libpq connection string, "
        f"such as postgresql://user:password@host:5432/airflow. {_ENCODE}"
    )
    match = _URL.match(url.value)
    if match and not _POSTGRESQL.fullmatch(match["scheme"]):
        name = match["scheme"].partition("+")[0]
        raise UnsupportedAirflow(f"dagbump works in PostgreSQL only, and {url.source} names {name!r}.")
    try:
        url.value.encode()
        parameters = _read_url(match, module, drivername) if match else _parse_conninfo(module, url.value)
    except Exception:  # noqa: BLE001  (the message may quote a part of the password)
        raise unclear from None
    if parameters is None or not re.fullmatch(r"[\d,]*", str(parameters.get("port") or "")):
        raise unclear
    return parameters


def _read_url(match: re.Match[str], module: ModuleType, drivername: str) -> dict[str, Any] | None:
    """Return the parameters; None where a part of a password may stand in the place of something else."""
    if "@" in match["place"]:
        return None
    query = []
    for name, equals, value in (pair.partition("=") for pair in (match["query"] or "").split("&") if pair):
        libpqs = _for_libpq(module, name, value)
        if libpqs:
            query.append(libpqs)
        elif not equals or "@" in name + value:
            return None
    credentials = match["credentials"] or ""
    if "/" in credentials and _libpq_reads_it_otherwise(match, module):
        return None
    url = f"postgresql://{credentials}{match['place']}?{'&'.join(query)}"
    try:
        parsed = sa.engine.make_url(url).set(drivername=drivername)
    except ValueError:  # several hosts, each with its port
        return _parse_conninfo(module, url)
    parameters = dict(parsed.get_dialect()().create_connect_args(parsed)[1])
    if str(parameters.get("host")).upper().startswith("%2F"):  # libpq's way to write a socket's directory
        parameters["host"] = unquote(parameters["host"])
    return parameters


def _libpq_reads_it_otherwise(match: re.Match[str], module: ModuleType) -> bool:
    """Tell whether an @ that ends a password for SQLAlchemy belongs to the query for libpq: host:1/d?user=a@b."""
    try:
        read = _parse_conninfo(module, match.string.replace(match["scheme"], "postgresql", 1))
    except Exception:  # noqa: BLE001  (it cannot read it at all)
        return False
    return "@" not in read.get("dbname", "") and re.fullmatch(r"\d*", read.get("port", "")) is not None


_SSLMODES = {"true": "require", "1": "require", "false": "disable", "0": "disable"}


def _for_libpq(module: ModuleType, name: str, value: str) -> str:
    """Return a URL's parameter as libpq writes it; nothing where it is another driver's, or SQLAlchemy's."""
    if name == "ssl":  # asyncpg
        return f"sslmode={_SSLMODES.get(value.lower(), value)}"
    if name == "database":  # asyncpg, pg8000
        return f"dbname={value}"
    if name == "timeout" and value:  # asyncpg, pg8000; both take fractions
        return f"connect_timeout={math.ceil(float(value))}"
    if name == "unix_sock":  # pg8000: the socket itself, DIRECTORY/.s.PGSQL.PORT
        socket = PurePosixPath(unquote(value))
        return f"host={socket.parent}&port={socket.suffix[1:]}"
    return f"{name}={value}" if _is_libpqs(module, name) else ""


def _is_libpqs(module: ModuleType, name: str) -> bool:
    try:
        _parse_conninfo(module, f"{name}=''")
    except Exception:  # noqa: BLE001  (each driver has its own)
        return False
    return name.isidentifier()


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


def _description(parameters: Mapping[str, Any]) -> str:
    place = parameters.get("host") or parameters.get("hostaddr") or "the default host"
    port = f":{parameters['port']}" if parameters.get("port") else ""
    user = f" as {parameters['user']}" if parameters.get("user") else ""
    service = f" of service {parameters['service']}" if parameters.get("service") else ""
    return f"{parameters.get('dbname') or 'the default database'} on {place}{port}{user}{service}"


def describe(engine: sa.engine.Engine) -> str:
    """Name the database for a person: user, host, port and database, never a password."""
    known: _Database = engine.get_execution_options()[_DATABASE]
    return known.description


def connect(engine: sa.engine.Engine) -> sa.engine.Connection:
    """Open a connection.

    Raises:
        Unreachable: it could not be made.
    """
    try:
        return engine.connect()
    except sa.exc.DBAPIError as error:
        known: _Database = engine.get_execution_options()[_DATABASE]
        raise Unreachable(
            f"cannot connect to {known.description} (named by {known.source}): {summary(error)}"
        ) from error


# Connection exceptions, read-only (a failover), transaction rollback, insufficient resources, object not in the state
# that is needed (lock_timeout), operator intervention (statement_timeout, cancel, shutdown), system errors, and
# internal ones, which DDL at the same time may cause.
_PASSING = ("08", "25006", "40", "53", "55", "57", "58", "XX")


def may_pass(error: BaseException) -> bool:
    """Tell whether a later try may do what this one could not, nothing being changed by anybody."""
    if isinstance(error, DagbumpError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, Unreachable):
        return True
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    state = sqlstate(error)
    return error.connection_invalidated or state is None or state.startswith(_PASSING)
