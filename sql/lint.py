"""Lints what sqlfluff does not see: the SQL inside the functions' bodies. Part of ``make lint``.

sqlfluff takes a body for a string, and knows no PL/pgSQL. pglast has PostgreSQL's own parser, which names each
statement and expression inside a body; those are given to sqlfluff as statements of their own. So what holds of a
statement in a file, such as keywords in capitals, holds of one in a function, of the parts that it is made from, and of
expressions. The layout of a body is not looked at: it is lost when it is parsed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import freeze
import pglast
from sqlfluff.core import FluffConfig, Linter

_SAMPLE = {"airflow_schema": "airflow"}
_PLACEHOLDER = re.compile(r"@(?P<name>\w+)@")
_BLOCK = re.compile(r"(?:CREATE OR REPLACE (?:FUNCTION|PROCEDURE)|DO) .*?\$(?P<tag>\w+)\$.*?\$(?P=tag)\$;", re.DOTALL)
_STATEMENT = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|WITH|ALTER|CREATE|TRUNCATE)\b", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"^[\w.]+ := ")
# What can be said of a statement without its place on the page and the variables around it.
_RULES = (
    "capitalisation.keywords,capitalisation.literals,capitalisation.types,aliasing.table,aliasing.unused,convention"
)


def statements(text: str) -> Iterator[str]:
    """Yield each statement and expression of the function bodies in a rendered file, as a statement."""
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


def main() -> int:
    """Print what is found, and return the exit code."""
    config = FluffConfig.from_root(overrides={"dialect": "postgres", "templater": "raw", "rules": _RULES})
    linter = Linter(config=config)
    findings = 0
    directories = (freeze.HERE, freeze.HERE / "installer")
    copies = [
        copy for directory in directories for texts in freeze.copies(directory).values() for copy in texts.items()
    ]
    for name, text in copies:
        try:
            found = list(statements(text))
        except pglast.parser.ParseError as error:
            findings += 1
            print(f"{name}: {error}")
            continue
        for statement in found:
            for violation in linter.lint_string(statement).get_violations():
                findings += 1
                line = statement.splitlines()[max(violation.line_no - 1, 0)].strip()
                print(f"{name}: {violation.rule_code()} {violation.desc()}: {line}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
