"""``dagbump check``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from dagbump.command_line.connecting import engine_for
from dagbump.command_line.exit_codes import exit_codes
from dagbump.command_line.options import Json, OfAirflow, TrustOwner, Url, Wide
from dagbump.command_line.output import print_json, printing
from dagbump.command_line.postponed import Postponed
from dagbump.command_line.tables import GOOD, WRONG, Column, one_of, print_table
from dagbump.wording import counted

if TYPE_CHECKING:
    from dagbump import database
    from dagbump.installation import checking
else:
    checking = Postponed("dagbump.installation.checking")
    database = Postponed("dagbump.database")

_OK, _NOT_OK = "ok", "NOT OK"
_COLUMNS = (Column("result", style=one_of({_OK: GOOD, _NOT_OK: WRONG})), Column("item"), Column("detail"))


@dataclass(frozen=True)
class _Line:
    """A row of the table."""

    result: str
    item: str
    detail: str


def check(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    trust_owner: TrustOwner = False,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Check that everything is as dagbump needs it, and say what to do if it is not.

    This only reads. It also works if dagbump is not installed; then it says whether this role could install it.

    Exit codes: 0 all is ok, 1 something is not ok, 2 wrong usage, 3 database not reachable, 4 dagbump is not installed
    in this database or cannot be used: schema dagbump belongs to another role, serves another Airflow, or is of a
    release that does not fit this package.
    """
    with exit_codes(), database.connect(engine_for(url, trust_owner=trust_owner), airflow_schema) as connection:
        report = checking.look(connection, airflow_schema)
    with printing():
        if as_json:
            print_json(report.items)
        else:
            lines = [_Line(_OK if item.ok else _NOT_OK, item.item, item.detail) for item in report.items]
            print_table(_COLUMNS, lines, wide=wide)
            wrong = sum(1 for item in report.items if not item.ok)
            print(f"{counted(wrong, 'item')} not ok." if wrong else "All is ok. Next: dagbump preview")
    raise typer.Exit(report.exit_code)
