"""The command line: what it prints, how it ends, and `dagbump run` through trouble."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Connect
from dagbump import database as dagbump_database
from dagbump import installation
from dagbump.cli import app
from dagbump.database import create_engine, describe, find_url
from psycopg import sql
from sqlalchemy.engine import URL
from support import server
from support.fleet import Fleet
from support.processes import DAGBUMP, command, running
from support.server import Embedded, Server, libpq
from support.waits import until
from typer.main import get_command

pytestmark = pytest.mark.once

SECRET = "cor rect/horse:battery%@staple"  # noqa: S105  (of no account)


def stale_run(fleet: Fleet, dag_id: str = "d") -> int:
    old, new = fleet.dag(dag_id, versions=2)
    run = fleet.run(dag_id)
    fleet.ti(run, new, "success")
    fleet.ti(run, old, "scheduled")
    return run


class TestCommands:
    def test_preview_then_bump_then_nothing(self, fleet: Fleet, database: URL) -> None:
        run = stale_run(fleet)
        preview = command(*DAGBUMP, "preview", "--url", libpq(database))
        assert (preview.returncode, preview.stderr) == (0, "")
        assert re.search(rf"\b{run}\b.*scheduled 1.*bump", preview.stdout)

        bump = command(*DAGBUMP, "bump", "--url", libpq(database))
        assert (bump.returncode, bump.stderr) == (0, "")
        assert "bumped 1 task instances in 1 runs" in bump.stdout

        assert "Nothing is stale" in command(*DAGBUMP, "preview", "--url", libpq(database)).stdout
        assert "Nothing to do" in command(*DAGBUMP, "bump", "--url", libpq(database)).stdout

    def test_json(self, fleet: Fleet, database: URL) -> None:
        run = stale_run(fleet)
        url = libpq(database)
        (previewed,) = json.loads(command(*DAGBUMP, "preview", "--json", "--url", url).stdout)
        assert (previewed["dag_run_id"], previewed["stale_by_state"], previewed["verdict"]) == (
            run,
            {"scheduled": 1},
            "bump",
        )
        (bumped,) = json.loads(command(*DAGBUMP, "bump", "--json", "--url", url).stdout)
        assert (bumped["dag_run_id"], bumped["bumped"], bumped["needs_verify"]) == (run, 1, False)
        assert json.loads(command(*DAGBUMP, "bump", "--json", "--url", url).stdout) == []

    def test_arguments_reach_the_function(self, fleet: Fleet, database: URL) -> None:
        a, b, c = (stale_run(fleet, dag_id) for dag_id in "abc")
        words = ("--dag-run-id", str(a), "--dag-run-id", str(b), "--dag-id", "b", "--dag-id", "c", "--max-runs", "5")
        rows = json.loads(command(*DAGBUMP, "bump", *words, "--json", "--url", libpq(database)).stdout)
        assert [row["dag_run_id"] for row in rows] == [b]
        assert c not in rows

    def test_caller_verifies_warns_and_wants_a_yes(self, fleet: Fleet, database: URL) -> None:
        old, _ = fleet.dag("d", versions=2)
        fleet.ti(fleet.run("d"), old, "scheduled")
        url = libpq(database)

        refused = command(*DAGBUMP, "bump", "--caller-verifies", "--url", url)
        assert refused.returncode == 2
        assert "never created" in refused.stderr

        done = command(*DAGBUMP, "bump", "--caller-verifies", "--yes", "--json", "--url", url)
        assert done.returncode == 0
        assert "never created" in done.stderr
        assert [row["bumped"] for row in json.loads(done.stdout)] == [1]

    def test_piped_output_is_plain_and_unfolded(self, fleet: Fleet, database: URL) -> None:
        for number in range(3):
            stale_run(fleet, f"a_dag_with_quite_a_long_name_as_they_have_them_in_real_life_{number}")
        output = command(*DAGBUMP, "preview", "--url", libpq(database)).stdout
        assert "\x1b" not in output
        assert len(output.splitlines()) == 4

    def test_every_command_and_option_has_help(self) -> None:
        group: Any = get_command(app)
        assert set(group.commands) >= {"upgrade", "downgrade", "preview", "bump", "run", "demo"}
        for name, subcommand in group.commands.items():
            assert subcommand.help, name
            assert [option.name for option in subcommand.params if not option.help] == [], name


class TestExitCodes:
    def test_2_for_wrong_usage(self) -> None:
        assert command(*DAGBUMP, "bump", "--max-runs", "-1", "--url", "postgresql://h/d").returncode == 2
        assert command(*DAGBUMP, "bump", "--nonsense").returncode == 2
        nothing = command(*DAGBUMP, "bump")
        assert (nothing.returncode, "DAGBUMP_URL" in nothing.stderr) == (2, True)

    def test_3_for_a_database_that_does_not_answer(self) -> None:
        for name in ("preview", "bump", "upgrade", "downgrade", "run"):
            done = command(*DAGBUMP, name, "--url", "postgresql://airflow:secret@127.0.0.1:1/airflow")
            assert done.returncode == 3, name
            assert "127.0.0.1:1" in done.stderr
            assert "secret" not in done.stderr

    def test_4_where_dagbump_is_not_installed(self, airflow_database: URL) -> None:
        for name in ("preview", "bump", "run"):
            done = command(*DAGBUMP, name, "--url", libpq(airflow_database))
            assert (done.returncode, "dagbump upgrade" in done.stderr) == (4, True), name

    def test_4_where_another_revision_is_installed(self, fleet: Fleet, database: URL) -> None:
        fleet.execute("UPDATE dagbump.alembic_version SET version_num = '9999'")
        for name in ("preview", "bump", "run"):
            done = command(*DAGBUMP, name, "--url", libpq(database))
            assert (done.returncode, "9999" in done.stderr) == (4, True), name

    def test_1_for_anything_else(self, fleet: Fleet, database: URL) -> None:
        stale_run(fleet)
        fleet.execute(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$"
        )
        fleet.execute("CREATE TRIGGER no BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION no()")
        done = command(*DAGBUMP, "bump", "--url", libpq(database))
        assert (done.returncode, "not today" in done.stderr) == (1, True)


class TestUrl:
    @pytest.fixture(autouse=True)
    def _no_configuration(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("DAGBUMP_URL", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW_CONFIG"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))

    def test_the_first_place_that_names_one_wins(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        with pytest.raises(dagbump_database.InvalidUrl, match=r"airflow\.cfg"):
            find_url()
        (tmp_path / "airflow.cfg").write_text("[database]\nsql_alchemy_conn = postgresql://u:50%%25@h/cfg\n")
        assert find_url() == "postgresql://u:50%25@h/cfg"
        monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql+psycopg2://h/airflow")
        assert find_url() == "postgresql+psycopg2://h/airflow"
        monkeypatch.setenv("DAGBUMP_URL", "postgresql://h/dagbump")
        assert find_url() == "postgresql://h/dagbump"
        assert find_url("postgresql://h/option") == "postgresql://h/option"

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
            assert installation.installed_revision(connection) == installation.newest_revision()

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
        "url",
        [
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


class TestRun:
    """`dagbump run`, the loop beside a stock scheduler."""

    def test_bumps_what_comes_and_prints_a_line_only_then(self, fleet: Fleet, database: URL) -> None:
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(database)) as loop:
            loop.until_printed("one safe bump every 0.1 s")
            stale_run(fleet, "first")
            loop.until_printed("bumped 1 task instances in 1 runs")
            stale_run(fleet, "second")
            loop.until_printed("bumped", times=2)
            loop.process.send_signal(signal.SIGTERM)
            assert loop.finish(timeout=5) == 0
        assert loop.count("bumped") == 2

    def test_says_once_that_a_run_waits_for_airflow_and_leaves_it(self, fleet: Fleet, database: URL) -> None:
        old, _ = fleet.dag("d", versions=2)
        waiting = fleet.ti(fleet.run("d"), old, "scheduled")
        with running(*DAGBUMP, "run", "--interval", "0.1", "--json", DAGBUMP_URL=libpq(database)) as loop:
            loop.until_printed("needs_verify")
            run = stale_run(fleet, "other")
            loop.until_printed('"other"')
            loop.process.send_signal(signal.SIGINT)
            assert loop.finish(timeout=5) == 0
        reports = [json.loads(line) for line in loop.lines if line.startswith("{")]
        assert [[row["dag_id"] for row in report["runs"]] for report in reports[:2]] == [["d"], ["d", "other"]]
        assert reports[1]["runs"][1]["dag_run_id"] == run
        assert len(reports) <= 3  # the third: the other run is done, the first waits on
        assert fleet.versions_of([waiting]) == [old]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ends_within_a_second_even_while_the_database_keeps_it_waiting(
        self, fleet: Fleet, database: URL, connect: Connect, number: signal.Signals
    ) -> None:
        stale_run(fleet)
        gate = connect()
        gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
        with running(*DAGBUMP, "run", DAGBUMP_URL=libpq(database)) as loop:
            waiting = (
                "SELECT FROM pg_stat_activity WHERE application_name = 'dagbump' AND wait_event_type = 'Lock' "
                "AND datname = current_database()"
            )
            until(lambda: fleet.execute(waiting).fetchone() is not None, lambda: "the bump waits for the table")
            began = time.monotonic()
            loop.process.send_signal(number)
            assert loop.finish(timeout=5) == 0
            assert time.monotonic() - began < 1.0
        until(lambda: fleet.execute(waiting).fetchone() is None, lambda: "the server has cancelled it too")

    @pytest.fixture
    def own_server(self) -> Iterator[Embedded]:
        with server.embedded() as embedded:
            yield embedded

    def test_survives_a_restart_of_the_server(self, own_server: Embedded, airflow_database: URL) -> None:
        schema = server.run_client("pg_dump", airflow_database, "--no-owner")
        server.run_client("psql", own_server.url, "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=0", stdin=schema)
        installation.upgrade(create_engine(libpq(own_server.url)))
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(own_server.url)) as loop:
            loop.until_printed("one safe bump")
            with psycopg.connect(libpq(own_server.url), autocommit=True) as connection:
                stale_run(Fleet(connection), "before")
                loop.until_printed("bumped 1")
            own_server.restart()
            with psycopg.connect(libpq(own_server.url), autocommit=True) as connection:
                stale_run(Fleet(connection), "after")
                loop.until_printed("bumped 1", times=2)
            assert loop.count("next try in")
            loop.process.send_signal(signal.SIGTERM)
            assert loop.finish(timeout=5) == 0

    def test_ends_with_4_when_dagbump_is_removed_under_it(self, fleet: Fleet, database: URL) -> None:
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(database)) as loop:
            stale_run(fleet)
            loop.until_printed("bumped 1")
            fleet.execute("DROP SCHEMA dagbump CASCADE")
            assert loop.finish(timeout=10) == 4
            assert loop.count("dagbump upgrade")
