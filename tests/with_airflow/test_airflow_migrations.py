"""Airflow's own `db` commands with dagbump and its index inside, beside a database without: `make test-migrations`.

From the oldest release to the newest and back, each step by the release that would do it. After each, both databases
hold the same, but for what is dagbump's, and dagbump works, or says that it does not. A chain takes minutes: the
commands run in both databases at once, and the tests look at what came of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagbump
import psycopg
import pytest
from sqlalchemy.engine import URL
from support.catalogs import row_counts, things
from support.fleet import Fleet
from support.processes import DAGBUMP, command
from support.releases import environments
from support.server import Server, dump_schema, libpq

pytestmark = [pytest.mark.once, pytest.mark.migrations]

WAY = environments.SUPPORTED
# Releases whose tables have another shape than the release before. The functions of one shape fail on the other.
SHAPE_CHANGES = "3.4.0b2"

INDEX = "dagbump_ti_unfinished"


@dataclass(frozen=True)
class Database:
    """A database of Airflow's."""

    url: URL
    home: Path
    has_dagbump: bool

    def airflow_db(self, release: str, *words: str) -> None:
        environments.airflow(release, self.url, self.home, "db", *words)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(libpq(self.url)) as connection:
            return connection.execute(statement.encode()).fetchall()

    def tables(self) -> dict[str, set[str]]:
        """Return what is in Airflow's schema, without the index."""
        with psycopg.connect(libpq(self.url)) as connection:
            return {table: {thing for thing in its if INDEX not in thing} for table, its in things(connection).items()}

    def rows(self) -> dict[str, int]:
        with psycopg.connect(libpq(self.url)) as connection:
            return row_counts(connection)

    def what_the_index_is_by(self) -> str | None:
        if not self.has_valid_index():
            return None
        ((definition,),) = self.query(f"SELECT pg_get_indexdef('public.{INDEX}'::regclass)")
        return "working_set" if "working_set" in definition else ""

    def has_valid_index(self) -> bool:
        statement = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('public.{INDEX}')"
        return self.query(statement) == [(True,)]


@dataclass(frozen=True)
class Pair:
    """Two databases that Airflow treats alike: one with dagbump, one without."""

    ours: Database
    theirs: Database

    def airflow_db(self, release: str, *words: str) -> None:
        """Run the command in both at once."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda one: one.airflow_db(release, *words), (self.ours, self.theirs)))

    def copy(self, postgres: Server, name: str, home: Path) -> Pair:
        return Pair(*(_copy(one, postgres, name, home) for one in (self.ours, self.theirs)))


def _copy(one: Database, postgres: Server, name: str, home: Path) -> Database:
    name = f"{name}_{'ours' if one.has_dagbump else 'theirs'}"
    postgres.drop_database(name)
    assert one.url.database is not None
    return Database(postgres.create_database(name, one.url.database), home / name, one.has_dagbump)


@dataclass(frozen=True)
class Stage:
    """The state after a command of Airflow's.

    Attributes:
        as_before: the answer of a bump before `dagbump upgrade`.
        check: the exit code of `dagbump check` then, and what it says.
        upgrade: the exit code of `dagbump upgrade`, and what it says.
        upgraded: the answer of a bump after it.
        fitting_index: the column of Airflow's by which the valid index leaves out past tries.
    """

    ours: dict[str, set[str]]
    theirs: dict[str, set[str]]
    our_rows: dict[str, int]
    their_rows: dict[str, int]
    index_survived: bool
    as_before: str
    check: int
    checked: str
    upgrade: tuple[int, str]
    upgraded: str
    fitting_index: str | None


def look(pair: Pair, *words: str) -> Stage:
    """Look, and upgrade dagbump with these words."""
    index_survived = pair.ours.has_valid_index()
    as_before = bump_one(pair.ours)
    checked = command(*DAGBUMP, "check", DAGBUMP_URL=libpq(pair.ours.url))
    done = command(*DAGBUMP, "upgrade", *words, DAGBUMP_URL=libpq(pair.ours.url))
    upgraded = bump_one(pair.ours)
    return Stage(
        pair.ours.tables(),
        pair.theirs.tables(),
        pair.ours.rows(),
        pair.theirs.rows(),
        index_survived,
        as_before,
        checked.returncode,
        " ".join(checked.stdout.split()),
        (done.returncode, done.stderr),
        upgraded,
        pair.ours.what_the_index_is_by(),
    )


def bump_one(ours: Database) -> str:
    """Put a TI onto an older version, bump, and return the result."""
    with psycopg.connect(libpq(ours.url), autocommit=True) as connection:
        connection.execute(
            "UPDATE task_instance SET dag_version_id = version.id FROM dag_version AS version "
            "WHERE task_id = 'stale' AND version.dag_id = 'd' AND version.version_number = 1"
        )
        moved = 0
        try:
            moved = dagbump.bump(connection).bumped
            said = f"{moved} moved"
        except dagbump.DagbumpError as error:
            said = type(error).__name__
        ((number,),) = connection.execute(
            "SELECT version_number FROM task_instance JOIN dag_version ON dag_version.id = dag_version_id "
            "WHERE task_id = 'stale'"
        ).fetchall()
    assert number == 1 + moved
    return said


def fill(url: URL) -> None:
    """Make rows that migrations move and `db clean` removes: versions, runs, past tries."""
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        fleet = Fleet(connection)
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.past_try(fleet.ti(run, new, "running", task_id="tried", try_number=1), old, try_number=0)
        fleet.ti(run, old, task_id="stale")
        fleet.ti(run, new, "scheduled", task_id="mapped", map_index=0)
        first, *_ = fleet.dag("old", versions=3)
        long_ago = {"start_date": "2020-01-01T00:00:00Z", "end_date": "2020-01-02T00:00:00Z"}
        for number in range(3):
            ended = fleet.run("old", state="success", logical_date=f"2020-01-0{number + 1}T00:00:00Z", **long_ago)
            fleet.ti(ended, first, "success", **long_ago)
        connection.execute("UPDATE dag_version SET created_at = '2020-01-01T00:00:00Z' WHERE dag_id = 'old'")


@dataclass(frozen=True)
class Chain:
    """The stages by the commands that led to them, and copies of both databases on some releases."""

    stages: dict[str, Stage]
    copies: dict[str, Pair]


@pytest.fixture(scope="module")
def chain(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("chain")
    postgres.drop_database("chain_theirs")
    theirs = Database(postgres.create_database("chain_theirs"), home / "theirs", has_dagbump=False)
    theirs.airflow_db(WAY[0], "migrate")
    fill(theirs.url)
    postgres.drop_database("chain_ours")
    ours = Database(postgres.create_database("chain_ours", "chain_theirs"), home / "ours", has_dagbump=True)
    pair = Pair(ours, theirs)
    stages = {f"made by {WAY[0]}": look(pair, "--with-index")}
    copies = {}
    for release in WAY[1:]:
        pair.airflow_db(release, "migrate")
        stages[f"migrated to {release}"] = look(pair)
        if release in CLEANED:
            copies[release] = pair.copy(postgres, f"chain_{release.replace('.', '_')}", home)
    for release, newer in reversed(list(pairwise(WAY))):
        pair.airflow_db(newer, "downgrade", "--to-version", release, "--yes")
        stages[f"back to {release}"] = look(pair)
    yield Chain(stages, copies)
    for one in (pair, *copies.values()):
        for database in (one.ours, one.theirs):
            postgres.drop_database(str(database.url.database))


CLEANED = ("3.3.2", "3.4.0b2")
UP = [f"made by {WAY[0]}", *(f"migrated to {release}" for release in WAY[1:])]
DOWN = [f"back to {release}" for release in reversed(WAY[:-1])]
SHAPE_HAS_CHANGED = (f"migrated to {SHAPE_CHANGES}", DOWN[0])


@pytest.mark.parametrize("name", [*UP, *DOWN])
def test_airflows_schema_is_what_it_is_without_dagbump(chain: Chain, name: str) -> None:
    stage = chain.stages[name]
    assert stage.ours == stage.theirs
    assert stage.our_rows == stage.their_rows


@pytest.mark.parametrize("name", [*UP, *DOWN])
def test_a_bump_moves_what_it_should_or_fails_closed(chain: Chain, name: str) -> None:
    """If the shape of the tables has changed, it fails until dagbump is upgraded too."""
    stage = chain.stages[name]
    changed = name in SHAPE_HAS_CHANGED
    assert stage.as_before == ("NotInstalled" if name == UP[0] else "UnsupportedAirflow" if changed else "1 moved")
    assert stage.check == (4 if changed or name == UP[0] else 0)
    assert ("Airflow's tables have changed since dagbump was installed" in stage.checked) == changed
    assert stage.upgrade[0] == 0, stage.upgrade[1]
    assert stage.upgraded == "1 moved"


@pytest.mark.parametrize("name", [*UP[1:], *DOWN])
def test_the_index_stays_or_is_built_anew(chain: Chain, name: str) -> None:
    """On the way back, it goes with the column that it leaves past tries aside by."""
    assert chain.stages[name].index_survived == (name != DOWN[0])
    assert chain.stages[name].fitting_index == ("working_set" if name.endswith(SHAPE_CHANGES) else "")


@pytest.mark.parametrize("release", CLEANED)
class TestOtherCommands:
    def test_check_migrations(self, chain: Chain, release: str) -> None:
        chain.copies[release].airflow_db(release, "check-migrations", "--migration-wait-timeout", "0")

    @pytest.mark.parametrize("words", [(), ("--tables", "dag_version")], ids=["all tables", "dag_version"])
    def test_clean(self, chain: Chain, postgres: Server, tmp_path: Path, release: str, words: tuple[str, ...]) -> None:
        pair = chain.copies[release].copy(postgres, "cleaned", tmp_path)
        before = pair.theirs.rows()
        pair.airflow_db(release, "clean", "--clean-before-timestamp", "2021-01-01T00:00:00Z", "--yes", *words)
        assert pair.ours.tables() == pair.theirs.tables()
        assert pair.ours.rows() == pair.theirs.rows()
        assert {table: number for table, number in pair.theirs.rows().items() if number < before.get(table, 0)}
        for one in (pair.ours, pair.theirs):
            postgres.drop_database(str(one.url.database))

    def test_reset_keeps_dagbump_and_an_upgrade_builds_the_index_again(
        self, chain: Chain, postgres: Server, tmp_path: Path, release: str
    ) -> None:
        pair = chain.copies[release].copy(postgres, "reset", tmp_path)
        before = dagbumps(pair.ours)
        pair.airflow_db(release, "reset", "--yes")
        assert pair.ours.tables() == pair.theirs.tables()
        assert pair.ours.rows() == pair.theirs.rows()
        assert dagbumps(pair.ours) == before
        assert not pair.ours.has_valid_index()

        done = command(*DAGBUMP, "upgrade", "--with-index", DAGBUMP_URL=libpq(pair.ours.url))
        assert done.returncode == 0, done.stderr
        assert pair.ours.has_valid_index()
        fill(pair.ours.url)
        assert bump_one(pair.ours) == "1 moved"
        for one in (pair.ours, pair.theirs):
            postgres.drop_database(str(one.url.database))


def dagbumps(database: Database) -> dict[str, set[str]]:
    with psycopg.connect(libpq(database.url)) as connection:
        return things(connection, "dagbump")


def test_airflow_2_is_refused_with_nothing_written(postgres: Server, tmp_path: Path) -> None:
    with postgres.temporary_database() as url:
        environments.migrate(environments.AIRFLOW_2, url, tmp_path)
        before = dump_schema(url)
        done = command(*DAGBUMP, "upgrade", DAGBUMP_URL=libpq(url))
        assert done.returncode == 4
        assert "are those of Airflow 2: they have no dag_version_id" in done.stderr
        assert dump_schema(url) == before
