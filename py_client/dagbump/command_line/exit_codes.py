"""The exit codes of commands that fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from dagbump.command_line.output import note, quiet_when_nobody_reads
from dagbump.command_line.postponed import Postponed
from dagbump.errors import DagbumpError, ExitCode, summary

if TYPE_CHECKING:
    import sqlalchemy as sa
else:
    sa = Postponed("sqlalchemy")


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn an error that a user can correct into one message and an exit code, without a traceback."""
    try:
        with quiet_when_nobody_reads():
            yield
    except DagbumpError as error:
        note(f"dagbump: {error}")
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise  # it may have interrupted the import of SQLAlchemy, and then sa.exc cannot be read below
    except OSError as error:
        note(f"dagbump: {error}")
        raise typer.Exit(ExitCode.THE_WORK_FAILED) from None
    except sa.exc.DBAPIError as error:
        note(f"dagbump: {summary(error)}")
        lost = error.connection_invalidated
        raise typer.Exit(ExitCode.DATABASE_NOT_REACHABLE if lost else ExitCode.THE_WORK_FAILED) from None
