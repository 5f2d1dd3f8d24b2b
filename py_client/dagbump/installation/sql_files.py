r"""The SQL that is installed: which files it is made from, and how.

``sql/NAME.sql`` is an object as it is now; ``sql/parts/`` is what several of them share. A migration puts the parts in
when it runs, so that each function reads whole in psql's ``\sf``. What a released revision brought is kept, with its
parts put in, in ``migrations/released/REVISION/NAME.sql``. Beside a file or a part, a folder with the key of a shape of
Airflow's tables holds what it reads for these (`shapes`).
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from dagbump.installation import shapes
from dagbump.installation.names import INDEX
from dagbump.installation.shapes import Shape

if TYPE_CHECKING:
    import sqlalchemy as sa

_PACKAGE = Path(__file__).resolve().parents[1]


def _directory(name: str) -> Path:
    # Inside the package in a wheel, at the top in a checkout.
    return next(path for path in (_PACKAGE / name, _PACKAGE.parents[1] / name) if path.is_dir())


SOURCES = _directory("sql")
MIGRATIONS = _directory("migrations")
RELEASED = MIGRATIONS / "released"

_INCLUDE = re.compile(r"@include:(?P<name>\w+)@")
_ALONE = re.compile(r"^(?P<indent> *)@include:(?P<name>\w+)@$")
# For the reader of the part, who does not see the function around it.
TAKES = re.compile(r"\A-- Takes: (?P<names>(?:.*\n-- )*?.*\.)\n")
_HEADER = re.compile(r"\A(--.*\n)+")
_PLACEHOLDER = re.compile(r"@(?P<name>\w+)@")
_DOLLAR_QUOTE = re.compile(r"\$\w+\$")


def objects(revision: str | None = None) -> dict[str, Path]:
    """Return the file of each object of the main branch, by name, at a revision.

    Args:
        revision: one that is released, whose copies these are, or the newest; None: what the sources are now.
    """
    released = sorted(path for path in RELEASED.glob("[0-9]*") if path.is_dir())
    if revision in {path.name for path in released}:
        reached = [path for path in released if path.name <= str(revision)]
    else:
        reached = [SOURCES]
    return {path.stem: path for directory in reached for path in sorted(directory.glob("*.sql"))}


def of_index(revision: str, name: str) -> Path:
    """Return a file of a revision of the optional index: its copy, where that is released."""
    released = RELEASED / revision / f"{name}.sql"
    return released if released.exists() else SOURCES / "index" / f"{name}.sql"


def installer(name: str) -> Path:
    """Return the file of what an upgrade does besides its revisions: always the newest."""
    return SOURCES / "installer" / f"{name}.sql"


def compose(path: Path, shape: Shape) -> str:
    """Return what a file says for a shape of Airflow's tables, with its parts, and theirs, put in.

    A part alone on its line keeps the comment at its head; one inside a line is put in without it.
    """
    text = _for_shape(path, shape).read_text("utf-8")
    return "\n".join(_with_parts(line, shape) for line in text.split("\n"))


def _for_shape(path: Path, shape: Shape) -> Path:
    candidates = (path.parent / each.key / path.name for each in shapes.up_to(shape))
    return next((candidate for candidate in candidates if candidate.exists()), path)


def _with_parts(line: str, shape: Shape) -> str:
    alone = _ALONE.match(line)
    if alone:
        return indent(_part(alone["name"], shape), alone["indent"])
    spaces = line[: len(line) - len(line.lstrip())]

    def put_in(include: re.Match[str]) -> str:
        return indent(_HEADER.sub("", _part(include["name"], shape)), spaces).lstrip()

    return _INCLUDE.sub(put_in, line)


def _part(name: str, shape: Shape) -> str:
    return TAKES.sub("", compose(SOURCES / "parts" / f"{name}.sql", shape).strip())


def render(path: Path, airflow_schema: str, shape: Shape = shapes.FIRST, **literals: str) -> str:
    """Return what a file says, ready to run.

    The schema of Airflow's tables is filled in for ``@airflow_schema@``, as an identifier, and for
    ``@airflow_schema_literal@``; the key of their shape for ``@airflow_shape_literal@``, its releases for
    ``@airflow_releases_literal@``; the qualified names of its table and of the optional index for
    ``@task_instance_literal@`` and ``@optional_index_literal@``; each of `literals` for its name with ``_literal``
    behind. A schema may have any name that PostgreSQL allows: what is put in is not looked at again, and a dollar quote
    that it would end gets another tag.
    """
    texts = {
        "airflow_schema": airflow_schema,
        "airflow_shape": shape.key,
        "airflow_releases": shape.label,
        "task_instance": f"{identifier(airflow_schema)}.task_instance",
        "optional_index": f"{identifier(airflow_schema)}.{INDEX}",
    } | literals
    values = {f"{name}_literal": literal(value) for name, value in texts.items()}
    values["airflow_schema"] = identifier(airflow_schema)
    text = compose(path, shape)
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
