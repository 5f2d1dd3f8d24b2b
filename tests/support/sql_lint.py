"""Lints the SQL as it is composed: the SQL part of ``make lint``.

Everything is composed into ``.cache/sql``, for each shape of Airflow's tables; there it can be read, too. sqlfluff
checks the layout and the style of the files. It takes the body of a function for a string, knowing no PL/pgSQL.
pglast has PostgreSQL's own parser, which names each statement and expression inside a body; sqlfluff gets those as
statements of their own. The layout of a body is not checked: it is lost when it is parsed.

The comment at the head of a part says what the part takes from the text around it (``-- Takes: ``). That is checked,
for the names that stand in any head.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pglast
from dagbump.installation import shapes, sql_files
from dagbump.installation.sql_files import SOURCES
from sqlfluff.core import FluffConfig, Linter

from support import sql_release

COMPOSED = Path(".cache/sql")
_COMPOSED_FROM = ("", "index", "installer")
# sqlfluff cannot read OPERATOR(pg_catalog.<>) ALL (…). The queries of the others stand in refuse_upgrade.sql, too.
_NOT_FOR_SQLFLUFF = ("create.sql", "find_foreign_objects.sql", "find_optional_index.sql", "find_served_schema.sql")
_SAMPLE = {"airflow_schema": "airflow"}
_PLACEHOLDER = re.compile(r"@(?P<name>\w+)@")
_BLOCK = re.compile(r"(?:CREATE OR REPLACE (?:FUNCTION|PROCEDURE)|DO) .*?\$(?P<tag>\w+)\$.*?\$(?P=tag)\$;", re.DOTALL)
_STATEMENT = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|WITH|ALTER|CREATE|TRUNCATE|LOCK)\b", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"^[\w.]+ := ")
# Rules that need neither the statement's layout nor the variables around it.
_RULES = (
    "capitalisation.keywords,capitalisation.literals,capitalisation.types,aliasing.table,aliasing.unused,convention"
)


def statements(text: str) -> Iterator[str]:
    """Yield each statement and expression of the function bodies in a composed file, as a statement."""
    text = _PLACEHOLDER.sub(lambda placeholder: _SAMPLE.get(placeholder["name"], "'airflow'"), text)
    for block in _BLOCK.finditer(text):
        source = block[0] if block[0].startswith("CREATE") else _as_function(block[0])
        for query in _queries(pglast.parse_plpgsql(source)):
            if "__Case__Variable" not in query:  # the parser's own
                yield _as_statement(_ASSIGNMENT.sub("", query))


def _as_function(block: str) -> str:
    return f"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS {block.removeprefix('DO ')}"


def _as_statement(query: str) -> str:
    query = query.replace("FROM ONLY ", "FROM ")  # which sqlfluff does not know
    return dedent(query if _STATEMENT.match(query) else f"SELECT {query}") + ";\n"


def _queries(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "query" and isinstance(value, str):
                yield value
            else:
                yield from _queries(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from _queries(item)


def compose_all() -> list[Path]:
    """Compose each file for each shape, and return the paths. A text that two shapes share is written once."""
    shutil.rmtree(COMPOSED, ignore_errors=True)
    written: dict[str, Path] = {}
    for shape in shapes.SHAPES:
        for source in (path for directory in _COMPOSED_FROM for path in (SOURCES / directory).glob("*.sql")):
            path = COMPOSED / shape.key / source.relative_to(SOURCES)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = sql_files.compose(source, shape)
            path.write_text(text, "utf-8")
            written.setdefault(text, path)
    return sorted(written.values())


def findings_in_bodies(paths: list[Path]) -> Iterator[str]:
    """Yield what is wrong inside the functions' bodies."""
    config = FluffConfig.from_root(overrides={"dialect": "postgres", "templater": "raw", "rules": _RULES})
    linter = Linter(config=config)
    for path in paths:
        try:
            found = list(statements(path.read_text("utf-8")))
        except pglast.parser.ParseError as error:
            yield f"{path}: {error}"
            continue
        for statement in found:
            for violation in linter.lint_string(statement).get_violations():
                line = statement.splitlines()[max(violation.line_no - 1, 0)].strip()
                yield f"{path}: {violation.rule_code()} {violation.desc()}: {line}"


def findings_in_heads() -> Iterator[str]:
    """Yield the parts whose `Takes:` line is wrong, as far as the names in all `Takes:` lines show it."""
    heads = {path: _taken(path) for path in sorted((SOURCES / "parts").rglob("*.sql"))}
    every_name = set().union(*heads.values())
    for path, takes in heads.items():
        text = path.read_text("utf-8")
        parts = re.findall(r"@include:(\w+)@", text)
        named = {name for name in every_name if _names(name, text)}
        passed_on = set().union(*(heads[_part(name, path.parent)] for name in parts))
        joined = [_part(name, path.parent).read_text("utf-8") for name in parts]
        made = {name for name in every_name if _makes(name, text) or any(_joins(name, part) for part in joined)}
        wanted = (named | passed_on) - made
        if takes != wanted:
            yield f"{path}: takes {_list(wanted)}, and says {_list(takes)}"


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _taken(path: Path) -> set[str]:
    """Return the names in the `Takes:` line of a part, without the remarks in parentheses."""
    head = sql_files.TAKES.match(path.read_text("utf-8"))
    listed = re.sub(r"\([^)]*\)", "", head["names"].replace("\n-- ", " ") if head else "nothing").rstrip(".")
    return {name.strip() for name in listed.split(",")} - {"nothing"}


def _part(name: str, directory: Path) -> Path:
    path = directory / f"{name}.sql"
    return path if path.exists() else SOURCES / "parts" / path.name


def _names(name: str, text: str) -> bool:
    """Say whether a text names something, outside of comments and texts, that is not a part of something else."""
    code = re.sub(r"--.*|'(?:[^']|'')*'", "", text)
    return bool(re.search(rf"(?<![\w.@:]){name}\b(?!\s*\(|:)", code))


def _makes(name: str, text: str) -> bool:
    """Return whether a text uses that name for something of its own, and does not also set it."""
    own = rf"\bAS {name}\b|\b{name} AS (?:MATERIALIZED )?\("
    return bool(re.search(own, text)) and not re.search(rf"\bINTO {name}\b|^ *{name} :=", text, re.MULTILINE)


def _joins(name: str, text: str) -> bool:
    """Say whether a part joins something of that name to the query that includes it."""
    return bool(re.search(rf"^\) AS {name}\b", text, re.MULTILINE))


def main() -> int:
    """Print what is found, and return the exit code."""
    paths = compose_all()
    findings = [*findings_in_bodies(paths), *findings_in_heads()]
    findings += [f"{name} is released, and has changed: add a revision" for name in sql_release.changed()]
    findings += [f"{name} is missing beside what is released: make release-sql" for name in sql_release.missing()]
    print(*findings, sep="\n", end="\n" if findings else "")
    style = [str(path) for path in paths if path.name not in _NOT_FOR_SQLFLUFF]
    command = [str(Path(sys.executable).with_name("sqlfluff")), "lint", "--disable-progress-bar", *style]
    return subprocess.run(command, check=False).returncode or bool(findings)


if __name__ == "__main__":
    sys.exit(main())
