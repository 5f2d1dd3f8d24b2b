"""What the demo prints: paragraphs and tables for a terminal, plain text for a pipe."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill

from rich.box import Box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from dagbump.demo.fleet import NEW_TASK, Census
from dagbump.demo.measuring import Figures
from dagbump.results import RunPreview

_MAX_WIDTH = 100  # longer lines are hard to read

# A line of hyphens below the header and nothing else, in a terminal as in a pipe.
_LINE_BELOW_HEADER = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)

Advance = Callable[[str], None]


class Story:
    """Prints the demo, section by section."""

    def __init__(self) -> None:
        """Print to standard output, to the width of the terminal within reason."""
        self._console = Console(width=min(Console().width, _MAX_WIDTH), highlight=False)

    @contextmanager
    def progress(self, steps: int) -> Iterator[Advance]:
        """Show on a terminal how far the demo is, and lend what says which step begins; a pipe gets nothing of it.

        It is drawn at each step only: a thread that draws would disturb what is measured.
        """
        columns = (BarColumn(20), TextColumn("{task.description}"))
        no_terminal = not self._console.is_terminal
        with Progress(*columns, console=self._console, auto_refresh=False, transient=True, disable=no_terminal) as bar:
            task = bar.add_task("", total=steps, completed=-1)
            yield lambda step: bar.update(task, advance=1, description=step, refresh=True)

    def opening(self, postgres: str, runs: int, tis: int, census: Census) -> None:
        """Say what the demo stands on."""
        self._heading("What one loop of a scheduler does about DAG versions")
        self._say(
            f"PostgreSQL {postgres}, tables of Airflow 3.3.2; {runs} running runs with {tis} task instances (TIs) "
            f"each. {census.stateless:,} of {census.unfinished:,} unfinished TIs have no state yet. Airflow's loops "
            "are its queries, re-created with SQLAlchemy."
        )

    def loops(self, figures: Sequence[Figures]) -> None:
        """Print what the loop does and costs in the three ways."""
        self._print_table(_loops_table(figures))
        left = f"{figures[1].left_behind:,}"
        self._say("3.0/3.1 load every TI in every loop, once a second, changed or not.")
        self._say(
            "3.2/3.3 send one UPDATE per run, WHERE state IN (NULL, 'scheduled', ...), which never matches a NULL. "
            f"{left} TIs stay behind for good: the next loop finds the new version on other TIs of their run, and does "
            "nothing. They run the new code, but Airflow shows and records the old version."
        )
        self._say(f"dagbump moves all in one statement. After 3.2/3.3's loop, one `dagbump bump` moved the {left}.")

    def lost_task(self, found: RunPreview, runs: int) -> None:
        """Print how a task was lost, and found."""
        self._heading("A task that would never have run")
        self._say(
            f"A version adds the task {NEW_TASK}. Before the next loop, somebody clears another task of one run on the "
            f"latest version. Airflow, up to 3.3, then takes that run for verified. It created {NEW_TASK} in "
            f"{runs - 1} of {runs} runs, and never will in the last one. `dagbump preview` finds it:"
        )
        table = _table("dag_id", "run_id", "verdict", "missing_tasks")
        table.add_row(found.dag_id, found.run_id, found.verdict, ", ".join(found.missing_tasks or ()))
        self._print_table(table)
        self._say("With the plugin on, the scheduler finds it within a minute, and creates it.")

    def ending(self, seconds: float) -> None:
        """Say what to do next: commands that work as they stand, once the address is right."""
        self._heading("On a database of your own (put its address into the first line)")
        program = _program()
        self._console.print("  export DAGBUMP_URL=postgresql://airflow:airflow@127.0.0.1/airflow", soft_wrap=True)
        for command in ("upgrade", "preview", "bump"):
            self._console.print(f"  {program} {command}", soft_wrap=True, markup=False)
        self._console.print()
        self._say(
            f"The demo took {seconds:.0f} s. Its PostgreSQL is stopped, and its directory removed. "
            "How it was measured: docs/demo.md in the repository."
        )

    def _heading(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/]\n")

    def _say(self, text: str) -> None:
        """Print a paragraph; rich would leave blanks at the ends of lines."""
        self._console.print(fill(text, self._console.width), soft_wrap=True, markup=False)

    def _print_table(self, table: Table) -> None:
        self._console.print("", table, "", sep="\n")


def _loops_table(figures: Sequence[Figures]) -> Table:
    table = _table("")
    for name in ("Airflow 3.0/3.1", "Airflow 3.2/3.3", "dagbump"):
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, value: Callable[[Figures], str]) -> None:
        table.add_row(f"  {name}", *map(value, figures))

    table.add_row("[bold]Nothing has changed[/]")
    add("milliseconds", lambda way: f"{way.steady.milliseconds:,.1f}")
    add("statements", lambda way: f"{way.steady.statements:,}")
    add("TIs loaded into Python", lambda way: f"{way.loaded:,}")
    add("memory that Python holds, KiB", lambda way: f"{way.steady.kept / 1024:,.0f}")
    table.add_row("[bold]A new version has landed[/]")
    add("milliseconds", lambda way: f"{way.landed.milliseconds:,.1f}")
    add("statements", lambda way: f"{way.landed.statements:,}")
    add("unfinished TIs moved to it", lambda way: f"{way.moved:,}")
    add("unfinished TIs left behind", lambda way: f"[red]{way.left_behind:,}[/]" if way.left_behind else "0")
    return table


def _table(*names: str) -> Table:
    table = Table(box=_LINE_BELOW_HEADER, header_style="bold", show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name)
    return table


def _program() -> str:
    """Return the words with which a shell calls dagbump in this directory."""
    called = Path(sys.argv[0]).absolute()
    if called.stem != "dagbump":  # python -m dagbump
        return f"{shlex.quote(_from_here(Path(sys.executable)))} -m dagbump"
    found = shutil.which("dagbump")
    if found and Path(found).absolute() == called:
        return "dagbump"
    return shlex.quote(_from_here(called))


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
