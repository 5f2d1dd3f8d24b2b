"""What the demo prints: paragraphs and tables for a terminal, plain text for a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import fill

from rich.box import Box
from rich.console import Console
from rich.status import Status
from rich.table import Table

from dagbump.demo.comparison import PASSES, Figures
from dagbump.demo.fleet import DAG_IDS, NEW_TASK, Census
from dagbump.demo.story import Loop

_MAX_WIDTH = 100  # longer lines are hard to read

# A line of hyphens below the header and nothing else, in a terminal as in a pipe.
_LINE_BELOW_HEADER = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)

_NEXT_STEPS = """\
  export DAGBUMP_URL=postgresql://airflow@db.example.com/airflow    # or --url
  dagbump upgrade   # installs schema dagbump; leaves Airflow's tables alone
  dagbump preview   # what a bump would do, and would not, and why; reads only
  dagbump bump      # once, in the safe form
  dagbump run       # the same every second, beside a stock scheduler
"""


class Report:
    """Prints the demo, section by section."""

    def __init__(self) -> None:
        """Print to standard output, to the width of the terminal within reason."""
        self._console = Console(width=min(Console().width, _MAX_WIDTH), highlight=False)

    def status(self, text: str) -> Status:
        """Show on a terminal, while the context lasts, what is being done; a pipe gets nothing of it."""
        return self._console.status(text)

    def opening(self, server: str, runs: int, tis: int, census: Census, upgrade_milliseconds: float) -> None:
        """Say what the demo stands on."""
        self._heading("dagbump demo")
        self._text(
            "Each of Airflow's task instances (TIs) refers to the DAG version that it will run with. When a newer one "
            "lands, the unfinished TIs of running runs have to be moved to it: dagbump does that inside the database."
        )
        self._text(
            f"Fleet: {runs} running runs of {len(DAG_IDS[:runs])} DAGs with {tis} TIs each, all on version 1: "
            f"{census.unfinished:,} unfinished, {census.stateless:,} of them with state NULL, and {census.finished:,} "
            "finished. Two more runs are to be left alone: one is pinned to a bundle version, and the DAG of the other "
            "is paused."
        )
        self._text(
            f"{server}. Tables as `airflow db migrate` of Airflow 3.3.2 makes them, those that matter here; "
            f"ANALYZE once. dagbump upgrade took {upgrade_milliseconds:.0f} ms."
        )

    def story(self, timed: Sequence[Loop], traced: Sequence[Loop], census: Census) -> None:
        """Print the loops, and what is in the database after them."""
        self._heading("Loops: each is one call of dagbump.bump")
        self._console.print(_story_table(timed, traced))
        self._console.print()
        created = sum(loop.created for loop in timed)
        held = sum(loop.result.locked for loop in timed)
        self._text(
            "Verify: runs for which Airflow's verify_integrity is due. The demo plays the scheduler: in the "
            f"transaction of the call it creates the TIs that these runs lack, {created:,} of the new task {NEW_TASK}."
        )
        self._text(
            "Safe form: for people, cron jobs and `dagbump run`. It leaves a run to the scheduler until that has "
            "verified it."
        )
        self._text(
            f"Locked: on a second connection the API server has written heartbeats of {held:,} TIs, and not committed. "
            "The call does not wait for them; the one after the COMMIT moves them."
        )
        self._text(
            "ms: the call alone, before COMMIT; in the first call on a connection, loop 1, PostgreSQL plans the "
            "functions. Statements: sent by Python. Memory: Python's, after the call and at most during it, by "
            "tracemalloc; that slows Python down, so the story is played twice, in two copies of the database: once "
            "for the time, once for the rest."
        )
        self._text(
            f"Checked in the database, by other queries than dagbump's: none of the {census.unfinished + created:,} "
            f"unfinished TIs is stale; all {census.finished:,} finished ones are still on version 1, and so are the "
            f"{census.left_alone:,} unfinished ones of the pinned and the paused run."
        )

    def comparison(self, situations: Iterable[tuple[Figures, Figures]]) -> None:
        """Print what a loop costs with dagbump and the ORM: where nothing has changed, and a version has landed."""
        self._heading("The same work by loading every TI through the ORM")
        self._console.print(_comparison_table([figures for both in situations for figures in both]))
        self._console.print()
        self._text(
            "ORM: what the scheduler of Airflow 3.0 and 3.1 does, re-created with models that SQLAlchemy reflects from "
            "these tables; not Airflow itself. One query loads the runs to examine with all their TIs (the pinned "
            "run's too), then two per run ask for the latest version and whether a TI has it; where none has, Python "
            "walks the TIs. An executemany counts as one statement: the UPDATE is one, of a row per TI."
        )
        self._text(
            "dagbump: the same query for the runs, without their TIs, and one call of dagbump.bump. On both sides "
            "verify_integrity would follow where it is due; it is not measured."
        )
        self._text(
            "On this machine and the PostgreSQL above, each side in its own copy of the database, on a warm "
            "connection. Memory: Python's, at the end of the loop and at most during it, from a pass of its own; "
            "libpq's comes on top."
        )

    def ending(self, seconds: float) -> None:
        """Say what to do next."""
        self._heading("On a real database")
        self._console.print(_NEXT_STEPS, soft_wrap=True)
        self._text(f"The demo took {seconds:.1f} s. Its PostgreSQL is stopped, its directory removed.")

    def _heading(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/]\n")

    def _text(self, text: str) -> None:
        """Print a paragraph, and an empty line; rich would leave blanks at the ends of lines."""
        self._console.print(fill(text, self._console.width), end="\n\n", soft_wrap=True)


def _story_table(timed: Sequence[Loop], traced: Sequence[Loop]) -> Table:
    table = _table("", "What happens")
    for name in ("Bumped", "Locked", "Verify", "ms", "State-\nments", "Memory, KiB\nkept / peak"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, (loop, again) in enumerate(zip(timed, traced, strict=True), start=1):
        table.add_row(
            str(number),
            loop.title,
            f"{loop.result.bumped:,}",
            f"{loop.result.locked:,}",
            f"{len(loop.result.needs_verify):,}",
            f"{loop.cost.milliseconds:.1f}",
            f"{loop.cost.statements:,}",
            f"{_kib(again.cost.kept)} / {_kib(again.cost.peak)}",
        )
    return table


def _comparison_table(columns: Sequence[Figures]) -> Table:
    table = _table("One loop, BEGIN to COMMIT")
    for situation in ("No change", "New version"):
        for side in ("dagbump", "ORM"):
            table.add_column(f"{situation}\n{side}", justify="right", no_wrap=True)
    table.add_row(f"ms, median of {PASSES}", *(f"{column.cost.milliseconds:.1f}" for column in columns))
    table.add_row("Statements", *(f"{column.cost.statements:,}" for column in columns))
    table.add_row("TIs loaded into Python", *(f"{column.loaded:,}" for column in columns))
    table.add_row("TIs bumped", *(f"{column.bumped:,}" for column in columns))
    table.add_row("Memory kept, KiB", *(_kib(column.cost.kept) for column in columns))
    table.add_row("Memory peak, KiB", *(_kib(column.cost.peak) for column in columns))
    return table


def _table(*names: str) -> Table:
    table = Table(box=_LINE_BELOW_HEADER, header_style="bold", show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name)
    return table


def _kib(number_of_bytes: int) -> str:
    return f"{number_of_bytes / 1024:,.0f}"
