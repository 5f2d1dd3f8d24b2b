r"""Finds the SQL files, and composes the SQL that is installed.

``sql/NAME.sql`` defines one object, and ``sql/parts/`` has the parts that several objects share. A migration inserts
the parts when it runs, so that psql's ``\sf`` shows each function complete. The composed SQL of a released revision is
kept in ``migrations/released/REVISION/NAME.sql``. If a file or part differs for a shape of Airflow's tables (`shapes`),
that version is in a folder beside it, named by the key of the shape.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from dagbump.installation import shapes
from dagbump.installation.names import INDEX, RELATIONS
from dagbump.installation.shapes import Shape

if TYPE_CHECKING:
    import sqlalchemy as sa

_PACKAGE = Path(__file__).resolve().parents[1]


def _directory(name: str) -> Path:
    # In a wheel the directory is inside the package, in a checkout at the top.
    return next(path for path in (_PACKAGE / name, _PACKAGE.parents[1] / name) if path.is_dir())


SOURCES = _directory("sql")
MIGRATIONS = _directory("migrations")
RELEASED = MIGRATIONS / "released"

_INCLUDE = re.compile(r"@include:(?P<name>\w+)@")
_ALONE = re.compile(r"^(?P<indent> *)@include:(?P<name>\w+)@$")
# A comment that names what a part takes. It helps a reader who does not see the function around the part.
TAKES = re.compile(r"\A-- Takes: (?P<names>(?:.*\n-- )*?.*\.)\n")
_HEADER = re.compile(r"\A(--.*\n)+")
_PLACEHOLDER = re.compile(r"@(?P<name>\w+)@")
_DOLLAR_QUOTE = re.compile(r"\$\w+\$")


def objects(revision: str | None = None) -> dict[str, Path]:
    """Return the file of each object of the main branch, by the object's name.

    Args:
        revision: a released revision gives its released files. Any other revision, or None, gives the files in
            ``sql/``.
    """
    released = sorted(path for path in RELEASED.glob("[0-9]*") if path.is_dir())
    if revision in {path.name for path in released}:
        reached = [path for path in released if path.name <= str(revision)]
    else:
        reached = [SOURCES]
    return {path.stem: path for directory in reached for path in sorted(directory.glob("*.sql"))}


def of_index(revision: str, name: str) -> Path:
    """Return a file of a revision of the optional index: the released copy if there is one, else the source."""
    released = RELEASED / revision / f"{name}.sql"
    return released if released.exists() else SOURCES / "index" / f"{name}.sql"


def installer(name: str) -> Path:
    """Return the file of a step that every upgrade runs besides its revisions; it is always the newest."""
    return SOURCES / "installer" / f"{name}.sql"


def compose(path: Path, shape: Shape) -> str:
    """Return a file's SQL for a shape of Airflow's tables, with all parts inserted, recursively.

    A part that is alone on its line keeps its head comment; a part inside a line loses it.
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
    """Return a file's SQL, ready to run.

    These placeholders are replaced: ``@airflow_schema@`` by the schema of Airflow's tables as an identifier,
    ``@airflow_schema_literal@`` by the same as a literal, ``@airflow_shape_literal@`` by the key of the shape,
    ``@airflow_releases_literal@`` by its releases, ``@optional_index_literal@`` by the qualified name of the optional
    index, ``@task_instance_literal@`` and its like by those of the tables that dagbump reads, and ``@NAME_literal@`` by
    the value of NAME in `literals`.

    The schema may have any name that PostgreSQL allows. So inserted text is not searched for placeholders, and a dollar
    quote gets another tag if its tag occurs in the name.
    """
    texts = {
        "airflow_schema": airflow_schema,
        "airflow_shape": shape.key,
        "airflow_releases": shape.label,
        "optional_index": f"{identifier(airflow_schema)}.{INDEX}",
        **{relation: f"{identifier(airflow_schema)}.{relation}" for relation in RELATIONS},
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
    # E'' with doubled backslashes means the same whether standard_conforming_strings is on or off.
    return quoted if "\\" not in value else "E" + quoted.replace("\\", "\\\\")


def as_it_is(text: str) -> sa.TextClause:
    """Return SQL with all colons escaped, so that SQLAlchemy finds no parameters in it."""
    import sqlalchemy as sa  # here, because the command line's help imports this module

    return sa.text(text.replace(":", r"\:"))
