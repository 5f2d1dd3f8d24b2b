"""``dagbump demo``."""

from __future__ import annotations

from typing import Annotated

import typer

from dagbump.command_line.exit_codes import exit_codes
from dagbump.errors import DagbumpError


def demo(
    runs: Annotated[int, typer.Option("--runs", min=1, metavar="N", help="Running runs in the fleet.")] = 20,
    tis: Annotated[int, typer.Option("--tis", min=3, metavar="N", help="Task instances of each.")] = 100,
) -> None:
    """Show on an embedded PostgreSQL what Airflow's schedulers do about DAG versions, and what dagbump does.

    Touches no database of yours, and removes what it makes. Needs: pip install 'dagbump[demo]'.
    """
    with exit_codes():
        try:
            from dagbump.demo import run_demo

            run_demo(runs, tis)
        except ImportError as error:
            raise DagbumpError(f"the demo needs its extra: pip install 'dagbump[demo]' ({error})") from None
