"""The list of the commands, with their summaries and examples."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from dagbump import __version__
from dagbump.command_line import bump, check, demo, history, holders, install, repair, run, versions
from dagbump.command_line.output import printing
from dagbump.commit import commit
from dagbump.errors import ExitCode

_EXIT_CODES = ", ".join(f"{code:d} {code.name.lower().replace('_', ' ')}" for code in ExitCode)

app = typer.Typer(
    name="dagbump",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"""Keeps task_instance.dag_version_id correct inside Airflow's PostgreSQL database.

    First time on a database: run dagbump check, then dagbump upgrade, dagbump preview and dagbump bump.

    Exit codes: {_EXIT_CODES}.
    """,
    rich_markup_mode=None,  # plain help is wrapped correctly in any terminal and in a pipe
)


def _print_version(asked: bool) -> None:
    if asked:
        made_from = commit()
        with printing():
            print(f"dagbump {__version__}{f' ({made_from})' if made_from else ''}")
        raise typer.Exit


@app.callback()
def before_every_command(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the release and the commit, and exit."
        ),
    ] = False,
) -> None:
    """Print an escape for a character that the terminal's encoding lacks, so that printing does not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in {"strict", "surrogateescape"}:
            stream.reconfigure(errors="backslashreplace")


def _add(command: Callable[..., None], summary: str, *examples: str) -> None:
    lines = "\n".join(f"  {example}" for example in examples)
    app.command(short_help=summary, epilog=f"\b\nExamples:\n{lines}")(command)


_add(
    install.upgrade,
    "Install dagbump in the database, or repair the installation.",
    "dagbump upgrade",
    "dagbump upgrade --with-index     with the optional index",
    "dagbump upgrade --sql > up.sql   to review the script first",
)
_add(
    install.downgrade,
    "Remove dagbump from the database.",
    "dagbump downgrade                everything; asks first on a terminal",
    "dagbump downgrade index@base     only the optional index",
    "dagbump downgrade --sql          to review the script first",
)
_add(
    check.check,
    "Check all that dagbump relies on, and say what to do.",
    "dagbump check",
    "dagbump check --json | jq '.[] | select(.ok | not)'",
)
_add(
    bump.preview,
    "Show the stale task instances and what bump would do.",
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
    "Move all task instances that may be moved, in small transactions.",
    "dagbump repair --dry-run",
    "dagbump repair                   asks first, and shows its progress",
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
    "Show who has locked the task instances that bump leaves alone.",
    "dagbump holders",
    "dagbump holders --dag-run-id 17 --json   a row per task instance",
)
_add(
    versions.versions,
    "Show how many versions each DAG has, and what keeps old ones.",
    "dagbump versions",
    "dagbump versions --dag-id etl --wide",
)
_add(
    history.history,
    "Show what was moved: when, by whom, from which versions.",
    "dagbump history",
    "dagbump history --since 2h --dag-id etl",
    "dagbump history --follow --json",
)
_add(
    demo.demo,
    "Show what dagbump does, on an embedded PostgreSQL.",
    "dagbump demo",
)
