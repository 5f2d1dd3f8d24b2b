"""The command line: what it prints, how it ends, and `dagbump run` through trouble."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import dagbump
import pytest
from dagbump.command_line.app import app
from sqlalchemy.engine import URL
from support.fleet import Fleet, stale_run
from support.optional_index import build_optional_index
from support.processes import DAGBUMP, command, on_terminal, unread
from support.server import libpq
from typer.main import get_command

pytestmark = pytest.mark.once

COMMANDS = sorted(cast("Any", get_command(app)).commands)
# Together they take a second of CPU.
FOR_THE_WORK = {"alembic", "asyncio", "psycopg", "psycopg2", "rich", "sqlalchemy", "tenacity"}
COMPLETED = "import sys; sys.argv = ['dagbump']; from dagbump.__main__ import main; main()"


# An import that is interrupted leaves SQLAlchemy half imported. A second import of it then lacks attributes.
CTRL_C_DURING_IMPORT = """
import os
import signal
import sys

class CtrlC:
    pressed = False

    def find_spec(self, name, *_):
        if name == "{module}" and not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
sys.argv = ["dagbump", "check", "--url", "postgresql://127.0.0.1:1/d"]

from dagbump.__main__ import main

main()
"""


def imported(importtime: str) -> set[str]:
    """Return the packages that Python says it has imported, under -X importtime."""
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in importtime.splitlines() if "|" in line}


class TestCommands:
    def test_preview_then_bump_then_nothing(self, fleet: Fleet, database: URL) -> None:
        run = stale_run(fleet)
        preview = command(*DAGBUMP, "preview", "--url", libpq(database))
        assert (preview.returncode, preview.stderr) == (0, "")
        assert re.search(rf"^bump +{run} .*scheduled 1$", preview.stdout, re.MULTILINE)

        bump = command(*DAGBUMP, "bump", "--url", libpq(database))
        assert (bump.returncode, bump.stderr) == (0, "")
        assert "bumped 1 task instance in 1 run\n" in bump.stdout

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

    def test_a_failed_print_says_nothing_about_the_work(self, fleet: Fleet, database: URL) -> None:
        for dag_id, committed in (("a", True), ("b", False)):
            run = stale_run(fleet, dag_id)
            name = "bump" if committed else "preview"
            with unread(*DAGBUMP, name, DAGBUMP_URL=libpq(database)) as process:
                _, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (0, "")
            assert (bumped(fleet, run) == 2) == committed

        with Path("/dev/full").open("w") as full:
            words = (*DAGBUMP, "bump", "--url", libpq(database))
            done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, bumped(fleet, run)) == (0, 2)
        assert re.fullmatch("dagbump: the answer cannot be printed: No space .*The work is done.\n", done.stderr)

    def test_an_output_that_knows_ascii_only(self, fleet: Fleet, database: URL) -> None:
        stale_run(fleet, "größe")
        for name in ("preview", "bump"):
            done = command(*DAGBUMP, name, "--url", libpq(database), PYTHONIOENCODING="ascii")
            assert (done.returncode, "gr\\xf6\\xdfe" in done.stdout, done.stderr) == (0, True, "")
        assert command(*DAGBUMP, "--help", PYTHONIOENCODING="ascii").returncode == 0

    @pytest.mark.parametrize("id_", ["[/bold]", "[red]x[/]", ":rocket:", "[link=x]", "\\[x]", "x" * 250])
    def test_ids_are_printed_as_they_are(self, fleet: Fleet, database: URL, id_: str) -> None:
        old, new = fleet.dag(id_, versions=2)
        run = fleet.run(id_, id_)
        fleet.tis(run, new, ["success"])
        fleet.tis(run, old, ["queued"])
        for name in ("preview", "bump"):
            done = command(*DAGBUMP, name, "--url", libpq(database))
            assert (done.returncode, done.stdout.count(id_), done.stderr) == (0, 2, "")

    def test_version(self) -> None:
        done = command(*DAGBUMP, "--version")
        commit = command("git", "describe", "--always", "--dirty", "--exclude=*").stdout.strip()
        assert (done.returncode, done.stdout, done.stderr) == (0, f"dagbump {dagbump.__version__} ({commit})\n", "")

    @pytest.mark.parametrize("words", [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS)])
    def test_a_word_of_help_waits_for_nothing_that_only_the_work_needs(self, words: list[str]) -> None:
        done = command(sys.executable, "-X", "importtime", "-m", "dagbump", *words)
        assert done.returncode == 0
        assert imported(done.stderr).isdisjoint(FOR_THE_WORK)

    @pytest.mark.parametrize(("typed", "answer"), [("dagbump prev", "preview"), ("dagbump bump --max", "--max-runs")])
    def test_completion_waits_for_nothing_either(self, typed: str, answer: str) -> None:
        asked = {"_DAGBUMP_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        done = command(sys.executable, "-X", "importtime", "-c", COMPLETED, **asked)
        assert (done.returncode, done.stdout.split()) == (0, [answer])
        assert imported(done.stderr).isdisjoint(FOR_THE_WORK)

    def test_every_command_and_option_has_help(self) -> None:
        group: Any = get_command(app)
        assert set(group.commands) >= {"upgrade", "downgrade", "preview", "bump", "run", "demo"}
        for name, subcommand in group.commands.items():
            assert subcommand.help, name
            assert [option.name for option in subcommand.params if not option.help] == [], name


def bumped(fleet: Fleet, run: int) -> int:
    """Return how many task instances of a run are on the latest version."""
    row = fleet.execute(
        "SELECT count(*) FROM task_instance AS ti JOIN dag_run AS run USING (dag_id, run_id) "
        "JOIN dag_version AS version ON version.id = ti.dag_version_id WHERE run.id = %s AND version_number = 2",
        run,
    ).fetchone()
    assert row is not None
    return int(row[0])


class TestDowngrade:
    """The command says what it removed, and what was not there."""

    def downgrade(self, url: URL, *words: str) -> str:
        done = command(*DAGBUMP, "downgrade", *words, DAGBUMP_URL=libpq(url))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    @pytest.fixture
    def history(self, fleet: Fleet) -> Fleet:
        """One bump of one run has been recorded."""
        stale_run(fleet)
        dagbump.bump(fleet.connection)
        return fleet

    def test_says_what_it_removed(self, history: Fleet, database: URL) -> None:
        stale_run(history, "another")
        dagbump.bump(history.connection)
        build_optional_index(history.connection)

        said = self.downgrade(database)
        assert "Removed from " in said
        assert "schema dagbump, with 2 rows of history and the optional index." in said
        assert said.endswith("dagbump is not installed there any more.\n")

    def test_an_empty_history_and_no_index(self, database: URL) -> None:
        assert ": schema dagbump, whose history was empty. dagbump is not" in self.downgrade(database)

    def test_the_index_alone(self, database: URL) -> None:
        assert command(*DAGBUMP, "upgrade", "--with-index", DAGBUMP_URL=libpq(database)).returncode == 0
        assert f": the optional index. dagbump {dagbump.__version__}" in self.downgrade(database, "index@base")
        assert "Nothing was removed from " in self.downgrade(database, "index@base")

    def test_nothing_is_there(self, airflow_database: URL) -> None:
        said = self.downgrade(airflow_database)
        assert said.startswith("There was nothing to remove in ")
        assert said.endswith("dagbump is not installed there.\n")

    @pytest.mark.parametrize("words", [[], ["--", "dagbump@-1"]])
    def test_asks_on_a_terminal_before_a_history_is_lost(self, history: Fleet, database: URL, words: list[str]) -> None:
        words = [*DAGBUMP, "downgrade", *words]
        refused = on_terminal(*words, typed="n\n", DAGBUMP_URL=libpq(database))
        assert "This drops dagbump.history, which has 1 row. Go on?" in refused.stdout
        assert refused.returncode == 1
        assert history.execute("SELECT count(*) FROM dagbump.history").fetchall() == [(1,)]

        done = on_terminal(*words, typed="y\n", DAGBUMP_URL=libpq(database))
        assert done.returncode == 0
        assert "Removed from " in done.stdout

    @pytest.mark.usefixtures("history")
    @pytest.mark.parametrize("words", [["--yes"], ["index@base"]])
    def test_asks_nothing_where_it_is_told_to_or_no_history_is_lost(self, database: URL, words: list[str]) -> None:
        done = on_terminal(*DAGBUMP, "downgrade", *words, DAGBUMP_URL=libpq(database))
        assert (done.returncode, "Go on?" in done.stdout) == (0, False)

    def test_an_empty_history_is_not_asked_about(self, database: URL) -> None:
        done = on_terminal(*DAGBUMP, "downgrade", DAGBUMP_URL=libpq(database))
        assert (done.returncode, "Go on?" in done.stdout) == (0, False)
        assert "dagbump_ti_unfinished" not in done.stdout  # no bar for an index that was not there


class TestFilters:
    """An empty answer names the filter, and says why it is empty."""

    def both(self, database: URL, *words: str, code: int = 0) -> str:
        """Run preview and bump. Return what they print, which is the same except for the first words."""
        said = ""
        for name in ("preview", "bump"):
            done = command(*DAGBUMP, name, *words, "--url", libpq(database))
            assert done.returncode == code, done.stderr
            assert (done.stdout == "") == (code != 0)
            said += done.stdout + done.stderr
        for_programs = command(*DAGBUMP, "bump", *words, "--json", "--url", libpq(database))
        assert (for_programs.returncode, for_programs.stdout) == (code, "" if code else "[]\n")
        return said

    def test_what_does_not_exist_is_an_error_and_nothing_is_done(self, fleet: Fleet, database: URL) -> None:
        run = stale_run(fleet)
        assert self.both(database, "--dag-id", "nosuch", code=1).count("there is no DAG nosuch") == 2
        assert self.both(database, "--dag-run-id", "4711", code=1).count("there is no run 4711") == 2
        both = self.both(database, "--dag-id", "d", "--dag-id", "x", "--dag-run-id", "5", code=1)
        assert both.count("there is no run 5, no DAG x in") == 2
        assert bumped(fleet, run) == 1

    def test_what_exists_and_does_not_run(self, fleet: Fleet, database: URL) -> None:
        stale_run(fleet, "other")
        fleet.dag("idle", versions=1)
        done = fleet.run("idle", "r", state="success")
        assert self.both(database, "--dag-id", "idle").count("DAG idle has no running run.") == 2
        assert self.both(database, "--dag-run-id", str(done)).count(f"Run {done} of DAG idle is success.") == 2

    @pytest.mark.slow
    def test_what_runs_and_has_nothing_stale(self, fleet: Fleet, database: URL) -> None:
        other = stale_run(fleet, "other")
        (version,) = fleet.dag("d", versions=1)
        run = fleet.run("d", "r")
        fleet.ti(run, version, "queued")
        assert self.both(database, "--dag-id", "d").count(" in DAG d: every ") == 2
        assert (
            self.both(database, "--dag-id", "d", "--dag-run-id", str(run)).count(f" in run {run} of DAG d: every ") == 2
        )
        assert self.both(database, "--max-runs", "0").count("--max-runs 0 leaves no run to look at.") == 2
        assert self.both(database, "--dag-id", "d", "--dag-run-id", str(other)).count(
            f"Run {other} of DAG other is running."
        )

    def test_a_role_that_may_call_the_functions_only(self, fleet: Fleet, database: URL, role: str) -> None:
        fleet.execute("GRANT USAGE ON SCHEMA dagbump TO PUBLIC")
        fleet.execute("GRANT SELECT ON dagbump.installation TO PUBLIC")
        fleet.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dagbump TO PUBLIC")
        as_role = database.update_query_dict({"options": f"-crole={role}"})
        assert self.both(as_role, "--dag-id", "nosuch").count("as far as this role can see") == 2
        run = stale_run(fleet)
        assert "bumped 1" in command(*DAGBUMP, "bump", "--dag-id", "d", "--url", libpq(as_role)).stdout
        assert bumped(fleet, run) == 2


class TestExitCodes:
    def test_the_help_says_what_they_mean(self) -> None:
        said = " ".join(command(*DAGBUMP, "--help").stdout.split())
        assert (
            "0 done, 1 the work failed, 2 wrong usage, 3 database not reachable, 4 not installed or not supported."
        ) in said

    @pytest.mark.parametrize("module", ["typer", "dagbump.command_line.bump", "sqlalchemy.pool"])
    def test_130_for_ctrl_c_while_modules_are_imported(self, module: str) -> None:
        ended = command(sys.executable, "-c", CTRL_C_DURING_IMPORT.replace("{module}", module))
        assert (ended.returncode, "Traceback" in ended.stderr) == (130, False)

    def test_2_for_wrong_usage(self) -> None:
        assert command(*DAGBUMP, "bump", "--max-runs", "-1", "--url", "postgresql://h/d").returncode == 2
        assert command(*DAGBUMP, "bump", "--nonsense").returncode == 2
        nothing = command(*DAGBUMP, "bump")
        assert (nothing.returncode, "DAGBUMP_URL" in nothing.stderr) == (2, True)

    @pytest.mark.parametrize(
        "words",
        [
            *(("run", "--interval", interval) for interval in ("inf", "1e400", "nan", "0", "-1")),
            *((name, "--dag-id", b"\xff") for name in ("preview", "bump")),
            ("preview", "--dag-run-id", str(2**63)),
            ("preview", "--max-runs", str(2**31)),
            ("preview", "--url", b"postgresql://h/\xff"),
            ("upgrade", "--airflow-schema", b"\xff"),
            *((name, "--airflow-schema", "ä" * 32) for name in ("upgrade", "check")),
            ("upgrade", "nosuch"),
            ("downgrade", "nosuch"),
        ],
    )
    def test_2_for_arguments_that_mean_nothing(self, database: URL, words: tuple[str, ...]) -> None:
        done = command(*DAGBUMP, *words, DAGBUMP_URL=libpq(database))
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr

    def test_3_for_a_database_that_does_not_answer(self) -> None:
        for name in ("preview", "bump", "upgrade", "downgrade", "run"):
            done = command(*DAGBUMP, name, "--url", "postgresql://airflow:secret@127.0.0.1:1/airflow")
            assert done.returncode == 3, name
            assert "127.0.0.1:1" in done.stderr
            assert "secret" not in done.stderr

    @pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example"])
    @pytest.mark.parametrize("driver", [{}, {"PSYCOPG_IMPL": "none"}], ids=["psycopg", "psycopg2"])
    def test_a_name_that_no_host_can_have_is_not_reached(self, host: str, driver: dict[str, str]) -> None:
        done = command(*DAGBUMP, "check", "--url", f"postgresql://{host}/d", **driver)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith(f"dagbump: cannot connect to d on {host} (named by --url): could not translate")

    def test_4_where_dagbump_is_not_installed(self, airflow_database: URL) -> None:
        for name in ("preview", "bump", "run"):
            done = command(*DAGBUMP, name, "--url", libpq(airflow_database))
            assert (done.returncode, "dagbump upgrade" in done.stderr) == (4, True), name

    def test_4_where_another_revision_is_installed(self, fleet: Fleet, database: URL) -> None:
        fleet.execute("UPDATE dagbump.installation SET works_with_packages_from = '9999', release = '9.9.9'")
        for name in ("preview", "bump", "run"):
            done = command(*DAGBUMP, name, "--url", libpq(database))
            assert (done.returncode, "9.9.9" in done.stderr) == (4, True), name

    def test_1_for_anything_else(self, fleet: Fleet, database: URL) -> None:
        stale_run(fleet)
        fleet.execute(
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$"
        )
        fleet.execute("CREATE TRIGGER no BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION no()")
        done = command(*DAGBUMP, "bump", "--url", libpq(database))
        assert (done.returncode, "not today" in done.stderr) == (1, True)
