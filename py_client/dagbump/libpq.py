"""Converts a database URL to libpq's parameters.

The URL may come from Airflow's configuration. So it may be any SQLAlchemy URL, with the name and the own parameters of
any driver, or any libpq connection string.
"""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa

from dagbump.errors import InvalidUrl, UnsupportedAirflow

_ENCODE = (
    "It looks as if special characters (@ / : ? # %) in the user name or the password were not percent-encoded: "
    "@ is %40, / is %2F, : is %3A."
)
_SERVERS = (
    "It gives no port, one port, or a port for each server: ?host=a:5432&host=b:5432, or ?host=a,b&port=5432,5433."
)
_NO_SCHEME = "It does not begin with postgresql:// and is no list of keyword=value, as in 'host=db dbname=airflow'."

# The same parts as SQLAlchemy reads: credentials, which may contain a slash; host, port and database; the query.
_URL = re.compile(
    r"(?P<scheme>[\w.+-]+)://(?P<credentials>[^:/]*(?::[^@]*)?@)?(?P<place>[^?]*)(?:\?(?P<query>.*))?", re.DOTALL
)
# In "sslmode= password=x", libpq reads the password as the value of sslmode, and its message would quote it.
_SECRET_INSIDE = re.compile(r"password\s*=", re.IGNORECASE)
_POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+\w+)?")


def parameters(url: str, source: str, module: ModuleType, drivername: str) -> dict[str, Any]:
    """Return libpq's parameters; a malformed URL is refused here, because libpq's message would quote parts of it.

    Args:
        url: the database's URL.
        source: the place where it was found, for the messages.
        module: the driver's module.
        drivername: SQLAlchemy's name for the driver.

    Raises:
        InvalidUrl: the URL cannot be understood; the message does not repeat it.
        UnsupportedAirflow: the URL is of another database system than PostgreSQL.
    """
    match = _URL.match(url)
    # A text without a scheme may be a connection string.
    advice = _ENCODE if match else _NO_SCHEME
    unclear = _unclear(source, advice)
    if match and not _POSTGRESQL.fullmatch(match["scheme"]):
        name = match["scheme"].partition("+")[0]
        raise UnsupportedAirflow(f"dagbump works in PostgreSQL only, and {source} names {name!r}.")
    try:
        url.encode()
        found = _read_url(match, module, drivername) if match else _parse_conninfo(module, url)
    except Exception:  # noqa: BLE001  (the message may quote a part of the password)
        raise unclear from None
    if found is None or not re.fullmatch(r"[\d,]*", str(found.get("port") or "")) or _swallows_a_secret(found):
        raise unclear
    if not _ports_fit(found):
        raise _unclear(source, _SERVERS)
    return found


def _unclear(source: str, advice: str) -> InvalidUrl:
    return InvalidUrl(
        f"the database URL cannot be understood ({source}); it is a SQLAlchemy URL or a libpq connection string, "
        f"such as postgresql://user:password@host:5432/airflow. {advice}"
    )


def _read_url(match: re.Match[str], module: ModuleType, drivername: str) -> dict[str, Any] | None:
    """Return the parameters; None if part of a password may have been read as host, database or query."""
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
    # If the query's password has an @, all that stands before it is taken for credentials.
    if _SECRET_INSIDE.search(credentials) or ("/" in credentials and _libpq_reads_it_otherwise(match, module)):
        return None
    url = f"postgresql://{credentials}{match['place']}?{'&'.join(query)}"
    try:
        parsed = sa.engine.make_url(url).set(drivername=drivername)
        parameters = dict(parsed.get_dialect()().create_connect_args(parsed)[1])
    except (ValueError, sa.exc.ArgumentError):  # several hosts, as only libpq writes them
        return _parse_conninfo(module, url) | _repeated(query)
    if "]" in str(parameters.get("host")):  # several IPv6 addresses, which SQLAlchemy takes for one host
        return _parse_conninfo(module, url)
    if str(parameters.get("host")).upper().startswith("%2F"):  # libpq's form of a socket directory
        parameters["host"] = unquote(parameters["host"])
    return parameters


def _repeated(query: list[str]) -> dict[str, str]:
    """Return the hosts and ports that the query has more than once, of which libpq would take only the last one."""
    pairs = [pair.partition("=") for pair in query]
    given = {wanted: [unquote(value) for name, _, value in pairs if name == wanted] for wanted in ("host", "port")}
    return {name: ",".join(values) for name, values in given.items() if len(values) > 1}


def _ports_fit(found: dict[str, Any]) -> bool:
    """Return whether no port is left in a host's name, and libpq can tell which port is which server's."""
    hosts = str(found.get("host") or found.get("hostaddr") or "").split(",")
    with_port = [host for host in hosts if "]" in host or (host.count(":") == 1 and not host.startswith(("/", "@")))]
    return not with_port and str(found.get("port") or "").count(",") in {0, len(hosts) - 1}


def _libpq_reads_it_otherwise(match: re.Match[str], module: ModuleType) -> bool:
    """Return whether SQLAlchemy ends a password at an @ that libpq takes as part of the query (host:1/d?user=a@b)."""
    try:
        read = _parse_conninfo(module, match.string.replace(match["scheme"], "postgresql", 1))
    except Exception:  # noqa: BLE001  (libpq cannot read the URL at all)
        return False
    return "@" not in read.get("dbname", "") and re.fullmatch(r"\d*", read.get("port", "")) is not None


def _swallows_a_secret(found: dict[str, Any]) -> bool:
    return any(name != "password" and _SECRET_INSIDE.search(str(value)) for name, value in found.items())


_SSLMODES = {"true": "require", "1": "require", "false": "disable", "0": "disable"}


def _for_libpq(module: ModuleType, name: str, value: str) -> str:
    """Return a URL parameter in libpq's form; an empty text if only SQLAlchemy or another driver knows it."""
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
    except Exception:  # noqa: BLE001  (each driver has its own exception class)
        return False
    return name.isidentifier()


def _parse_conninfo(module: ModuleType, conninfo: str) -> dict[str, Any]:
    if module.__name__ == "psycopg":
        from psycopg.conninfo import conninfo_to_dict  # needs libpq

        return conninfo_to_dict(conninfo)
    from psycopg2.extensions import parse_dsn

    parsed: dict[str, Any] = parse_dsn(conninfo)
    return parsed
