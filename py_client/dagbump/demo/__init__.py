"""``dagbump demo``: what Airflow's schedulers and dagbump do about DAG versions, on an embedded PostgreSQL.

Needs the extra: ``pip install 'dagbump[demo]'``. Leaves nothing behind, however it ends.
"""

from __future__ import annotations

import time
from functools import partial

import sqlalchemy as sa

from dagbump import database
from dagbump.client import bump
from dagbump.demo import fleet, lost_task
from dagbump.demo.loops import Loops
from dagbump.demo.measuring import LOOPS, Figures, measure
from dagbump.demo.story import Advance, Story
from dagbump.embedded_postgres import EmbeddedPostgres, embedded_postgres
from dagbump.errors import DagbumpError
from dagbump.installation import installer

_TEMPLATE = "airflow"
_STEPS = 3 + 3 * LOOPS


def run_demo(runs: int, tis: int) -> None:
    """Play the demo and print it.

    Args:
        runs: running DAG runs in the fleet.
        tis: task instances (TIs) of each; at least 3.

    Raises:
        ImportError: the extra is not installed.
        DagbumpError: the server did not start, or dagbump did something else than the demo says.
    """
    start = time.monotonic()
    story = Story()
    with story.progress(_STEPS) as advance:
        advance("Starting an embedded PostgreSQL")
        with embedded_postgres() as postgres:
            _play(postgres, story, advance, runs, tis)
    story.ending(time.monotonic() - start)


def _play(postgres: EmbeddedPostgres, story: Story, advance: Advance, runs: int, tis: int) -> None:
    """Tell both parts. Each way to do the loop has a copy of the same database to itself."""
    advance("Making Airflow's tables and a fleet of runs")
    template = postgres.create_database(_TEMPLATE)
    census = _make_fleet(template, runs, tis)
    installer.upgrade(database.create_engine(template.url.render_as_string(hide_password=False)))
    story.opening(postgres.release(), runs, tis, census)

    loops = Loops(template)
    figures = []
    for name, loop, left_behind in (
        ("Airflow 3.0/3.1", loops.loading_every_ti, 0),
        ("Airflow 3.2/3.3", loops.updating_in_bulk, census.stateless),
        ("dagbump", loops.calling_dagbump, 0),
    ):
        engine = postgres.create_database(name, _TEMPLATE)
        advance_here = partial(advance, f"Measuring loops: {name}")
        figures.append(measure(engine, loop, tis, left_behind, advance_here))
        _bump_what_is_left(engine, figures[-1])
    story.loops(figures)

    advance("Losing a task")
    engine = postgres.create_database("lost task", _TEMPLATE)
    story.lost_task(lost_task.play(engine, loops.updating_in_bulk, runs, tis), runs)


def _make_fleet(engine: sa.engine.Engine, runs: int, tis: int) -> fleet.Census:
    with engine.begin() as connection:
        fleet.build(connection, runs, tis)
        # Autovacuum would do this within a minute. Without statistics, the ORM's queries could have poor plans.
        connection.execute(sa.text("ANALYZE"))
        return fleet.take_census(connection)


def _bump_what_is_left(engine: sa.engine.Engine, figures: Figures) -> None:
    """Call the safe form, as a person does beside a stock scheduler."""
    with engine.begin() as connection:
        bumped = bump(connection).bumped
        stale = fleet.take_census(connection).stale
    if (bumped, stale) != (figures.left_behind, 0):
        raise DagbumpError(f"the demo failed: {bumped} of {figures.left_behind} TIs were bumped, {stale} are stale.")
