"""A hook of MkDocs: writes the reference pages while the site is built, from what is installed and imported.

Nothing in them is copied by hand: functions and tables come from the COMMENTs of a database into which the migrations
have just installed dagbump, commands from their help, options and metrics from what Airflow is told, and SQLSTATEs
from the SQL files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dagbump import database, errors
from dagbump.airflow_metrics import Metric
from dagbump.airflow_settings import OPTIONS
from dagbump.command_line.app import app
from dagbump.demo.fleet import TABLES
from dagbump.embedded_postgres import embedded_postgres
from dagbump.installation import installer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.main import get_command

from documentation import json_schemas, sqlstates

CHECKOUT = Path(__file__).resolve().parent.parent

# Documents beside docs/, under the names that they have on the site.
BESIDE = {
    "../README.md": "readme.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../RELEASING.md": "releasing.md",
    "../SECURITY.md": "security.md",
}

_FUNCTIONS = """
    SELECT proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
        obj_description(p.oid, 'pg_proc')
    FROM pg_proc AS p WHERE pronamespace = 'dagbump'::regnamespace ORDER BY 1, 2"""
_CTRL_C = (
    "On Ctrl-C, [`dagbump run`](../service.md#exit-codes) and `dagbump history --follow` end with 0, and a "
    "[repair](../repair.md#cancel-and-resume) that has begun to move task instances with 1."
)
_LINE = 50  # characters of parameters that fit beside the name of a function
_COLUMNS = """
    SELECT relname, obj_description(c.oid, 'pg_class'), attname, format_type(atttypid, atttypmod),
        col_description(c.oid, attnum)
    FROM pg_class AS c JOIN pg_attribute ON attrelid = c.oid
    WHERE relnamespace = 'dagbump'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
        AND relname <> 'alembic_version'
    ORDER BY relname, attnum"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    pages = {
        "reference/sql.md": sql(),
        "reference/commands.md": commands(),
        "reference/json.md": answers(),
        "reference/options.md": options(),
        "reference/metrics.md": metrics(),
        "reference/errors.md": error_codes(),
        "reference/python.md": "# Python\n\n::: dagbump.client\n\n::: dagbump.results\n\n::: dagbump.errors\n",
    }
    for path, name in BESIDE.items():
        pages[name] = (CHECKOUT / "docs" / path).read_text(encoding="utf-8")
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Lead links to the documents beside docs/ to their pages; GitHub reads the same files."""
    if page.file.src_uri in BESIDE.values():
        markdown = re.sub(r"\]\(docs/", "](", markdown)
        markdown = re.sub(r"\]\([A-Z]+\.md", lambda found: found[0].lower(), markdown)
        return re.sub(r"\[(\w+)\]\(LICENSE\)", r"\1", markdown)
    for path, name in BESIDE.items():
        markdown = markdown.replace(f"]({path}", f"]({name}")
    return markdown


def sql() -> str:
    """Return the functions and tables of a database into which dagbump has just been installed."""
    with embedded_postgres() as server:
        engine = server.create_database("reference")
        with engine.begin() as connection:
            connection.exec_driver_sql(TABLES.read_text("utf-8"), execution_options={"no_parameters": True})
        installer.upgrade(database.create_engine(engine.url.render_as_string(hide_password=False)))
        with engine.connect() as connection:
            functions = connection.execute(sa.text(_FUNCTIONS)).all()
            columns = connection.execute(sa.text(_COLUMNS)).all()
        engine.dispose()
    return "\n".join(["# SQL", "", *_functions(functions), *_tables(columns)])


def _functions(rows: Sequence[Any]) -> Iterator[str]:
    public = [row for row in rows if not row[3].startswith("Internal:")]
    for name, arguments, answer, comment in public:
        yield f"## {name}\n"
        call = f"{'' if answer else 'CALL '}dagbump.{name}{_in_brackets(arguments)}"
        if answer:
            columns = answer.removeprefix("TABLE(")
            call += " RETURNS " + (answer if columns == answer else f"TABLE {_in_brackets(columns[:-1])}")
        yield f"```text\n{call}\n```\n"
        yield f"```text\n{comment}\n```\n"


def _in_brackets(parameters: str) -> str:
    """Write parameters or columns in one line if they fit, else one per line. No type here has a comma of its own."""
    line = f"({parameters})"
    return line if len(line) <= _LINE else "(\n    " + parameters.replace(", ", ",\n    ") + "\n)"


def _tables(rows: Sequence[Any]) -> Iterator[str]:
    table = None
    for relname, comment, name, kind, meaning in rows:
        if relname != table:
            table = relname
            yield f"\n## Table {table}\n\n```text\n{comment}\n```\n\n| column | type | meaning |\n|---|---|---|"
        in_one_line = " ".join((meaning or "").split()).replace("|", r"\|")
        yield f"| `{name}` | {kind} | {in_one_line} |"


def commands() -> str:
    """Return what `dagbump --help` and `dagbump COMMAND --help` print."""
    group: Any = get_command(app)
    width = {"terminal_width": 84, "max_content_width": 84}
    parent = group.context_class(group, info_name="dagbump", **width)
    pages = ["# Commands", f"```text\n{group.get_help(parent)}\n```"]
    for name, command in group.commands.items():
        context = command.context_class(command, info_name=name, parent=parent, **width)
        pages.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(pages)


def answers() -> str:
    """Return the JSON schema of each command's answer."""
    pages = [
        "# The answers of `--json`",
        "A [JSON Schema](https://json-schema.org) for each command; [one file](../json-schemas.json) has them all.",
        "`dagbump history --follow --json` prints each row as an object on one line.",
    ]
    for command, schema in json_schemas.schemas().items():
        head = f"## {command}" + ("\n\nOne object per line." if command in json_schemas.LINES else "")
        pages.append(f"{head}\n\n```json\n{json.dumps(schema, indent=2)}\n```")
    return "\n\n".join(pages)


def options() -> str:
    """Return the options of the plugin."""
    pages = ["# Options", "In section `[dagbump]` of `airflow.cfg`, or as environment variables."]
    for name, option in OPTIONS.items():
        variable = f"AIRFLOW__DAGBUMP__{name.upper()}"
        pages += [f"## {name}", option["description"], f"Variable: `{variable}`. Default: `{option['default']}`."]
    return "\n\n".join(pages)


def metrics() -> str:
    """Return the metrics of the plugin."""
    head = ["# Metrics", "", "The plugin sends these in Airflow's Stats, with Airflow's own prefix.", ""]
    rows = [f"| `{metric.stat}` | {metric.kind} | {metric.meaning} |" for metric in Metric]
    return "\n".join([*head, "| metric | kind | meaning |", "|---|---|---|", *rows])


def error_codes() -> str:
    """Return the exit codes, the errors and the SQLSTATEs, each with its causes."""
    lines = ["# Exit codes and errors", "", "| exit code | meaning |", "|---|---|"]
    lines += [f"| {code.value} | {code.name.lower().replace('_', ' ')} |" for code in errors.ExitCode]
    lines += ["| 130 | Ctrl-C |", "", _CTRL_C]
    lines += ["", "## Errors", "", "| error | cause | exit code |", "|---|---|:---|"]
    for error in errors.DagbumpError.__subclasses__():
        cause = (error.__doc__ or "").partition("\n")[0].replace("``", "`")
        lines.append(f"| `{error.__name__}` | {cause} | {error.exit_code.value} |")
    lines += ["", "## SQLSTATEs that dagbump raises", "", "With these messages. The hint says what to do."]
    ours = sqlstates.raised()
    for state in ours:
        name = f"`{state.code}`" + (f" {state.name}" if state.name else "")
        lines += ["", f"### {name}", "", f"In Python: {_error_of(state.code)}.", ""]
        lines += [f"- {message}" for message in state.messages]
    lines += ["", "## Other SQLSTATEs that dagbump explains", "", "PostgreSQL raises them.", ""]
    lines += ["| SQLSTATE | name | in Python | what to do |", "|---|---|---|---|"]
    for code, (_, advice) in errors.BY_SQLSTATE.items():
        if code not in {state.code for state in ours}:
            lines.append(f"| `{code}` | {sqlstates.name_of(code)} | {_error_of(code)} | {advice} |")
    return "\n".join(lines)


def _error_of(code: str) -> str:
    return f"`{errors.BY_SQLSTATE[code][0].__name__}`" if code in errors.BY_SQLSTATE else "the driver's own error"
