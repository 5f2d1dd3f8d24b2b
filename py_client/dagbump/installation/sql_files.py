"""The SQL files that are shipped, below ``migrations/``: where they are, and what is put into them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dagbump.installation.names import INDEX

if TYPE_CHECKING:
    import sqlalchemy as sa

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside the package in a wheel, at the top in a checkout.
MIGRATIONS = next(path for path in (_PACKAGE / "migrations", _PACKAGE.parents[1] / "migrations") if path.is_dir())

# The shapes of Airflow's tables that there is SQL for, as dagbump.installation calls them, and the folder, beside each
# file that reads otherwise for one, with what it reads then.
SHAPES = {"3.0 to 3.3": "", "3.4": "3.4"}
FIRST_SHAPE, *_ = SHAPES

_PLACEHOLDER = re.compile(r"@(?P<name>\w+)@")
_DOLLAR_QUOTE = re.compile(r"\$\w+\$")


def render(path: Path, airflow_schema: str, **literals: str) -> str:
    """Return the text of a file, ready to run.

    The schema of Airflow's tables is filled in for ``@airflow_schema@``, as an identifier, and for
    ``@airflow_schema_literal@``; the qualified names of its table and of the optional index for
    ``@task_instance_literal@`` and ``@optional_index_literal@``; each of `literals` for its name with ``_literal``
    behind. A schema may have any name that PostgreSQL allows: what is put in is not looked at again, and a dollar quote
    that it would end gets another tag.
    """
    values = {"airflow_schema": identifier(airflow_schema), "airflow_schema_literal": literal(airflow_schema)}
    named = {"task_instance": "task_instance", "optional_index": INDEX}
    values |= {
        f"{name}_literal": literal(f"{identifier(airflow_schema)}.{relation}") for name, relation in named.items()
    }
    values |= {f"{name}_literal": literal(value) for name, value in literals.items()}
    text = path.read_text("utf-8")
    for tag in set(_DOLLAR_QUOTE.findall(text)):
        text = text.replace(tag, _tag_not_in(airflow_schema, tag))
    return _PLACEHOLDER.sub(lambda placeholder: values[placeholder["name"]], text)


def _tag_not_in(name: str, tag: str) -> str:
    while tag in name:
        tag = f"${tag.strip('$')}_$"
    return tag


def identifier(name: str) -> str:
    """Quote a name for SQL."""
    return '"{}"'.format(name.replace('"', '""'))


def literal(value: str) -> str:
    """Quote a text for SQL."""
    quoted = "'{}'".format(value.replace("'", "''"))
    # Under standard_conforming_strings = off, and in a script, a backslash has to mean itself.
    return quoted if "\\" not in value else "E" + quoted.replace("\\", "\\\\")


def as_it_is(text: str) -> sa.TextClause:
    """Return SQL in which SQLAlchemy takes nothing for a parameter."""
    import sqlalchemy as sa  # not above: the command line's help needs the names in this module

    return sa.text(text.replace(":", r"\:"))


def for_shape(path: Path, shape: str) -> Path:
    """Return what a file reads for a shape of Airflow's tables."""
    other = path.parent / SHAPES[shape] / path.name
    return other if other.exists() else path


def installer(name: str) -> Path:
    """Return the path of what an upgrade does besides its revisions."""
    return MIGRATIONS / "installer" / f"{name}.sql"


def objects(revision: str | None = None, migrations: Path = MIGRATIONS) -> dict[str, Path]:
    """Return the newest file of each object of the main branch, by name, at a revision; None: at the newest."""
    directories = sorted((migrations / "released").glob("[0-9]*"))
    reached = [directory for directory in directories if revision is None or directory.name <= revision]
    return {path.stem: path for directory in reached for path in sorted(directory.glob("*.sql"))}
