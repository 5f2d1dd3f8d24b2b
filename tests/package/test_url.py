"""Which database a command uses, for every form of URL and every source, and which parts of it are never printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import dagbump
import psycopg
import pytest
from dagbump import database as dagbump_database
from dagbump.database import DatabaseUrl, create_engine, describe, find_url
from dagbump.errors import InvalidUrl
from dagbump.installation import state
from psycopg import sql
from sqlalchemy.engine import URL
from support.processes import DAGBUMP, command
from support.server import Server, libpq

pytestmark = pytest.mark.once

AIRFLOW = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
SECRET = "cor rect/horse:battery%@staple"  # noqa: S105  (of no account)


class TestUrl:
    @pytest.fixture(autouse=True)
    def _no_configuration(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("DAGBUMP_URL", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW_CONFIG"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))

    def test_the_first_place_that_names_one_wins(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        with pytest.raises(InvalidUrl, match=r"airflow\.cfg"):
            find_url()
        (tmp_path / "airflow.cfg").write_text("[database]\nsql_alchemy_conn = postgresql://u:50%%25@h/cfg\n")
        cfg = f"sql_alchemy_conn in {tmp_path}/airflow.cfg"
        assert find_url() == DatabaseUrl("postgresql://u:50%25@h/cfg", cfg)
        monkeypatch.setenv(AIRFLOW, "postgresql+psycopg2://h/airflow")
        assert find_url() == DatabaseUrl("postgresql+psycopg2://h/airflow", AIRFLOW)
        monkeypatch.setenv("DAGBUMP_URL", "postgresql://h/dagbump")
        assert find_url() == DatabaseUrl("postgresql://h/dagbump", "DAGBUMP_URL")
        assert find_url("postgresql://h/option") == DatabaseUrl("postgresql://h/option", "--url")

    @pytest.mark.parametrize("empty", ["", " \n"])
    def test_an_empty_place_leads_to_no_other_database(self, database: URL, empty: str) -> None:
        """The shell makes an empty text of `--url "$UNSET"`."""
        elsewhere = {"DAGBUMP_URL": libpq(database), AIRFLOW: libpq(database)}
        for words, environment, place in (
            (("--url", empty), elsewhere, "--url"),
            ((), elsewhere | {"DAGBUMP_URL": empty}, "DAGBUMP_URL"),
            ((), {AIRFLOW: empty}, AIRFLOW),
        ):
            for name in ("preview", "downgrade"):
                done = command(*DAGBUMP, name, *words, **environment)
                assert (done.returncode, done.stderr.startswith(f"dagbump: {place} is empty")) == (2, True), done.stderr

    def test_an_empty_schema_or_revision_is_not_the_default_one(self, database: URL) -> None:
        for words in (("upgrade", "--airflow-schema", ""), ("downgrade", ""), ("downgrade", "--airflow-schema", "")):
            done = command(*DAGBUMP, *words, DAGBUMP_URL=libpq(database))
            assert (done.returncode, "empty" in done.stderr) == (2, True), done.stderr

    def test_a_user_without_a_home(self) -> None:
        """For example in a container that runs as a user id without an account."""
        done = command(*DAGBUMP, "preview", AIRFLOW_HOME="~nobody-of-this-name/airflow")
        assert done.returncode == 2
        assert "no database was named" in done.stderr

    def test_an_airflow_cfg_in_another_encoding(self, tmp_path: Path) -> None:
        cfg = tmp_path / "airflow.cfg"
        cfg.write_bytes(b"# f\xfcr uns\n[database]\nsql_alchemy_conn = postgresql://h/cfg\n")
        assert find_url().value == "postgresql://h/cfg"
        cfg.write_bytes(b"[database]\nsql_alchemy_conn = postgresql://u:f\xfcr@h/cfg\n")
        done = command(*DAGBUMP, "preview", AIRFLOW_HOME=str(tmp_path))
        assert (done.returncode, str(cfg) in done.stderr) == (2, True), done.stderr

    def test_an_airflow_cfg_that_means_something_else(self, tmp_path: Path) -> None:
        cfg = tmp_path / "airflow.cfg"
        for content, said in (
            ("sql_alchemy_conn =", "is empty"),
            ("sql_alchemy_conn = postgresql://u:50%25@h/d", "%%"),
        ):
            cfg.write_text(f"[database]\n{content}\n")
            with pytest.raises(InvalidUrl, match=said) as raised:
                find_url()
            assert str(cfg) in str(raised.value)

    @pytest.mark.parametrize("suffix", ["_CMD", "_SECRET"])
    def test_what_only_airflow_can_follow_is_said_where_there_is_none(self, tmp_path: Path, suffix: str) -> None:
        done = command(*DAGBUMP, "preview", **{AIRFLOW + suffix: "cat /run/secrets/url"})
        assert (done.returncode, f"only Airflow can read {AIRFLOW}{suffix}" in done.stderr) == (2, True), done.stderr
        (tmp_path / "airflow.cfg").write_text(f"[database]\nsql_alchemy_conn{suffix.lower()} = cat /run/secrets/url\n")
        done = command(*DAGBUMP, "preview", AIRFLOW_HOME=str(tmp_path))
        assert (done.returncode, f"sql_alchemy_conn{suffix.lower()} in {tmp_path}" in done.stderr) == (2, True)

    def test_an_airflow_that_cannot_be_imported_is_not_said_to_be_missing(self, tmp_path: Path) -> None:
        """For example because the package of a secrets backend is missing."""
        (tmp_path / "airflow").mkdir()
        (tmp_path / "airflow" / "configuration.py").write_text("import nowhere\n")
        done = command(*DAGBUMP, "preview", **{f"{AIRFLOW}_SECRET": "url"}, PYTHONPATH=str(tmp_path))
        assert (done.returncode, f"Airflow could not read {AIRFLOW}_SECRET" in done.stderr) == (2, True), done.stderr

    @pytest.fixture
    def role(self, postgres: Server, database: URL) -> Iterator[URL]:
        """A login role whose password needs quoting in every form of URL."""
        with postgres.maintenance() as connection:
            connection.execute("DROP ROLE IF EXISTS dagbump_test_login")
            connection.execute(
                sql.SQL("CREATE ROLE dagbump_test_login SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(SECRET))
            )
        yield database.set(username="dagbump_test_login", password=SECRET)
        with postgres.maintenance() as connection:
            connection.execute("DROP ROLE dagbump_test_login")

    @pytest.mark.parametrize(
        "scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg", "postgresql+asyncpg"]
    )
    def test_every_scheme_connects(self, role: URL, scheme: str) -> None:
        url = role.set(drivername="postgresql").render_as_string(hide_password=False)
        engine = create_engine(url.replace("postgresql", scheme, 1))
        with dagbump_database.connect(engine) as connection:
            assert state.require_usable(connection).revision == state.NEWEST_REVISION

    def test_libpqs_keywords_connect(self, role: URL) -> None:
        host = role.host or str(role.query["host"])
        conninfo = psycopg.conninfo.make_conninfo(
            host=host, port=role.port or 5432, user=role.username, password=SECRET, dbname=role.database
        )
        with dagbump_database.connect(create_engine(conninfo)) as connection:
            assert connection.exec_driver_sql("SELECT current_user").scalar() == "dagbump_test_login"

    def test_libpqs_several_hosts_connect(self, role: URL) -> None:
        if not role.host:
            pytest.skip("the embedded server listens on no port")
        url = role.set(drivername="postgresql").render_as_string(hide_password=False)
        two = url.replace(f"{role.host}:{role.port}", f"127.0.0.1:1,{role.host}:{role.port}").replace(" ", "%20")
        with dagbump_database.connect(create_engine(two)) as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1

    @pytest.mark.parametrize(
        ("scheme", "query"),
        [
            ("postgresql+asyncpg", "prepared_statement_cache_size=0&prepared_statement_name_func=&command_timeout=60"),
            ("postgresql+asyncpg", "ssl=disable&statement_cache_size=0&server_settings=&timeout=2.5"),
            ("postgresql+psycopg2", "executemany_mode=values_only&plugin=&sslmode=disable&connect_timeout=3"),
            ("postgresql+psycopg", "prepare_threshold=0&autocommit=true&sslmode=disable&target_session_attrs=any"),
            ("postgresql+pg8000", "ssl_context=&tcp_keepalive=true&timeout=3"),
        ],
    )
    def test_parameters_of_other_drivers_do_no_harm(self, role: URL, scheme: str, query: str) -> None:
        url = role.set(drivername=scheme).render_as_string(hide_password=False)
        both = f"{url}{'&' if '?' in url else '?'}application_name=mine&{query}"
        with dagbump_database.connect(create_engine(both)) as connection:
            assert connection.exec_driver_sql("SHOW application_name").scalar() == "mine"
        # libpq looks at sslmode where there is TCP: the embedded server listens on a socket.
        if role.host and ("ssl=" in query or "sslmode=" in query):
            refused = create_engine(re.sub("ssl(mode)?=disable", r"ssl\1=require", both))
            with pytest.raises(dagbump.Unreachable, match="SSL"):
                dagbump_database.connect(refused)

    def test_several_hosts_and_another_drivers_parameters(self) -> None:
        for query in ("ssl=disable&command_timeout=5", "connect_timeout=2&prepare_threshold=0"):
            engine = create_engine(f"postgresql+asyncpg://u:p@127.0.0.1:1,127.0.0.1:2/d?{query}")
            with pytest.raises(dagbump.Unreachable, match=r"127\.0\.0\.1:1,127\.0\.0\.1:2 as u"):
                dagbump_database.connect(engine)

    @pytest.mark.parametrize(
        ("place", "described"),
        [
            ("h1,h2/d", "h1,h2"),
            ("h1:1,h2:2/d", "h1:1,h2:2"),
            ("h1:1,h2/d", "h1:1,h2"),
            ("h1,h2:2/d", "h1:2,h2:2"),  # as SQLAlchemy, and so Airflow, reads it
            ("[::1]:1,[::1]:2/d", "::1:1,::1:2"),
            ("[::1]:1,h2:2/d", "::1:1,h2:2"),
            ("/d?host=h1:1&host=h2:2", "h1:1,h2:2"),
            ("/d?host=h1,h2&port=1,2", "h1:1,h2:2"),
            ("/d?host=h1,h2&port=1", "h1:1,h2:1"),
            ("/d?host=h1&host=h2&port=1", "h1:1,h2:1"),
            ("/d?host=h1&host=h2&port=1&port=2", "h1:1,h2:2"),
            ("/d?hostaddr=127.0.0.1,127.0.0.2&port=1,2", "127.0.0.1:1,127.0.0.2:2"),
        ],
    )
    @pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2", "postgresql+asyncpg"])
    def test_several_servers_are_described_one_by_one(self, scheme: str, place: str, described: str) -> None:
        both = "&" if "?" in place else "?"
        engine = create_engine(f"{scheme}://{place}{both}target_session_attrs=read-write&dbname=d")
        assert describe(engine) == f"d on {described}"

    @pytest.mark.parametrize(
        "place",
        [
            "/d?host=h1:1&host=h2:2&port=2",
            "/d?host=h1:1,h2:2",
            "/d?host=h1:1&port=2",
            "/d?host=h1,h2&port=1,2,3",
            "h1,h2,h3/d?port=1,2",
            "/d?host=[::1]:1&host=[::1]:2",
        ],
    )
    @pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2", "postgresql+asyncpg"])
    def test_ports_that_fit_no_server_are_refused(self, scheme: str, place: str) -> None:
        """libpq would look up a host of the name h1:1, and a command would try again for ever."""
        with pytest.raises(InvalidUrl, match="a port for each server"):
            create_engine(f"{scheme}://{place}")

    def test_a_socket_that_only_one_driver_can_name(self) -> None:
        engine = create_engine("postgresql+pg8000://me@/d?unix_sock=/nowhere/.s.PGSQL.5433")
        assert describe(engine) == "d on /nowhere:5433 as me"
        assert describe(create_engine("postgresql://me@%2Fnowhere/d")) == "d on /nowhere as me"

    @pytest.mark.parametrize("name", ["--url", "DAGBUMP_URL", AIRFLOW, "cfg"])
    def test_an_error_says_where_the_url_came_from(self, tmp_path: Path, name: str) -> None:
        for url, code in (
            ("postgresql://u:secret@127.0.0.1:1/d", 3),
            ("postgresql://u:sec@ret@127.0.0.1/d", 2),
            ("mysql://u:secret@h/d", 4),
        ):
            (tmp_path / "airflow.cfg").write_text(f"[database]\nsql_alchemy_conn = {url}\n")
            words = ("--url", url) if name == "--url" else ()
            environment = {"AIRFLOW_HOME": str(tmp_path)} if name == "cfg" else {name: url} if not words else {}
            done = command(*DAGBUMP, "preview", *words, **environment)
            place = f"sql_alchemy_conn in {tmp_path}/airflow.cfg" if name == "cfg" else name
            assert (done.returncode, place in done.stderr, "ret" in done.stderr) == (code, True, False), done.stderr

    @pytest.mark.parametrize(
        "password",
        ["horse@battery", "horse@battery/x", "@horse@", "horse@battery?x", "horse@battery?x=y", "12@34:horse/battery"],
    )
    def test_a_password_that_is_not_encoded_is_not_taken_for_a_host(self, password: str) -> None:
        for scheme in ("postgresql", "postgresql+asyncpg"):
            with pytest.raises(InvalidUrl, match="percent-encoded") as raised:
                create_engine(f"{scheme}://user:{password}@127.0.0.1:1/d?sslmode=disable")
            assert not re.search("horse|battery|34", str(raised.value))

    @pytest.mark.parametrize("password", ["horse/battery", "horse:battery", "12/battery", "horse?battery", "#%zz+ &="])
    def test_a_password_that_sqlalchemy_reads_all_the_same_works(self, password: str) -> None:
        engine = create_engine(f"postgresql+psycopg2://user:{password}@127.0.0.1:1/d")
        assert describe(engine) == "d on 127.0.0.1:1 as user"

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://127.0.0.1:1/d?password=x@horse",
            "postgresql://user:horse",
            "postgresql://user:1/battery@horse:2@127.0.0.1/d",
            "password=horse://battery host=127.0.0.1 port=1",
            "sslmode= password=horse host=127.0.0.1 port=1",  # as of a variable that is not set
            "host=127.0.0.1 port=1 dbname = password = battery",
            "postgresql://127.0.0.1:1/?&password=horse@battery",
            "postgresql://127.0.0.1?password=horse@battery",
            f"host=127.0.0.1 port=1 password={SECRET}",  # an unquoted blank: libpq's message would quote the rest
            "postgresql://user:horse battery@127.0.0.1:1/d?staple=secret",
            "postgresql://user:horse@staple:battery@127.0.0.1:1:2/d",
            "postgresql://user@127.0.0.1:1/d?password=horse",
            "postgresql+nonsense://user:horse@127.0.0.1:1/staple@",
            "horse battery staple",
        ],
    )
    def test_no_password_is_printed_whatever_is_wrong(self, url: str) -> None:
        for name in ("preview", "upgrade", "run"):
            done = command(*DAGBUMP, name, "--url", url)
            assert done.returncode in {2, 3, 4}
            assert not re.search("horse|battery", done.stdout + done.stderr), done.stderr
            assert "Traceback" not in done.stderr

    def test_a_database_is_described_without_its_password(self) -> None:
        assert describe(create_engine("postgresql://me:secret@db:5432/airflow")) == "airflow on db:5432 as me"
        assert "secret" not in describe(create_engine("host=db password=secret"))
