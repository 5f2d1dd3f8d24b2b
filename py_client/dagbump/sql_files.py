"""The SQL files: where they are, and how a migration runs them."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent

import sqlalchemy as sa
from alembic import op

from dagbump.errors import DagbumpError

_INCLUDE = re.compile(r"^(?P<indent> *)@include:(?P<name>\w+)@$", re.MULTILINE)
_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return the directory ``sql`` or ``migrations``: inside the package in a wheel, at the top in a checkout."""
    return next(path for path in (_PACKAGE / name, _PACKAGE.parents[1] / name) if path.is_dir())


def read(revision: str, name: str, airflow_schema: str) -> str:
    """Return the text of ``sql/REVISION/NAME.sql``, ready to run.

    The schema of Airflow's tables is filled in, quoted, for ``@airflow_schema@``; and ``NAME.part.sql`` of the same
    revision for a line ``@include:NAME@``, where two functions share a query.
    """
    if "$" in airflow_schema:  # it could end the dollar-quoted body that it is put into
        raise DagbumpError(f"a schema name with a dollar sign is not supported: {airflow_schema}")
    text = _whole(shipped("sql") / revision, f"{name}.sql")
    identifier = '"{}"'.format(airflow_schema.replace('"', '""'))
    literal = "'{}'".format(airflow_schema.replace("'", "''"))
    return text.replace("@airflow_schema@", identifier).replace("@airflow_schema_literal@", literal)


def _whole(directory: Path, name: str) -> str:
    """Read a file with its parts, and theirs, put in."""
    return _INCLUDE.sub(
        lambda include: indent(_whole(directory, f"{include['name']}.part.sql").strip(), include["indent"]),
        (directory / name).read_text("utf-8"),
    )


def run(revision: str, *names: str) -> None:
    """Run files of a revision, in this order, in the migration under way; with ``--sql``, print them."""
    airflow_schema = op.get_context().opts["airflow_schema"]
    for name in names:
        text = read(revision, name, airflow_schema).strip().removesuffix(";")
        op.execute(sa.text(text.replace(":", r"\:")))  # SQLAlchemy would take :name for a parameter
