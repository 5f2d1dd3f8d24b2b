"""Which commands there are."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from dagbump import __version__
from dagbump.command_line import bump, check, demo, history, holders, install, repair, run, versions
from dagbump.command_line.output import printing
from dagbump.errors import ExitCode

_EXIT_CODES = ", ".join(f"{code:d} {code.name.lower().replace('_', ' ')}" for code in ExitCode)

app = typer.Typer(
    name="dagbump",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"""Keeps task_instance.dag_version_id right inside Airflow's PostgreSQL database.

    First time on a database: dagbump check, then dagbump upgrade, then dagbump preview, then dagbump bump.

    Exit codes: {_EXIT_CODES}.
    """,
    rich_markup_mode=None,  # plain help is wrapped as it should be, in any terminal and in a pipe
)


def _print_version(asked: bool) -> None:
    if asked:
        with printing():
            print(f"dagbump {__version__}")
        raise typer.Exit


@app.callback()
def before_every_command(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the release, and end.")
    ] = False,
) -> None:
    """Print what a terminal's encoding does not know in another way, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in {"strict", "surrogateescape"}:
            stream.reconfigure(errors="backslashreplace")


def _add(command: Callable[..., None], summary: str, *examples: str) -> None:
    lines = "\n".join(f"  {example}" for example in examples)
    app.command(short_help=summary, epilog=f"\b\nExamples:\n{lines}")(command)


_add(
    install.upgrade,
    "Install dagbump in Airflow's database, or mend what is there.",
    "dagbump upgrade",
    "dagbump upgrade --with-index     and the optional index",
    "dagbump upgrade --sql > up.sql   for a DBA who reviews before running",
)
_add(
    install.downgrade,
    "Remove dagbump from the database.",
    "dagbump downgrade                all of it; asks first on a terminal",
    "dagbump downgrade index@base     the optional index alone",
    "dagbump downgrade --sql 0001:base",
)
_add(
    check.check,
    "Check that all is as dagbump needs it; say what to do where it is not.",
    "dagbump check",
    "dagbump check --json | jq '.[] | select(.ok | not)'",
)
_add(
    bump.preview,
    "Show what is stale, and what bump would do about it.",
    "dagbump preview",
    "dagbump preview --dag-id etl --wide",
    "dagbump preview --json | jq '.[] | select(.verdict == \"bump\")'",
)
_add(
    bump.bump,
    "Move stale task instances to the latest version of their DAG.",
    "dagbump bump",
    "dagbump bump --dag-id etl --dag-id reports",
    "dagbump bump --dag-run-id 17 --json",
)
_add(
    repair.repair,
    "Move all that may be moved, in small transactions.",
    "dagbump repair --dry-run",
    "dagbump repair                   asks first, and shows how far it is",
    "dagbump repair --dag-id etl --batch-size 500 --yes",
)
_add(
    run.run,
    "Bump once per interval, until SIGTERM or Ctrl-C.",
    "dagbump run",
    "dagbump run --interval 5 --json >> dagbump.jsonl",
)
_add(
    holders.holders,
    "Show who holds the task instances that bump leaves for a lock.",
    "dagbump holders",
    "dagbump holders --dag-run-id 17 --json   a row per task instance",
)
_add(
    versions.versions,
    "Show how many versions each DAG has, and what keeps the old ones.",
    "dagbump versions",
    "dagbump versions --dag-id etl --wide",
)
_add(
    history.history,
    "Show what has been moved: when, by whom, from where.",
    "dagbump history",
    "dagbump history --since 2h --dag-id etl",
    "dagbump history --follow --json",
)
_add(
    demo.demo,
    "Show what dagbump does, on an embedded PostgreSQL.",
    "dagbump demo",
)
