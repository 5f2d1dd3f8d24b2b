"""A second revision, made up here: databases get to it and back, and packages of either side work with either."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagbump.installation import installer, shapes, sql_files, state
from sqlalchemy.engine import URL
from support import sql_release
from support.fleet import Fleet, stale_run
from support.processes import CHECKOUT, DAGBUMP, command, running
from support.releases import environments
from support.server import dump_schema, libpq, run_client

pytestmark = [pytest.mark.once, pytest.mark.slow]

NOW_REVISION = state.NEWEST_REVISION
NEXT_REVISION = f"{int(NOW_REVISION) + 1:04}"
SCRIPT = '''
"""Made up."""
from alembic import op
from dagbump.installation import migration_steps

revision = "{next}"
down_revision = "{now}"
branch_labels = None
depends_on = None
breaks_older_packages = {breaks}


def upgrade():
    op.execute("ALTER TABLE IF EXISTS dagbump.installation ADD COLUMN IF NOT EXISTS more text")
    migration_steps.drop_keeping_grants("preview")


def downgrade():
    op.execute("ALTER TABLE dagbump.installation DROP COLUMN more")
    migration_steps.drop_keeping_grants("preview")
'''
# What the made-up revision brings: another bump, a preview with one more column, a table with one more; pieces of the
# sources, and what they become.
CHANGES = {
    "bump": [("\nBEGIN\n", "\nBEGIN\n    -- Made up.\n")],
    "preview": [
        ("RETURNS TABLE (\n", "RETURNS TABLE (\n    more text,\n"),
        (
            "    SELECT\n        run.dag_run_id,\n        run.dag_id,\n        run.run_id,\n        run.dag_v",
            "    SELECT\n        NULL::text, run.dag_run_id, run.dag_id, run.run_id, run.dag_v",
        ),
    ],
    "installation": [("CHECK (one_row)\n);", "CHECK (one_row),\n    more text\n);")],
}
# And a new function.
ADDED = """
CREATE OR REPLACE FUNCTION dagbump.added() RETURNS integer LANGUAGE sql AS 'SELECT 1';
COMMENT ON FUNCTION dagbump.added() IS 'Made up.';
REVOKE ALL ON FUNCTION dagbump.added() FROM PUBLIC;
"""


@dataclass(frozen=True)
class Package:
    """A checkout of dagbump with a made-up next revision."""

    path: Path

    def __call__(self, url: URL, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = command(*DAGBUMP, *words, DAGBUMP_URL=libpq(url), PYTHONPATH=str(self.path / "py_client"))
        assert done.returncode == code, done.stderr
        return done

    def change(self, path: str, *changes: tuple[str, str]) -> None:
        """Replace pieces of a file, each of which stands there once."""
        text = (self.path / path).read_text("utf-8")
        for before, after in changes:
            assert text.count(before) == 1, f"{path} no longer says {before!r} once"
            text = text.replace(before, after)
        (self.path / path).write_text(text, "utf-8")

    def release(self, *, code: int = 0) -> str:
        """Run `make release-sql` in it, and return its standard error."""
        paths = ":".join(str(self.path / directory) for directory in ("py_client", "tests"))
        done = command(sys.executable, "-m", "support.sql_release", PYTHONPATH=paths)
        assert done.returncode == code, done.stderr
        return done.stderr

    def revision_of(self, name: str) -> str:
        """Return the released revision that has brought the newest copy of an object."""
        return max((self.path / "migrations" / "released").glob(f"[0-9]*/{name}.sql")).parent.name

    def released(self, revision: str) -> list[str]:
        directory = self.path / "migrations" / "released" / revision
        return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*.sql"))


FOR_THESE_TABLES = ("--airflow-shape", environments.shape().key)

NOW = Package(CHECKOUT)


def copy(path: Path) -> Package:
    """Make a copy of this package, whose newest revision is released."""
    for directory in ("py_client", "migrations", "sql", "tests/support"):
        shutil.copytree(CHECKOUT / directory, path / directory, ignore=shutil.ignore_patterns("__pycache__"))
    package = Package(path)
    package.release()
    return package


def next_package(path: Path, *, breaks: bool = False, oldest: str = state.OLDEST_REVISION) -> Package:
    """Make the package that brings the next revision."""
    package = copy(path)
    script = SCRIPT.format(next=NEXT_REVISION, now=NOW_REVISION, breaks=breaks)
    (path / "migrations" / "versions" / f"{NEXT_REVISION}_made_up.py").write_text(script, "utf-8")
    for name, changes in CHANGES.items():
        package.change(f"sql/{name}.sql", *changes)
    (path / "sql" / "added.sql").write_text(ADDED, "utf-8")
    package.change(
        "py_client/dagbump/installation/state.py",
        (f'NEWEST_REVISION = "{NOW_REVISION}"', f'NEWEST_REVISION = "{NEXT_REVISION}"'),
        (f'OLDEST_REVISION = "{state.OLDEST_REVISION}"', f'OLDEST_REVISION = "{oldest}"'),
    )
    return package


@pytest.fixture
def next_(tmp_path: Path) -> Package:
    return next_package(tmp_path)


def do(url: URL, statement: str) -> None:
    with psycopg.connect(libpq(url)) as connection:
        connection.execute(statement.encode())


def test_the_package_knows_its_own_newest_revision() -> None:
    script = ScriptDirectory.from_config(Config(str(sql_files.MIGRATIONS / "alembic.ini")))
    head = script.get_revision(installer.NEWEST)
    assert head is not None
    assert head.revision == state.NEWEST_REVISION
    assert state.OLDEST_REVISION <= state.NEWEST_REVISION


class TestWhatIsReleasedNeverChanges:
    def test_a_change_after_the_release_wants_another_revision(self, tmp_path: Path) -> None:
        package = copy(tmp_path)
        sums = (tmp_path / "migrations" / "released" / sql_release.SUMS).read_text("utf-8")
        bump = f"{package.revision_of('bump')}/"
        for name in (f"{bump}bump.sql", f"{bump}tries_inside/bump.sql", f"{sql_release.INDEX_REVISION}/create.sql"):
            assert f"  {name}\n" in sums

        package.change("sql/bump.sql", ("One call does", "A call does"))
        said = package.release(code=1)
        assert f"revision {NOW_REVISION} is released, and has changed; add a revision: " in said
        assert f"{bump}bump.sql" in said or f"{NOW_REVISION}/bump.sql" in said

        (tmp_path / "migrations" / "versions" / f"{NEXT_REVISION}_more.py").touch()
        package.release()
        assert package.released(NEXT_REVISION) == ["bump.sql", "tries_inside/bump.sql"]

        package.change("sql/preview.sql", ("Shows what dagbump.bump would do", "Tells what dagbump.bump would do"))
        said = package.release(code=1)
        assert f"revision {NEXT_REVISION} is released, and has changed; add a revision: " in said
        assert f"{NEXT_REVISION}/preview.sql" in said

    def test_a_copy_that_somebody_has_changed(self, tmp_path: Path) -> None:
        package = copy(tmp_path)
        copied = f"{package.revision_of('bump')}/bump.sql"
        package.change(f"migrations/released/{copied}", ("One call does", "A call does"))
        assert copied in package.release(code=1)


class TestANewShape:
    """An Airflow that is made up, with one column of another name: all that it takes to serve it as well."""

    THERE = """
        ALTER TABLE dag_run RENAME run_after TO runs_after;
        ALTER TABLE task_instance
            ADD IF NOT EXISTS working_set boolean DEFAULT TRUE,
            ADD IF NOT EXISTS region_id uuid DEFAULT '00000000-0000-0000-0000-000000000000',
            ADD IF NOT EXISTS region_index integer DEFAULT -1
    """
    BACK = "ALTER TABLE dag_run RENAME runs_after TO run_after"
    BACK_TO_TRIES_APART = "; ALTER TABLE task_instance DROP working_set, DROP region_id, DROP region_index"

    @pytest.fixture
    def newer(self, tmp_path: Path) -> Package:
        return self.add_shape(copy(tmp_path))

    @staticmethod
    def add_shape(package: Package) -> Package:
        """Add the shape after the release, so that its copies stand beside the released ones."""
        newest = 'Shape("tries_inside", "3.4", ("task_instance", "working_set")),\n'
        made_up = '    Shape("renamed", "9.9", ("dag_run", "runs_after")),\n'
        package.change("py_client/dagbump/installation/shapes.py", (newest, newest + made_up))
        parts = package.path / "sql" / "parts"
        (parts / "renamed").mkdir()
        for part, before, after in (
            ("columns_of_run.sql", "run.run_after", "run.runs_after AS run_after"),
            ("tries_inside/required_columns.sql", '"run_after"', '"runs_after"'),
        ):
            text = (parts / part).read_text("utf-8").replace(before, after)
            (parts / "renamed" / Path(part).name).write_text(text, "utf-8")
        return package

    def test_is_released_served_and_left_again(self, newer: Package, fleet: Fleet, database: URL) -> None:
        before = dump_schema(database)
        stale_run(fleet)
        newer.release()
        copies_of_bump = {"bump.sql", "tries_inside/bump.sql", "renamed/bump.sql"}
        assert copies_of_bump <= {*newer.released(newer.revision_of("bump"))}

        do(database, self.THERE)
        said = newer(database, "preview", code=4).stderr
        assert "they are as in Airflow 9.9" in said
        assert f"functions are for {environments.shape().label}. Run `dagbump upgrade`" in said
        newer(database, "upgrade")
        assert "1 task instance" in newer(database, "bump").stdout
        assert fleet.execute("SELECT airflow_shape FROM dagbump.installation").fetchone() == ("renamed",)
        assert "as in Airflow 9.9" in newer(database, "check").stdout

        do(database, self.BACK + (self.BACK_TO_TRIES_APART if environments.shape() is shapes.FIRST else ""))
        newer(database, "upgrade")
        assert dump_schema(database) == before
        NOW(database, "preview")

    def test_its_copies_are_beside_those_of_each_revision(self, tmp_path: Path) -> None:
        """If the newest revision has not changed an object, the copies of that object are in an earlier revision."""
        package = copy(tmp_path)
        (tmp_path / "migrations" / "versions" / f"{NEXT_REVISION}_more.py").touch()
        package.change("sql/bump.sql", ("One call does", "A call does"))
        package.release()

        self.add_shape(package).release()
        assert package.released(NEXT_REVISION) == ["bump.sql", "renamed/bump.sql", "tries_inside/bump.sql"]
        assert "renamed/preview.sql" in package.released(package.revision_of("preview"))


class TestThereAndBack:
    def test_an_upgraded_database_is_as_a_fresh_one(self, next_: Package, database: URL, airflow_database: URL) -> None:
        next_(database, "upgrade")
        next_(airflow_database, "upgrade")
        assert dump_schema(database) == dump_schema(airflow_database)
        with psycopg.connect(libpq(database)) as connection:
            found = connection.execute("SELECT dagbump.added(), revision FROM dagbump.installation").fetchone()
            assert found == (1, NEXT_REVISION)

    def test_a_downgrade_restores_what_was(self, next_: Package, database: URL) -> None:
        before = dump_schema(database)
        next_(database, "upgrade")
        assert dump_schema(database) != before
        next_(database, "downgrade", NOW_REVISION)
        assert dump_schema(database) == before
        NOW(database, "preview")

    def test_to_base_leaves_no_trace(self, next_: Package, airflow_database: URL) -> None:
        """Also if a role has rights on an object that is dropped on the way."""
        before = dump_schema(airflow_database)
        next_(airflow_database, "upgrade")
        do(airflow_database, "GRANT EXECUTE ON FUNCTION dagbump.preview TO pg_monitor")
        next_(airflow_database, "downgrade")
        assert dump_schema(airflow_database) == before

    def test_grants_survive_also_where_the_answer_has_another_column(self, next_: Package, database: URL) -> None:
        do(database, "CREATE ROLE dagbump_test_grantee")
        try:
            do(
                database,
                "GRANT EXECUTE ON FUNCTION dagbump.bump, dagbump.preview TO dagbump_test_grantee WITH GRANT OPTION",
            )
            before = dump_schema(database)
            assert before.count("dagbump_test_grantee") == 2
            next_(database, "upgrade")
            assert dump_schema(database).count("dagbump_test_grantee") == 2
            next_(database, "downgrade", NOW_REVISION)
            assert dump_schema(database) == before
        finally:
            do(database, "DROP OWNED BY dagbump_test_grantee; DROP ROLE dagbump_test_grantee")

    def test_the_printed_scripts_do_the_same(self, next_: Package, database: URL, airflow_database: URL) -> None:
        before = dump_schema(database)
        next_(airflow_database, "upgrade")
        script = next_(database, "upgrade", "--sql", f"{NOW_REVISION}:{NEXT_REVISION}", *FOR_THESE_TABLES).stdout
        run_client("psql", database, "--no-psqlrc", "--set=ON_ERROR_STOP=1", stdin=script)
        assert dump_schema(database) == dump_schema(airflow_database)
        script = next_(database, "downgrade", "--sql", f"{NEXT_REVISION}:{NOW_REVISION}", *FOR_THESE_TABLES).stdout
        run_client("psql", database, "--no-psqlrc", "--set=ON_ERROR_STOP=1", stdin=script)
        assert dump_schema(database) == before


class TestEitherSideFirst:
    """Package and database may be upgraded in either order, days apart."""

    def test_this_package_works_with_a_later_revision(self, next_: Package, database: URL) -> None:
        next_(database, "upgrade")
        for words in (["preview"], ["bump"]):
            NOW(database, *words)

    def test_a_loop_of_this_package_goes_on_through_an_upgrade_and_back(
        self, next_: Package, fleet: Fleet, database: URL
    ) -> None:
        with running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=libpq(database)) as loop:
            for times, words in enumerate([(), ("upgrade",), ("downgrade", NOW_REVISION)], start=1):
                if words:
                    next_(database, *words)
                stale_run(fleet, f"dag_{times}")
                loop.until_printed("bumped 1", times=times)

    def test_this_package_does_not_downgrade_a_later_revision(self, next_: Package, database: URL) -> None:
        next_(database, "upgrade")
        before = dump_schema(database)
        for words in (["upgrade"], ["downgrade"]):
            assert "a newer dagbump is installed" in NOW(database, *words, code=4).stderr
        assert dump_schema(database) == before

    def test_a_later_package_works_with_this_revision(self, next_: Package, database: URL) -> None:
        for words in (["preview"], ["bump"]):
            next_(database, *words)

    def test_a_revision_that_breaks_older_packages_says_so(self, tmp_path: Path, database: URL) -> None:
        breaking = next_package(tmp_path, breaks=True)
        breaking(database, "upgrade")
        for words in (["preview"], ["bump"], ["run"]):
            told = NOW(database, *words, code=4).stderr
            assert "which breaks this package: upgrade the package, pip install 'dagbump>=" in told
        breaking(database, "preview")

    def test_a_package_that_needs_a_later_revision_says_so(self, tmp_path: Path, database: URL) -> None:
        demanding = next_package(tmp_path, oldest=NEXT_REVISION)
        for words in (["preview"], ["bump"], ["run"]):
            assert (
                f"works with {NEXT_REVISION} and later: run `dagbump upgrade`"
                in demanding(database, *words, code=4).stderr
            )
        demanding(database, "upgrade")
        demanding(database, "preview")
