"""Every command and every SQL statement in the documents works, on a database with 50 DAGs."""

from __future__ import annotations

import ast
import asyncio
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagbump
import psycopg
import pytest
import yaml
from dagbump.airflow_settings import OPTIONS
from dagbump.command_line.app import app
from sqlalchemy.engine import URL
from support import example_fleet
from support.fleet import Fleet
from support.processes import CHECKOUT, DAGBUMP, command
from support.server import dump_schema, libpq
from typer.main import get_command

pytestmark = pytest.mark.once

# What docs/managed-services.md shows is for other roles, and run in test_operators.py.
DOCUMENTS = [
    CHECKOUT / "README.md",
    *sorted(path for path in (CHECKOUT / "docs").glob("*.md") if path.name != "managed-services.md"),
]
TEXTS = [*sorted(CHECKOUT.glob("[CRS]*.md")), *sorted((CHECKOUT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# These go on until somebody ends them. Other tests run them; here, only the options of `run` are looked at.
ENDLESS = {"run", "demo"}


def blocks(document: Path, language: str) -> Iterator[str]:
    for found, text in BLOCK.findall(document.read_text(encoding="utf-8")):
        if found == language:
            yield text


def commands(document: Path) -> Iterator[list[str]]:
    """Yield the words of each `$ dagbump …` and of each command in YAML, without a comment or a second command behind
    it.
    """
    written = [(block, r"^\$ dagbump (.*)$") for block in blocks(document, "console")]
    written += [(block, r"\bdagbump ((?:upgrade|run)[^,\]]*)") for block in blocks(document, "yaml")]
    for block, pattern in written:
        for line in re.findall(pattern, block, re.MULTILINE):
            words = shlex.split(re.split(r" (?:[|&]|>{1,2}) ", line)[0], comments=True)
            if words[0] not in ENDLESS:
                yield [*words, "--yes"] if words == ["repair"] else words  # there is no terminal to ask on


def runs(document: Path) -> Iterator[list[str]]:
    """Yield the options of each `dagbump run` in a shell, a unit of systemd, or YAML."""
    for language in ("console", "ini", "yaml"):
        for block in blocks(document, language):
            for line in re.findall(r"\bdagbump,? run\b([^\n\]]*)", block):
                yield shlex.split(line.replace(",", " "), comments=True)


def test_the_commands_that_are_shown_are_found() -> None:
    shown = [words for document in DOCUMENTS for words in commands(document)]
    assert ["upgrade", "--with-index"] in shown
    assert ["history", "--limit", "3"] in shown
    assert len(shown) >= 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command_can_be_run(document: Path, fleet: Fleet, database: URL) -> None:
    example_fleet.make(fleet)
    fleet.execute("ANALYZE")
    for words in commands(document):
        done = command(*DAGBUMP, *words, DAGBUMP_URL=libpq(database))
        assert done.returncode == 0, (words, done.stdout, done.stderr)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_options_of_every_run_that_is_shown_exist(document: Path) -> None:
    """Nothing is run: click parses the command's words."""
    run: Any = get_command(app)
    for words in runs(document):
        run.commands["run"].make_context("run", words)


def test_the_runs_that_are_shown_are_found() -> None:
    shown = [words for document in DOCUMENTS for words in runs(document)]
    assert ["--interval", "1.0"] in shown  # in a shell
    assert ["--metrics-port", "9187", "--metrics-address", "127.0.0.1"] in shown  # in a unit of systemd
    assert ["--metrics-port", "9187", "--log-format", "json"] in shown  # in a manifest of Kubernetes


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_statement_can_be_run(document: Path, fleet: Fleet) -> None:
    example_fleet.make(fleet)
    fleet.execute("DROP ROLE IF EXISTS airflow_operator")
    fleet.execute("CREATE ROLE airflow_operator")
    try:
        connection: psycopg.Connection[Any] = fleet.connection
        for block in blocks(document, "sql"):
            for statement in re.sub(r"--.*", "", block).split(";"):
                # pg_cron works in one database of a server alone.
                if statement.strip() and "cron." not in statement:
                    connection.execute(statement.encode())
    finally:
        fleet.execute("DROP OWNED BY airflow_operator; DROP ROLE airflow_operator")


def test_the_examples_in_python_can_be_run(fleet: Fleet, database: URL) -> None:
    example_fleet.make(fleet)
    url = database.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    first, asynchronous = list(blocks(CHECKOUT / "docs" / "python.md", "python"))
    names: dict[str, Any] = {}

    def started(example: str) -> Any:
        written = example.replace("postgresql+psycopg://airflow:secret@db.example.com/airflow", url)
        code = compile(written, "python.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return eval(code, names)  # noqa: S307  (only what stands in our own documents)

    async def run_to_the_end() -> None:
        await started(asynchronous)
        await names["engine"].dispose()

    started(first)
    names["engine"].dispose()
    assert names["result"].bumped > 0
    asyncio.run(run_to_the_end())
    assert names["result"].bumped == 0
    assert {run.dag_run_id for run in names["result"].needs_verify} == {
        run.dag_run_id for run in dagbump.preview(fleet.connection) if run.verdict == "needs_verify"
    }


def test_the_query_of_the_readme_finds_what_preview_finds(fleet: Fleet) -> None:
    example_fleet.make(fleet)
    for dag_id, pinned_to in (("follows", None), ("keeps", "3f1c9a0")):
        fleet.dag(dag_id)
        old, latest = fleet.version(dag_id, 1), fleet.version(dag_id, 2, tasks=["done", "waits", "new", "taken back"])
        run = fleet.run(dag_id, "manual", bundle_version=pinned_to)
        fleet.ti(run, latest, "success", task_id="done")
        fleet.ti(run, old, None, task_id="waits")
        fleet.ti(run, None, "queued", task_id="not in the version")
        fleet.ti(run, old, "removed", task_id="taken back")
    (query,) = blocks(CHECKOUT / "README.md", "sql")

    found = {(dag_id, run_id): counts for dag_id, run_id, *counts in fleet.connection.execute(query.encode())}

    assert found["follows", "manual"] == [1, 1, 2]
    assert found == {
        (run.dag_id, run.run_id): [run.versionless, run.stale - run.versionless, len(run.missing_tasks or ())]
        for run in dagbump.preview(fleet.connection)
        if run.verdict in {"bump", "missing_tasks", "needs_verify"}
    }


def uninstall(url: URL, way: str) -> None:
    """Remove dagbump as the guide says, with its commands or with its statements."""
    guide = CHECKOUT / "docs" / "uninstall.md"
    if way == "commands":
        for words in commands(guide):
            done = command(*DAGBUMP, *words, DAGBUMP_URL=libpq(url))
            assert done.returncode == 0, (words, done.stdout, done.stderr)
        return
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        (drop,) = [block for block in blocks(guide, "sql") if "DROP" in block]
        for statement in drop.split(";"):
            if statement.strip():
                connection.execute(statement.encode())


@pytest.mark.parametrize("way", ["commands", "statements"])
def test_the_guide_to_uninstalling_leaves_nothing(airflow_database: URL, way: str) -> None:
    before = dump_schema(airflow_database)
    *_, look = blocks(CHECKOUT / "docs" / "uninstall.md", "sql")
    with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
        assert command(*DAGBUMP, "upgrade", "--with-index", DAGBUMP_URL=libpq(airflow_database)).returncode == 0
        assert connection.execute(look.encode()).fetchall() == [
            ("schema", "dagbump"),
            ("index", "dagbump_ti_unfinished"),
        ]

        uninstall(airflow_database, way)

        assert connection.execute(look.encode()).fetchall() == []
    assert dump_schema(airflow_database) == before


def yaml_files() -> dict[str, Any]:
    """Return the YAML files that the guide to containers shows, by the name in their first line."""
    shown = blocks(CHECKOUT / "docs" / "containers.md", "yaml")
    return {block.partition("\n")[0].removeprefix("# "): yaml.safe_load(block) for block in shown}


def test_the_yaml_of_the_guide_to_containers_turns_the_plugin_on() -> None:
    files = yaml_files()
    assert set(files) == {"values.yaml", "dagbump-run.yaml", "docker-compose.override.yaml"}
    assert set(files["values.yaml"]["config"]["dagbump"]) == {"enabled"} <= set(OPTIONS)
    scheduler = files["docker-compose.override.yaml"]["services"]["airflow-scheduler"]
    assert scheduler["environment"] == {"AIRFLOW__DAGBUMP__ENABLED": "True"}


def test_the_services_of_the_guide_wait_for_services_that_there_are() -> None:
    services = yaml_files()["docker-compose.override.yaml"]["services"]
    ours_and_airflows = {*services, "airflow-init"}
    assert all(set(service["depends_on"]) <= ours_and_airflows for service in services.values())


@pytest.mark.parametrize("document", TEXTS, ids=lambda path: path.stem)
def test_every_link_leads_somewhere(document: Path) -> None:
    text = BLOCK.sub("", document.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", TEXTS, ids=lambda path: path.stem)
def test_a_block_inside_a_list_stays_there_on_the_site(document: Path) -> None:
    """GitHub takes an indent of two or three; the site's Markdown ends the list there, and begins again at step 1."""
    text = BLOCK.sub("", document.read_text(encoding="utf-8"))
    assert re.findall(r"(?:^|\n) {1,3}(?:[-*|] |\d+\. |```).*|\n\n {1,3}\S.*", text) == []
    # A paragraph inside an item swallows a next item that is not set apart by an empty line.
    assert re.findall(r"\n\n {4}[^\s|-].*(?:\n {4}.*)*\n(?:[-*]|\d+\.) .*", text) == []


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pictures_of_the_page_are_those_that_its_document_shows() -> None:
    shown = set(re.findall(r"\(page/([\w-]+\.png)\)", (CHECKOUT / "docs" / "page.md").read_text(encoding="utf-8")))
    assert shown == {path.name for path in (CHECKOUT / "docs" / "page").iterdir()}


def test_the_readme_takes_a_minute_to_read() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    assert len(readme.split()) <= 900


def test_the_index_names_every_document() -> None:
    index = (CHECKOUT / "docs" / "index.md").read_text(encoding="utf-8")
    for document in (CHECKOUT / "docs").glob("*.md"):
        assert document.name == "index.md" or f"({document.name})" in index, document.name
