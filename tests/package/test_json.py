"""What the commands print with --json fits docs/json-schemas.json."""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any

import jsonschema
import pytest
from dagbump.command_line.app import app
from sqlalchemy.engine import URL
from support import example_fleet
from support.fleet import Fleet
from support.processes import DAGBUMP, command, running
from support.server import Connect, libpq
from typer.main import get_command

from documentation import json_schemas

pytestmark = pytest.mark.once

SCHEMAS: dict[str, Any] = json.loads(json_schemas.FILE.read_text("utf-8"))


def test_the_file_says_what_the_code_says() -> None:
    assert json_schemas.FILE.read_text("utf-8") == json_schemas.text(), "write it: python -m documentation.json_schemas"


def test_every_command_that_has_json_has_a_schema() -> None:
    group: Any = get_command(app)
    with_json = {name for name, one in group.commands.items() if any("--json" in option.opts for option in one.params)}
    assert with_json == set(SCHEMAS)


def is_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.fromisoformat(value))


FORMATS = jsonschema.FormatChecker(["uuid"])
FORMATS.checks("date-time", raises=ValueError)(is_time)


def strict(schema: Any) -> Any:
    """Return the schema without leave for keys that it does not name; a later release may add some."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return closed | {name: strict(part) for name, part in schema.items()}


def check(name: str, answer: Any) -> None:
    """Compare an answer, which must not be empty, with its schema."""
    assert answer
    jsonschema.Draft202012Validator(strict(SCHEMAS[name]), format_checker=FORMATS).validate(answer)


@pytest.fixture
def url(fleet: Fleet, database: URL, connect: Connect) -> str:
    """A database with work for each command: stale task instances, a locked one among them, and a history."""
    example_fleet.make(fleet)
    lock = "SELECT FROM task_instance WHERE state = 'queued' AND dag_id = 'etl' LIMIT 1 FOR UPDATE"
    connect().execute(lock)
    return libpq(database)


def printed(*words: str, url: str) -> Any:
    done = command(*DAGBUMP, *words, "--json", DAGBUMP_URL=url)
    assert done.returncode in {0, 1}, done.stderr
    return json.loads(done.stdout)


def test_what_the_commands_print_fits_the_schemas(url: str) -> None:
    check("check", printed("check", url=url))
    check("preview", printed("preview", url=url))
    check("holders", printed("holders", url=url))
    check("versions", printed("versions", url=url))
    check("bump", printed("bump", "--max-runs", "2", url=url))
    check("history", printed("history", url=url))
    dry = printed("repair", "--dry-run", url=url)
    check("repair", dry)
    assert dry["to_move"] > 0
    check("repair", printed("repair", "--yes", "--dag-id", "finance.daily_reconciliation", url=url))


@pytest.mark.parametrize("words", [["run"], ["history", "--follow"]], ids=" ".join)
def test_each_line_is_an_object(url: str, words: list[str]) -> None:
    printed("bump", "--max-runs", "2", url=url)
    with running(*DAGBUMP, *words, "--json", DAGBUMP_URL=url) as process:
        process.until_printed("{")
        (line, *_) = [line for line in process.lines if line.startswith("{")]
    answer = json.loads(line)
    check(words[0], answer if words == ["run"] else [answer])
    assert os.linesep not in line.rstrip(os.linesep)
