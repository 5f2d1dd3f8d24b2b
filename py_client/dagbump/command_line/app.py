"""Which commands there are."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from dagbump import __version__
from dagbump.command_line import bump, demo, install, run
from dagbump.command_line.output import printing
from dagbump.errors import ExitCode

_EXIT_CODES = ", ".join(f"{code:d} {code.name.lower().replace('_', ' ')}" for code in ExitCode)

app = typer.Typer(
    name="dagbump",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"""Keeps task_instance.dag_version_id right inside Airflow's PostgreSQL database.

    First time on a database: [bold]dagbump upgrade[/], then [bold]dagbump preview[/], then [bold]dagbump bump[/].

    Exit codes: {_EXIT_CODES}.
    """,
    rich_markup_mode="rich",
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


for command in (install.upgrade, install.downgrade, bump.preview, bump.bump, run.run, demo.demo):
    app.command()(command)
