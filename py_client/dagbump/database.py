"""Finds the database's URL and makes an engine for it.

A password, or a text that may be part of one, never leaves this module and `libpq`.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from dagbump import libpq, search_path
from dagbump.errors import DagbumpError, InvalidUrl, Unreachable, sqlstate, summary
from dagbump.installation import trust

WHERE_URL_COMES_FROM = (
    "--url, else DAGBUMP_URL, else AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, else sql_alchemy_conn in airflow.cfg"
)
_AIRFLOW_VARIABLE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


@dataclass(frozen=True)
class DatabaseUrl:
    """The URL of a database, and the place where it was found, which is named in every message about it."""

    value: str = field(repr=False)
    source: str = "the URL given"


def find_url(explicit: str | None = None) -> DatabaseUrl:
    """Return the URL that was given, else the URL from the first place that is set.

    Raises:
        InvalidUrl: no place is set, or the first one is set to an empty text. An empty text is refused, because a
            variable that was not filled in must not lead to another database.
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
    value = url.value.strip()  # the output of a _CMD command ends with a newline
    if not value:
        raise InvalidUrl(f"{url.source} is empty: name the database in it, or leave it out.")
    return DatabaseUrl(value, url.source)


def _from_airflow_cfg() -> DatabaseUrl | None:
    home = os.environ.get("AIRFLOW_HOME", "~/airflow")
    try:
        path = Path(os.environ.get("AIRFLOW_CONFIG", f"{home}/airflow.cfg")).expanduser()
    except RuntimeError:  # the user has no home, as a container's user without a name
        return None
    parser = configparser.ConfigParser(strict=False)
    try:
        # With surrogateescape, a comment in another encoding is no error.
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
    except (OSError, KeyError, configparser.Error):  # there is no airflow.cfg, or it names no database
        pass
    return None


def _from_airflow(source: str) -> DatabaseUrl:
    """Let Airflow's own configuration run the command or ask the secrets backend."""
    if find_spec("airflow") is None:
        raise InvalidUrl(
            f"only Airflow can read {source}, and Airflow is not installed here: run this where it is, or give --url."
        )
    try:
        with redirect_stdout(None):  # Airflow's own output must not mix with the output of the command
            from airflow.configuration import conf

            return _not_empty(DatabaseUrl(conf.get("database", "sql_alchemy_conn"), source))
    except InvalidUrl:
        raise
    except Exception:  # noqa: BLE001  (Airflow's message quotes the command's output, which may hold the password)
        raise InvalidUrl(
            f"Airflow could not read {source}; `airflow config get-value database sql_alchemy_conn` shows why."
        ) from None


# For libpq: half a minute after a server has vanished without closing its connections, it is given up. The first
# three are for a connection that waits for an answer, the last, in milliseconds, for one whose request has not arrived.
_GIVE_UP_A_SILENT_SERVER = {
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}

_DATABASE = "dagbump_database"  # the engine's execution option that holds its _Database


@dataclass(frozen=True)
class _Database:
    """What messages may say about a database, and whether the owner of Airflow's tables there is trusted."""

    description: str
    source: str
    trust_owner: bool


def create_engine(
    url: str | DatabaseUrl, *, trust_owner: bool = False, opened: Callable[[Any], None] | None = None
) -> sa.engine.Engine:
    """Make an engine without a pool; it uses psycopg if this SQLAlchemy has a dialect for it, else psycopg2.

    Every statement runs with a pinned search path, also those that SQLAlchemy and the driver send on connect. The
    engine leaves no setting on the server's side of the connection, because a pooler may give that connection to
    another client after each transaction.

    Args:
        url: the database's URL.
        trust_owner: let a superuser work although Airflow's tables belong to an ordinary role. DAGBUMP_TRUST_OWNER=1
            does the same.
        opened: is called with each new connection of the driver before its first query.

    Raises:
        InvalidUrl: the URL cannot be understood; the message does not repeat it.
        UnsupportedAirflow: the URL is of another database system than PostgreSQL.
    """
    found = url if isinstance(url, DatabaseUrl) else DatabaseUrl(url)
    module, drivername = _driver()
    # Without client_encoding, a driver would return text as bytes if the database's encoding is SQL_ASCII.
    defaults = {"fallback_application_name": "dagbump", "connect_timeout": "10", "client_encoding": "utf8"}
    parameters = {
        **defaults,
        **_GIVE_UP_A_SILENT_SERVER,
        **libpq.parameters(found.value, found.source, module, drivername),
    }
    description = _description(parameters)
    if module.__name__ == "psycopg":
        parameters["prepare_threshold"] = None  # a prepared statement would stay on the server
    trusted = trust_owner or os.environ.get(trust.VARIABLE) == "1"

    def open_pinned() -> Any:
        try:
            driver_connection = module.connect(**parameters)
        except UnicodeError as error:  # psycopg looks hosts up through Python, which encodes their names first
            raise module.OperationalError(f"could not translate the host name to an address: {error}") from error
        if opened is not None:
            opened(driver_connection)
        _in_iso_style(driver_connection)
        driver_connection.cursor().execute(search_path.PIN)
        return driver_connection

    engine = sa.create_engine(
        f"{drivername}://",
        creator=open_pinned,
        poolclass=NullPool,
        future=True,  # SQLAlchemy 1.4 behaves as 2.x does
        use_native_hstore=False,  # else the driver looks for hstore, with an operator that pg_catalog does not have
        execution_options={_DATABASE: _Database(description, found.source, trusted)},
    )
    # open_pinned began a transaction, in which SQLAlchemy sends its own queries; then it is rolled back.
    sa.event.listen(engine, "connect", lambda driver_connection, _: driver_connection.rollback())
    sa.event.listen(engine, "begin", search_path.pin)
    return engine


def _driver() -> tuple[ModuleType, str]:
    """Return the driver's module and SQLAlchemy's name for it."""
    if not sa.__version__.startswith("1."):  # SQLAlchemy 1.4, which Airflow 3.0 uses, has no dialect for psycopg
        try:
            import psycopg
        except ImportError:  # psycopg or libpq is not installed
            pass
        else:
            return psycopg, "postgresql+psycopg"
    try:
        import psycopg2
    except ImportError:
        raise DagbumpError("no PostgreSQL driver can be loaded: pip install 'dagbump[binary]'") from None
    return psycopg2, "postgresql+psycopg2"


def _in_iso_style(connection: Any) -> None:
    """Have the server send timestamps as ISO, because psycopg reads no other DateStyle.

    psycopg2 sets DateStyle itself. PgBouncer tracks this setting for each client, so other clients do not get it.
    """
    if not (connection.info.parameter_status("DateStyle") or "ISO").startswith("ISO"):
        connection.execute("SET DateStyle = ISO")
        connection.commit()


def _description(parameters: Mapping[str, Any]) -> str:
    hosts = str(parameters.get("host") or parameters.get("hostaddr") or "the default host").split(",")
    ports = str(parameters.get("port") or "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports  # as libpq takes one port for several hosts
    place = ",".join(f"{host}:{port}" if port else host for host, port in zip_longest(hosts, ports, fillvalue=""))
    user = f" as {parameters['user']}" if parameters.get("user") else ""
    service = f" of service {parameters['service']}" if parameters.get("service") else ""
    return f"{parameters.get('dbname') or 'the default database'} on {place}{user}{service}"


def describe(engine: sa.engine.Engine) -> str:
    """Return the database's name for messages, with user, host, port and database, without the password."""
    known: _Database = engine.get_execution_options()[_DATABASE]
    return known.description


def connect(engine: sa.engine.Engine, airflow_schema: str | None = None) -> sa.engine.Connection:
    """Open a connection; every command opens its connections here.

    Args:
        engine: from `create_engine`.
        airflow_schema: the schema of Airflow's tables; None: the schema in which an upgrade would find them.

    Raises:
        Unreachable: the connection could not be made.
        InsufficientPrivilege: the role is a superuser, Airflow's tables belong to an ordinary role, and that role is
            not trusted.
    """
    known: _Database = engine.get_execution_options()[_DATABASE]
    try:
        connection = engine.connect()
    except sa.exc.DBAPIError as error:
        raise Unreachable(
            f"cannot connect to {known.description} (named by {known.source}): {summary(error)}"
        ) from error
    if not known.trust_owner:
        try:
            trust.refuse_superuser_of_another_owner(connection, airflow_schema)
            connection.rollback()
        except BaseException:
            connection.close()
            raise
    return connection


def drop(connection: sa.engine.Connection) -> None:
    """Close a connection without a ROLLBACK, because a server in trouble may not answer it."""
    with suppress(sa.exc.SQLAlchemyError):
        connection.invalidate()
        connection.close()


# In order: connection exceptions; a read-only transaction (after a failover); transaction rollback; insufficient
# resources; object not in prerequisite state (lock_timeout); operator intervention (statement_timeout, cancel,
# shutdown); system errors; internal errors, which concurrent DDL may cause.
_PASSING = ("08", "25006", "40", "53", "55", "57", "58", "XX")


def may_pass(error: BaseException) -> bool:
    """Return whether a later try may succeed although nobody has changed anything."""
    if isinstance(error, DagbumpError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, Unreachable):
        return True
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    state = sqlstate(error)
    return error.connection_invalidated or state is None or state.startswith(_PASSING)


# The English messages of PostgreSQL, PgBouncer and libpq, because libpq has no SQLSTATE for a refused connection.
_REFUSED = re.compile(r"authentication failed|no password supplied|not permitted to log in|role \".*\" does not exist")


def refuses_credentials(error: BaseException) -> bool:
    """Return whether the connection was refused because of the role or its password."""
    return isinstance(error, Unreachable) and _REFUSED.search(str(error)) is not None
