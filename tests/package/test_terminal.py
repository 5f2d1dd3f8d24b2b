"""What a person sees on a terminal: tables that fit, colours that say what is wrong, help that teaches."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import dagbump
import pytest
from dagbump.command_line.app import app
from sqlalchemy.engine import URL
from support.fleet import Fleet
from support.processes import DAGBUMP, command, on_terminal
from support.server import Connect, libpq
from typer.main import get_command

pytestmark = pytest.mark.once

LONG_DAG = "finance.reporting.daily_reconciliation_of_all_ledgers_and_subledgers"
LONG_RUN = "scheduled__2026-11-25T00:00:00.000000+00:00"
COLOUR = re.compile("\x1b\\[[0-9;]*m")


@pytest.fixture
def url(fleet: Fleet, database: URL) -> str:
    """A database in which bump has something to do, and leaves something."""
    old, new = fleet.dag(LONG_DAG, versions=2)
    run = fleet.run(LONG_DAG, LONG_RUN)
    fleet.tis(run, new, ["success"])
    fleet.tis(run, old, ["queued", "scheduled", None, "up_for_reschedule", "up_for_retry"])
    old, _ = fleet.dag("etl", versions=2)
    fleet.ti(fleet.run("etl", "manual__[red]x[/red]"), old, "running")
    paused, _ = fleet.dag("paused", versions=2, is_paused=True)
    fleet.ti(fleet.run("paused"), paused, "scheduled")
    return libpq(database)


class TestTables:
    @pytest.mark.parametrize("columns", [40, 80, 120, 240])
    @pytest.mark.parametrize("name", ["preview", "versions"])
    def test_fit_the_terminal_and_break_no_word(self, url: str, name: str, columns: int) -> None:
        # What a DBA copies, an id, is whole on one line, unless it alone is longer than that.
        plain = COLOUR.sub("", on_terminal(*DAGBUMP, name, "--url", url, columns=columns).stdout)
        assert max(map(len, plain.splitlines())) <= columns
        words = plain.split()
        whole = {"preview": ["needs_verify", "up_for_reschedule", LONG_RUN], "versions": ["behind", "etl"]}[name]
        assert {word for word in (*whole, LONG_DAG) if len(word) <= columns} <= set(words), plain
        assert LONG_DAG in "".join(words)

    def test_a_row_that_does_not_fit_has_its_ids_above_it(self, url: str) -> None:
        plain = COLOUR.sub("", on_terminal(*DAGBUMP, "versions", "--url", url, columns=80).stdout)
        lines = [line.split() for line in plain.splitlines()]
        assert lines[0] == ["dag_id"]
        assert lines[lines.index([LONG_DAG]) + 1][:3] == ["1", "2", "2"]

    def test_a_row_that_does_not_fit_then_has_a_line_per_field(self, url: str) -> None:
        plain = COLOUR.sub("", on_terminal(*DAGBUMP, "versions", "--dag-id", "etl", "--url", url, columns=40).stdout)
        assert [line.split()[-1] for line in plain.splitlines()[:3]] == ["etl", "1", "2"]

    def test_columns_that_say_nothing_are_left_out(self, url: str) -> None:
        header, *_ = command(*DAGBUMP, "bump", "--url", url).stdout.splitlines()
        assert header.split() == ["id", "dag_id", "run_id", "to", "version", "bumped", "needs_verify"]

    def test_wide_shows_every_field_and_a_row_a_line(self, url: str) -> None:
        narrow = json.loads(command(*DAGBUMP, "preview", "--json", "--url", url).stdout)
        done = on_terminal(*DAGBUMP, "preview", "--wide", "--url", url)
        header, *rows = COLOUR.sub("", done.stdout).splitlines()
        assert len(rows) == len(narrow)
        assert len(header.split()) >= len(narrow[0])
        assert f"{LONG_DAG}  {LONG_RUN}" in done.stdout

    def test_a_value_is_not_markup(self, url: str) -> None:
        assert "manual__[red]x[/red]" in command(*DAGBUMP, "preview", "--url", url).stdout

    @pytest.mark.parametrize("words", [["preview"], ["bump"], ["repair", "--dry-run"], ["holders"], ["history"]])
    def test_a_value_commands_no_terminal(
        self, fleet: Fleet, connect: Connect, database: URL, words: list[str]
    ) -> None:
        """Anybody who may trigger a run chooses its run_id."""
        old, _ = fleet.dag("d", versions=2, is_paused=words[0] == "repair")
        run = fleet.run("d", "r\x1b]0;owned\x07\n1 \x9b2J")
        fleet.tis(run, old, ["queued"])
        if words == ["history"]:
            dagbump.bump(fleet.connection, caller_verifies=True)
        if words == ["holders"]:
            connect().execute("SELECT FROM task_instance FOR UPDATE")
        done = command(*DAGBUMP, *words, "--url", libpq(database))
        (line,) = (line for line in done.stdout.splitlines() if "owned" in line)
        assert "r\\x1b]0;owned\\x07\\n1 \\x9b2J" in line

    def test_nor_does_a_sentence(self, fleet: Fleet, database: URL) -> None:
        fleet.dag("d\x1b[2J")
        run = fleet.run("d\x1b[2J", state="failed")
        done = command(*DAGBUMP, "bump", "--dag-run-id", str(run), "--url", libpq(database))
        assert "Run 1 of DAG d\\x1b[2J is failed." in done.stdout


class TestSentences:
    def test_are_broken_between_words(self) -> None:
        refused = on_terminal(*DAGBUMP, "preview", "--url", "nonsense", columns=60)
        assert refused.returncode == 2
        assert max(map(len, refused.stdout.splitlines())) <= 60
        assert refused.stdout.split() == command(*DAGBUMP, "preview", "--url", "nonsense").stderr.split()


class TestColours:
    def test_say_what_is_what_on_a_terminal_only(self, url: str) -> None:
        words = (*DAGBUMP, "preview", "--url", url)
        assert "\x1b[35mneeds_verify" in on_terminal(*words).stdout
        assert not COLOUR.search(command(*words).stdout)

    def test_no_color(self, url: str) -> None:
        printed = on_terminal(*DAGBUMP, "preview", "--url", url, NO_COLOR="1").stdout
        assert not re.search("\x1b\\[[0-9;]*3[0-9]m", printed)


class TestJson:
    def test_times_are_iso_8601(self, url: str) -> None:
        for name in ("preview", "bump"):
            for row in json.loads(command(*DAGBUMP, name, "--json", "--url", url).stdout):
                for key, value in row.items():
                    if key.endswith(("_at", "_start")) and value is not None:
                        assert datetime.fromisoformat(value).tzinfo


class TestHelp:
    def test_every_command_has_an_example_that_can_be_parsed(self) -> None:
        group: Any = get_command(app)
        for name, subcommand in group.commands.items():
            examples = re.findall(rf"^  (dagbump {name}.*)$", subcommand.epilog or "", re.MULTILINE)
            assert examples, name
            for example in examples:
                words = re.split(r"\s{2,}| [|>]", example)[0].split()[2:]
                subcommand.make_context(name, words, resilient_parsing=False)

    def test_fits_80_columns_and_is_not_chopped(self) -> None:
        group: Any = get_command(app)
        for words in ((), *((name,) for name in group.commands)):
            text = command(*DAGBUMP, *words, "--help", COLUMNS="80").stdout
            assert max(map(len, text.splitlines())) <= 80
            assert not re.search(r"\w\.\.\.$|…", text, re.MULTILINE)
            assert "\\" not in text
