"""Whatever the command line is given: one of its exit codes, no traceback, no password, nothing written if it fails.

The commands and their options are those of the app. `make prove ARGS="-k bad"` tries more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from dagbump import database as dagbump_database
from dagbump.command_line.app import app
from dagbump.errors import ExitCode
from dagbump.installation import installer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from sqlalchemy.engine import URL
from support import bad_input, example_fleet, proof
from support.fleet import Fleet
from support.server import libpq
from typer.main import get_command
from typer.testing import CliRunner, Result

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.proof]

COMMAND_LINES, URLS = (2_000, 5_000) if proof.LONG else (100, 150)
# Whatever part of the password is shown, this is in it.
MARK = "Zq7kX"
UNREACHABLE = f"postgresql://somebody:{MARK}@127.0.0.1:1/d"


@pytest.fixture
def tried() -> Iterator[Counter[str]]:
    counted: Counter[str] = Counter()
    yield counted
    proof.record(bad_input.TITLE, bad_input.COMMAND, counted)


def run(words: list[str], environment: Mapping[str, str | None]) -> Result:
    """Run a command in this process, as far as possible from other configuration."""
    nowhere = {"AIRFLOW_HOME": "/nowhere", "PGCONNECT_TIMEOUT": "2"}
    return CliRunner().invoke(app, words, env={**nowhere, **environment}, prog_name="dagbump")


def assert_clear(done: Result, words: list[str]) -> None:
    shown = done.output + done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit), f"{words}: {done.exception!r}"
    assert done.exit_code in set(ExitCode), f"{words}: {done.exit_code}\n{shown}"
    assert "Traceback" not in shown, f"{words}: {shown}"
    assert MARK.lower() not in shown.lower(), f"{words}: {shown}"
    assert done.exit_code == 0 or shown.strip(), words


# ---- Options ----

NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-1, 40) | st.floats()
KNOWN = st.sampled_from(
    [
        "public",
        "airflow",
        "dagbump",
        "head",
        "heads",
        "base",
        "index@base",
        "-1",
        "+1",
        "index@head",
        "0001",
        "0000",
        "0001:base",
        "2h",
        "2026-01-31 14:00",
        "0001-01-01",
        "9999-12-31T23:59:59+00:00",
        "999999999d",
        "json",
        "logfmt",
        "text",
        "127.0.0.1",
        "tries_apart",
        "tries_inside",
        *example_fleet.NAMED,
    ],
)
VALUES = NUMBERS.map(str) | KNOWN | bad_input.texts().map(lambda text: text[:2_000])
COMMANDS: Mapping[str, Any] = {
    name: command for name, command in cast("Any", get_command(app)).commands.items() if name != "demo"
}


def command_lines() -> SearchStrategy[list[str]]:
    """Some options of a command, with values that were made for any of them."""
    return st.sampled_from(sorted(COMMANDS)).flatmap(
        lambda name: st.lists(st.sampled_from(COMMANDS[name].params).flatmap(given_as), max_size=4).map(
            lambda options: [name, *(word for option in options for word in option)]
        )
    )


def given_as(parameter: Any) -> SearchStrategy[list[str]]:
    if parameter.param_type_name == "argument":
        return VALUES.map(lambda value: [value])
    name = st.sampled_from(parameter.opts)
    if parameter.is_flag:
        return name.map(lambda option: [option])
    if parameter.opts == ["--url"]:
        return VALUES.map(lambda value: ["--url", f"postgresql://u:{MARK}@127.0.0.1:1/{value}"])
    return st.tuples(name, VALUES).map(list)


def never_ends(words: list[str]) -> bool:
    return words[0] == "run" or bool({"-f", "--follow"} & set(words))


def test_any_options(fleet: Fleet, database: URL, tried: Counter[str]) -> None:
    example_fleet.make(fleet)

    @bad_input.generated(COMMAND_LINES)
    @given(command_lines())
    def ends_clearly(words: list[str]) -> None:
        before = bad_input.written(fleet.connection)
        done = run(words, {"DAGBUMP_URL": UNREACHABLE if never_ends(words) else libpq(database)})
        tried["command lines"] += 1
        assert_clear(done, words)
        if done.exit_code:
            assert bad_input.written(fleet.connection) == before, words
        elif words[0] in {"upgrade", "downgrade"}:
            installer.upgrade(dagbump_database.create_engine(libpq(database)))

    ends_clearly()


# ---- Which database ----

SPECIAL = st.lists(
    st.sampled_from([*"@/:?#%&= '\"\\+;[]{}é\n", "%zz", "%40", "%00", "@127.0.0.1:1/", "://"]), max_size=4
)
PASSWORDS = SPECIAL.map(lambda between: MARK + "".join(f"{one}{MARK}" for one in between))
SCHEMES = st.sampled_from(
    [
        "postgresql",
        "postgres",
        "postgresql+psycopg2",
        "postgresql+psycopg",
        "postgresql+asyncpg",
        "postgresql+pg8000",
        "postgresql+nonsense",
        "mysql",
        "sqlite",
        "POSTGRESQL",
        "",
        "http",
        "jdbc:postgresql",
    ]
)
HOSTS = st.sampled_from(
    ["127.0.0.1", "[::1]", "", "127.0.0.1:1,127.0.0.1:2", "%2Fnowhere", "/nowhere", "[::1", "127.0.0.1,", "[]"]
)
PORTS = st.sampled_from(["", ":1", ":", ":0", ":65536", ":-1", ":99999999999", ":x", ":1,2", ":1:2"])
USERS = st.sampled_from(["", "u", "u%40h", "%", "u/v", "é", " ", "u%00"])
OPTION_VALUES = st.sampled_from(
    ["", "1", "-1", "disable", "require", "x", "/nowhere", "a b", "%00", "nan", "inf", "1e999", "%zz", "-c x=y"]
)


@st.composite
def urls(draw: st.DrawFn) -> str:
    """A URL or a connection string; the password is encoded or not."""
    password = draw(PASSWORDS)
    if draw(st.booleans()):
        password = URL.create("postgresql", "u", password).render_as_string(hide_password=False)[
            len("postgresql://u:") : -1
        ]
    names = st.sampled_from(
        [
            "sslmode",
            "ssl",
            "timeout",
            "connect_timeout",
            "options",
            "service",
            "passfile",
            "application_name",
            "port",
            "host",
            "dbname",
            "unix_sock",
            "database",
            "hostaddr",
            "nonsense",
            "sslcert",
            "channel_binding",
            "",
            "client_encoding",
        ]
    )
    values = OPTION_VALUES.filter(lambda value: value not in {"x", "a b", "1", "-1", "nan", "inf", "1e999"})
    options = draw(
        st.lists(
            names.flatmap(lambda name: st.tuples(st.just(name), values if "host" in name else OPTION_VALUES)),
            max_size=3,
        )
    )
    if draw(st.integers(0, 4)) == 0:
        pairs = [
            *options,
            ("password", draw(st.sampled_from([password, f"'{password}'"]))),
            ("hostaddr", "127.0.0.1"),
            ("port", "1"),
        ]
        return " ".join(f"{name}={value}" for name, value in draw(st.permutations(pairs)))
    query = "&".join(f"{name}={value}" for name, value in options)
    place = f"{draw(HOSTS)}{draw(PORTS)}/{draw(st.sampled_from(['', 'd', 'd/e', '%', 'é']))}"
    credentials = draw(st.sampled_from([f"{draw(USERS)}:{password}@", f"{draw(USERS)}:{password}@", ""]))
    secret = "" if credentials else f"&password={password}"
    return f"{draw(SCHEMES)}://{credentials}{place}?{query}{secret}"


ENVIRONMENTS = st.dictionaries(
    st.sampled_from(
        ["PGSSLMODE", "PGPORT", "PGSERVICE", "PGOPTIONS", "PGPASSFILE", "PGAPPNAME", "PGCLIENTENCODING", "PGDATABASE"]
    ),
    OPTION_VALUES,
    max_size=2,
)
PLACES = st.sampled_from(["--url", "DAGBUMP_URL", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "airflow.cfg"])
CFGS = st.sampled_from(
    [
        "[database]\nsql_alchemy_conn = {}\n",
        "[database]\nsql_alchemy_conn = {}",
        "sql_alchemy_conn = {}",
        "[database\nsql_alchemy_conn={}",
        "[database]\nsql_alchemy_conn_cmd = echo {}\n",
        "[database]\nsql_alchemy_conn_secret = {}",
        "[core]\nx = 1\n[database]\n{}\n",
        "[database]\nsql_alchemy_conn =\n  {}\n",
        "\ufeff[database]\nsql_alchemy_conn = {}\n",
        "[database]\nsql_alchemy_conn = ${{PGPORT}}{}",
    ]
)


def test_any_database(tmp_path: Path, tried: Counter[str]) -> None:
    @bad_input.generated(URLS)
    @given(urls(), PLACES, CFGS, ENVIRONMENTS)
    def ends_clearly(url: str, place: str, cfg: str, environment: dict[str, str]) -> None:
        words, variables = ["check"], {**environment, "AIRFLOW_HOME": str(tmp_path)}
        (tmp_path / "airflow.cfg").write_text(cfg.format(url) if place == "airflow.cfg" else "")
        if place == "--url":
            words += ["--url", url]
        elif place != "airflow.cfg":
            variables[place] = url.replace("\x00", "")
        variables = {name: value.replace("%00", "") for name, value in variables.items()}
        done = run(words, variables)
        tried["URLs, environments and airflow.cfg"] += 1
        shown = [*words, cfg, variables]
        assert_clear(done, cast("Any", shown))
        assert done.exit_code in {2, 3, 4}, f"{shown}: {done.exit_code} {done.output}"

    ends_clearly()
