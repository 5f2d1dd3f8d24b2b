"""A second revision, made up here: databases get to it and back, and packages of either side work with either."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import freeze
import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagbump.installation import installer, sql_files, state
from sqlalchemy.engine import URL
from support.processes import CHECKOUT, DAGBUMP, command
from support.releases import environments
from support.server import dump_schema, libpq, run_client

pytestmark = pytest.mark.once

NOW_REVISION = state.NEWEST_REVISION
NEXT_REVISION = f"{int(NOW_REVISION) + 1:04}"
SCRIPT = '''
"""Made up."""
from alembic import op
from dagbump.installation import in_migration

revision = "{next}"
down_revision = "{now}"
branch_labels = None
depends_on = None
breaks_older_packages = {breaks}


def upgrade():
    op.execute("ALTER TABLE IF EXISTS dagbump.installation ADD COLUMN IF NOT EXISTS more text")
    in_migration.drop_keeping_grants("preview")


def downgrade():
    op.execute("ALTER TABLE dagbump.installation DROP COLUMN more")
    in_migration.drop_keeping_grants("preview")
'''
# What the made-up revision brings: another bump, a preview with one more column, a table with one more; pieces of the
# sources, and what they become.
CHANGES = {
    "bump": [("\nBEGIN\n", "\nBEGIN\n    -- Made up.\n")],
    "preview": [
        ("    vanished_tasks text[]\n", "    vanished_tasks text[],\n    more text\n"),
        ("        run.vanished_tasks\n    FROM", "        run.vanished_tasks,\n        NULL::text\n    FROM"),
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
    """A checkout of dagbump as it may be one day."""

    path: Path

    def __call__(self, url: URL, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = command(*DAGBUMP, *words, DAGBUMP_URL=libpq(url), PYTHONPATH=str(self.path / "py_client"))
        assert done.returncode == code, done.stderr
        return done


FOR_THESE_TABLES = ("--airflow-shape", environments.shape())

NOW = Package(CHECKOUT)


def next_package(path: Path, *, breaks: bool = False, oldest: str = state.OLDEST_REVISION) -> Package:
    """Make the package that brings the second revision."""
    for directory in ("py_client", "migrations"):
        shutil.copytree(CHECKOUT / directory, path / directory, ignore=shutil.ignore_patterns("__pycache__"))
    script = SCRIPT.format(next=NEXT_REVISION, now=NOW_REVISION, breaks=breaks)
    (path / "migrations" / "versions" / f"{NEXT_REVISION}_made_up.py").write_text(script, "utf-8")
    brought = path / "migrations" / "released" / NEXT_REVISION
    for (name, changes), (shape, folder) in product(CHANGES.items(), sql_files.SHAPES.items()):
        text = sql_files.for_shape(sql_files.objects()[name], shape).read_text("utf-8")
        for before, after in changes:
            assert text.count(before) == 1, f"{name}.sql no longer says {before!r} once: change CHANGES"
            text = text.replace(before, after)
        (brought / folder).mkdir(parents=True, exist_ok=True)
        (brought / folder / f"{name}.sql").write_text(text, "utf-8")
    (brought / "added.sql").write_text(ADDED, "utf-8")
    module = path / "py_client" / "dagbump" / "installation" / "state.py"
    text = module.read_text("utf-8")
    text = text.replace(f'NEWEST_REVISION = "{NOW_REVISION}"', f'NEWEST_REVISION = "{NEXT_REVISION}"')
    text = text.replace(f'OLDEST_REVISION = "{state.OLDEST_REVISION}"', f'OLDEST_REVISION = "{oldest}"')
    module.write_text(text, "utf-8")
    return Package(path)


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
    def test_each_file_is_as_it_was_released(self) -> None:
        assert {name: freeze.digest(name) for name in freeze.sums()} == freeze.sums()

    def test_a_change_after_the_release_wants_another_revision(self, tmp_path: Path) -> None:
        for directory in ("sql", "migrations"):
            shutil.copytree(CHECKOUT / directory, tmp_path / directory)
        make_freeze = [sys.executable, str(tmp_path / "sql" / "freeze.py")]
        subprocess.run([*make_freeze, "--release"], check=True)
        sums = (tmp_path / "migrations" / "released" / freeze.SUMS).read_text("utf-8")
        assert "  0001/bump.sql\n" in sums
        assert "  0001/3.4/bump.sql\n" in sums
        assert "  index_0001/create.sql\n" in sums

        source = tmp_path / "sql" / "bump.sql"
        source.write_text(source.read_text("utf-8").replace("One call does", "A call does"), "utf-8")
        refused = subprocess.run(make_freeze, check=False, capture_output=True, text=True)
        assert refused.returncode == 1
        assert "revision 0001 is released; add another one first" in refused.stderr

        (tmp_path / "migrations" / "versions" / "0002_more.py").touch()
        subprocess.run(make_freeze, check=True)
        brought = tmp_path / "migrations" / "released" / "0002"
        assert sorted(path.relative_to(brought).as_posix() for path in brought.rglob("*.sql")) == [
            "3.4/bump.sql",
            "bump.sql",
        ]


class TestThereAndBack:
    def test_an_upgraded_database_is_as_a_fresh_one(self, next_: Package, database: URL, airflow_database: URL) -> None:
        next_(database, "upgrade")
        next_(airflow_database, "upgrade")
        assert dump_schema(database) == dump_schema(airflow_database)
        with psycopg.connect(libpq(database)) as connection:
            assert connection.execute("SELECT dagbump.added(), revision FROM dagbump.installation").fetchone() == (
                1,
                "0002",
            )

    def test_a_downgrade_restores_what_was(self, next_: Package, database: URL) -> None:
        before = dump_schema(database)
        next_(database, "upgrade")
        assert dump_schema(database) != before
        next_(database, "downgrade", NOW_REVISION)
        assert dump_schema(database) == before
        NOW(database, "preview")

    def test_to_base_leaves_no_trace(self, next_: Package, airflow_database: URL) -> None:
        """Also where somebody was granted what is dropped on the way."""
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
