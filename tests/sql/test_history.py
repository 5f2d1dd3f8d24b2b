"""`dagbump.history`: each move is recorded by the statement that makes it, and nothing else is recorded."""

from __future__ import annotations

import json
import re
import signal
from datetime import datetime, timedelta, timezone
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump import database as dagbump_database
from dagbump.installation import installer
from psycopg.rows import dict_row
from sqlalchemy.engine import URL
from support.fleet import Fleet, stale_run
from support.processes import DAGBUMP, command, running
from support.server import Connect, libpq

Connection = psycopg.Connection[Any]


def recorded(fleet: Fleet) -> list[dict[str, Any]]:
    with fleet.connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("SELECT * FROM dagbump.history ORDER BY bumped_at").fetchall()


class TestWhatIsRecorded:
    @pytest.mark.usefixtures("either_way")
    def test_a_row_per_run_with_all_that_there_is_to_know(self, fleet: Fleet, connect: Connect) -> None:
        first, second, latest = fleet.dag("d", versions=3)
        run = fleet.run("d", "manual")
        fleet.ti(run, latest, "success")
        fleet.ti(run, first, "failed")
        fleet.tis(run, first, ["queued", "running", None])
        fleet.tis(run, second, ["scheduled"] * 2)
        fleet.tis(run, None, ["scheduled"])
        other = stale_run(fleet, "other")
        stale_run(fleet, "not asked for")
        caller = connect(application_name="a scheduler")

        dagbump.bump(caller, dag_ids=["d", "other"], caller="the cleaner")
        assert recorded(fleet) == []  # it is the caller's transaction
        caller.commit()

        row, of_other = recorded(fleet)
        assert of_other["dag_run_id"] == other
        (now,) = fleet.execute("SELECT now()").fetchone() or (None,)
        (role,) = fleet.execute("SELECT session_user::text").fetchone() or (None,)
        assert 0 <= (now - row.pop("bumped_at")).total_seconds() < 60
        assert row.pop("id") != of_other["id"]
        assert row == {
            "bumped_by": role,
            "application_name": "a scheduler",
            "dag_run_id": run,
            "dag_id": "d",
            "run_id": "manual",
            "from_versions": [
                {"dag_version_id": None, "version_number": None, "task_instances": 1},
                {"dag_version_id": str(first), "version_number": 1, "task_instances": 3},
                {"dag_version_id": str(second), "version_number": 2, "task_instances": 2},
            ],
            "dag_version_id": latest,
            "version_number": 3,
            "bumped": 6,
            "caller": "the cleaner",
        }

    def test_who_is_who_has_connected(self, fleet: Fleet, connect: Connect, role: str) -> None:
        stale_run(fleet)
        fleet.connection.execute(f"GRANT USAGE ON SCHEMA dagbump TO {role}".encode())
        fleet.connection.execute(f"GRANT EXECUTE ON FUNCTION dagbump.bump TO {role}".encode())
        caller = connect()
        caller.execute(f"SET ROLE {role}".encode())
        assert dagbump.bump(caller).bumped == 1
        caller.commit()

        (row,) = recorded(fleet)
        assert row["bumped_by"] == caller.info.user

    def test_a_loop_in_which_nothing_changes_records_nothing(self, fleet: Fleet, connection: Connection) -> None:
        old, new = fleet.dag("d", versions=2)
        unverified = fleet.run("d")
        fleet.ti(unverified, old, "queued")
        fleet.ti(fleet.run("d"), new, "queued")

        assert dagbump.bump(connection).needs_verify
        connection.commit()
        assert recorded(fleet) == []

    def test_the_versions_come_in_order(self, fleet: Fleet, connection: Connection) -> None:
        *older, latest = fleet.dag("d", versions=8)
        run = fleet.run("d")
        fleet.ti(run, latest, "success")
        for version in (older[3], older[6], older[1], older[5], older[0], older[4], older[2]):
            fleet.ti(run, version, "queued")

        assert dagbump.bump(connection).bumped == 7
        connection.commit()
        (row,) = recorded(fleet)
        assert [version["version_number"] for version in row["from_versions"]] == [1, 2, 3, 4, 5, 6, 7]

    def test_a_run_of_which_nothing_moves_has_no_row(
        self, fleet: Fleet, connection: Connection, connect: Connect
    ) -> None:
        """The version is locked already, for the run before."""
        moved = stale_run(fleet)
        fleet.copy_run(moved, 1)
        connect().execute("SELECT FROM task_instance WHERE run_id LIKE '%copy%' AND state = 'scheduled' FOR UPDATE")

        assert [(row.bumped, row.locked) for row in dagbump.bump(connection).runs] == [(1, 0), (0, 1)]
        connection.commit()
        assert [row["dag_run_id"] for row in recorded(fleet)] == [moved]

    def test_what_is_held_or_does_not_move_is_not_counted(
        self, fleet: Fleet, connection: Connection, connect: Connect
    ) -> None:
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.ti(run, new, "success")
        held, stubborn, *_ = fleet.tis(run, old, ["queued"] * 4)
        connect().execute("SELECT FROM task_instance WHERE id = %s FOR UPDATE", (held,))
        fleet.connection.execute(
            f"""
            CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RETURN CASE WHEN NEW.id <> '{stubborn}' THEN NEW END; END $$;
            CREATE TRIGGER stay BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION stay();
            """.encode()
        )

        (row,) = dagbump.bump(connection).runs
        connection.commit()
        assert (row.bumped, row.locked) == (2, 2)
        (past,) = recorded(fleet)
        assert past["bumped"] == sum(version["task_instances"] for version in past["from_versions"]) == 2

    def test_a_bump_that_is_rolled_back_was_none(self, fleet: Fleet, connection: Connection) -> None:
        stale_run(fleet)
        assert dagbump.bump(connection).bumped == 1
        connection.rollback()
        assert recorded(fleet) == []

    def test_it_outlives_what_it_tells_of(self, fleet: Fleet, connection: Connection) -> None:
        run = stale_run(fleet)
        dagbump.bump(connection)
        connection.commit()
        fleet.execute("DELETE FROM task_instance")
        fleet.execute("DELETE FROM dag_run")
        fleet.execute("DELETE FROM dag_version")
        (row,) = recorded(fleet)
        assert row["dag_run_id"] == run


# What can become of the table; each is mended by an upgrade.
DAMAGE = {
    "dropped": "DROP TABLE dagbump.history",
    "a column dropped": "ALTER TABLE dagbump.history DROP COLUMN application_name",
    "a column renamed": "ALTER TABLE dagbump.history RENAME from_versions TO versions",
    "a column of another type": "ALTER TABLE dagbump.history ALTER dag_run_id TYPE integer",
    "a column shortened": "ALTER TABLE dagbump.history ALTER dag_id TYPE varchar(1)",
    "a column that wants a value": "ALTER TABLE dagbump.history ADD COLUMN more text NOT NULL",
    "another key": "ALTER TABLE dagbump.history DROP CONSTRAINT history_pkey, ADD PRIMARY KEY (dag_run_id)",
}


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGE)
    def test_moves_nothing_and_says_what_to_do_which_helps(
        self, fleet: Fleet, connection: Connection, database: URL, damage: str
    ) -> None:
        stale_run(fleet)
        fleet.connection.execute(DAMAGE[damage].encode())

        with pytest.raises(psycopg.DatabaseError, match=r"dagbump\.history is missing, or has been altered") as raised:
            connection.execute("SELECT * FROM dagbump.bump()")
        assert "dagbump upgrade" in (raised.value.diag.message_hint or "")
        connection.rollback()
        with pytest.raises(dagbump.NotInstalled, match="dagbump upgrade"):
            dagbump.bump(connection)
        connection.rollback()
        with pytest.raises(psycopg.DatabaseError, match=r"dagbump\.history is missing, or has been altered"):
            fleet.connection.execute("CALL dagbump.repair()")

        installer.upgrade(dagbump_database.create_engine(libpq(database)))
        assert dagbump.bump(connection).bumped == 1
        connection.commit()
        assert [row["bumped"] for row in recorded(fleet)] == [1]

    def test_nobody_waits_for_a_lock_on_the_whole_table(self, fleet: Fleet, connect: Connect) -> None:
        run = stale_run(fleet, "d")
        builds_an_index, scheduler = connect(), connect()
        builds_an_index.execute("LOCK TABLE dagbump.history IN SHARE MODE")
        scheduler.execute("SET statement_timeout = '10s'")

        with pytest.raises(psycopg.errors.LockNotAvailable, match="history"):
            dagbump.bump(scheduler, [run], caller_verifies=True)

        scheduler.rollback()
        builds_an_index.rollback()
        assert dagbump.bump(scheduler, [run], caller_verifies=True).bumped > 0

    def test_nothing_to_move_asks_for_no_history(self, fleet: Fleet, connection: Connection) -> None:
        _, new = fleet.dag("d", versions=2)
        fleet.ti(fleet.run("d"), new, "queued")
        fleet.connection.execute("DROP TABLE dagbump.history")
        assert dagbump.bump(connection).runs == ()

    def test_a_column_more_and_what_is_recorded_already_stay(
        self, fleet: Fleet, connection: Connection, database: URL
    ) -> None:
        stale_run(fleet)
        dagbump.bump(connection)
        connection.commit()
        fleet.connection.execute("ALTER TABLE dagbump.history ADD COLUMN ticket text")
        fleet.connection.execute("UPDATE dagbump.history SET ticket = 'T-1'")
        fleet.connection.execute("ALTER TABLE dagbump.history DROP COLUMN application_name")

        installer.upgrade(dagbump_database.create_engine(libpq(database)))
        (row,) = recorded(fleet)
        assert (row["bumped"], row["ticket"], row["application_name"]) == (1, "T-1", None)

    @pytest.mark.parametrize(
        "damage",
        [
            "ALTER TABLE dagbump.history ALTER dag_id SET NOT NULL, ALTER bumped_at SET NOT NULL",
            "ALTER TABLE dagbump.history DROP CONSTRAINT history_pkey, ADD PRIMARY KEY (bumped_at, dag_run_id)",
            "ALTER TABLE dagbump.history ALTER dag_run_id TYPE integer, ALTER from_versions TYPE text, "
            "ALTER run_id TYPE varchar(250)",
        ],
    )
    def test_an_upgrade_loses_nothing_that_is_recorded(
        self, fleet: Fleet, connection: Connection, database: URL, damage: str
    ) -> None:
        stale_run(fleet)
        dagbump.bump(connection)
        connection.commit()
        (before,) = recorded(fleet)
        fleet.connection.execute(damage.encode())
        installer.upgrade(dagbump_database.create_engine(libpq(database)))
        (after,) = recorded(fleet)
        del before["id"], after["id"]  # which says nothing
        assert after == before

    def test_what_does_not_fit_stays_beside(self, fleet: Fleet, connection: Connection, database: URL) -> None:
        stale_run(fleet)
        dagbump.bump(connection)
        connection.commit()
        fleet.connection.execute("ALTER TABLE dagbump.history ALTER bumped TYPE text USING 'one'")
        installer.upgrade(dagbump_database.create_engine(libpq(database)))
        (row,) = recorded(fleet)
        assert (row["bumped"], row["bumped_altered_10"]) == (None, "one")

    def test_quoted_identifiers_lose_nothing(self, fleet: Fleet, connection: Connection, database: URL) -> None:
        stale_run(fleet)
        connection.execute("SET LOCAL quote_all_identifiers = on")
        assert dagbump.bump(connection).bumped == 1
        connection.commit()
        before = recorded(fleet)
        quoting = database.update_query_dict({"options": "-cquote_all_identifiers=on"})
        installer.upgrade(dagbump_database.create_engine(libpq(quoting)))
        assert recorded(fleet) == before

    def test_an_upgrade_waits_for_nobody_who_bumps(self, fleet: Fleet, connection: Connection, database: URL) -> None:
        stale_run(fleet)
        dagbump.bump(connection)  # not committed
        engine = dagbump_database.create_engine(libpq(database.update_query_dict({"options": "-clock_timeout=50ms"})))
        installer.upgrade(engine)
        connection.commit()
        assert len(recorded(fleet)) == 1


@pytest.mark.once
@pytest.mark.parametrize(
    ("tampering", "said"),
    [
        ("ALTER TABLE dagbump.history ALTER run_id SET DEFAULT random()::text", "dagbump.history has a default"),
        ("ALTER TABLE dagbump.history ADD CHECK (bumped > 0)", "dagbump.history has a check"),
        ("ALTER TABLE dagbump.history ENABLE ROW LEVEL SECURITY", "dagbump.history has row-level security"),
        ("CREATE RULE r AS ON INSERT TO dagbump.history DO ALSO SELECT 1", "dagbump.history has a rule"),
        ("CREATE INDEX i ON dagbump.history ((upper(run_id)))", "dagbump.history has an index on an expression"),
        (
            "ALTER TABLE dagbump.history ADD FOREIGN KEY (dag_run_id) REFERENCES public.dag_run (id)",
            "dagbump.history has a trigger",
        ),
        ("ALTER TABLE dagbump.history OWNER TO {role}", "dagbump.history belongs to"),
    ],
)
def test_what_somebody_has_built_into_it_is_refused_by_name(
    fleet: Fleet, database: URL, role: str, tampering: str, said: str
) -> None:
    stale_run(fleet)
    fleet.connection.execute(tampering.format(role=role).encode())
    for words in (["bump"], ["upgrade"]):
        done = command(*DAGBUMP, *words, DAGBUMP_URL=libpq(database))
        assert (done.returncode, said in done.stderr) == (4, True), done.stderr
    assert recorded(fleet) == []


class TestPrune:
    @pytest.fixture
    def _past(self, fleet: Fleet) -> None:
        fleet.execute(
            "INSERT INTO dagbump.history (id, bumped_at) "
            "SELECT gen_random_uuid(), now() - n * interval '1 day' FROM generate_series(0, 9) n"
        )

    @pytest.mark.usefixtures("_past")
    def test_removes_what_is_older_and_says_how_much(self, fleet: Fleet) -> None:
        assert fleet.execute("SELECT dagbump.prune_history('100 days')").fetchone() == (0,)
        assert fleet.execute("SELECT dagbump.prune_history(keep => '4 days 12 hours')").fetchone() == (5,)
        assert len(recorded(fleet)) == 5
        assert fleet.execute("SELECT dagbump.prune_history('0')").fetchone() == (5,)

    @pytest.mark.parametrize("keep", [None, "-1 day"])
    def test_refuses_what_means_nothing(self, fleet: Fleet, keep: str | None) -> None:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="keep must be"):
            fleet.execute("SELECT dagbump.prune_history(%s::interval)", keep)

    @pytest.mark.usefixtures("_past")
    def test_waits_for_no_other_prune(self, fleet: Fleet, connect: Connect) -> None:
        first, second = connect(), connect()
        second.execute("SET lock_timeout = '50ms'")
        assert first.execute("SELECT dagbump.prune_history('5 days 12 hours')").fetchone() == (4,)
        assert second.execute("SELECT dagbump.prune_history('2 days 12 hours')").fetchone() == (3,)
        first.commit()
        second.commit()
        assert len(recorded(fleet)) == 3

    @pytest.mark.usefixtures("_past")
    def test_lends_nobody_the_right(self, fleet: Fleet, connection: Connection, role: str) -> None:
        """Not even where it has been granted by mistake."""
        fleet.connection.execute(f"GRANT USAGE ON SCHEMA dagbump TO {role}".encode())
        fleet.connection.execute(f"GRANT SELECT ON dagbump.history TO {role}".encode())
        fleet.connection.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dagbump TO {role}".encode())
        connection.execute(f"SET ROLE {role}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT dagbump.prune_history('0')")
        connection.rollback()
        assert len(recorded(fleet)) == 10


@pytest.mark.once
class TestLookUps:
    @pytest.fixture
    def url(self, fleet: Fleet, connection: Connection, database: URL) -> str:
        """A database in which three runs have been moved: two and one day ago, and now."""
        for number, dag_id in enumerate(("oldest", "older", "new")):
            stale_run(fleet, dag_id)
            dagbump.bump(connection)
            connection.commit()
            age = 2 - number
            fleet.execute(
                "UPDATE dagbump.history SET bumped_at = now() - %s * interval '1 day' WHERE dag_id = %s", age, dag_id
            )
        return libpq(database)

    def asked(self, url: str, *words: str) -> list[str]:
        done = command(*DAGBUMP, "history", "--json", *words, DAGBUMP_URL=url)
        assert (done.returncode, done.stderr) == (0, "")
        return [row["dag_id"] for row in json.loads(done.stdout)]

    def test_the_newest_is_last(self, url: str) -> None:
        assert self.asked(url) == ["oldest", "older", "new"]
        assert self.asked(url, "--limit", "2") == ["older", "new"]
        assert self.asked(url, "--limit", "0") == []

    def test_times_and_ages(self, url: str) -> None:
        assert self.asked(url, "--since", "36h") == ["older", "new"]
        assert self.asked(url, "--since", "3d", "--until", "1h") == ["oldest", "older"]
        yesterday = datetime.now(timezone.utc) - timedelta(days=1, hours=1)
        assert self.asked(url, "--until", yesterday.isoformat()) == ["oldest"]
        assert self.asked(url, "--since", "2000-01-01 10:00Z", "--until", "2000-01-02") == []
        refused = command(*DAGBUMP, "history", "--since", "yesterday", DAGBUMP_URL=url)
        assert (refused.returncode, "nor an age, as 2h" in refused.stderr) == (2, True)
        refused = command(*DAGBUMP, "history", "--follow", "--until", "2h", DAGBUMP_URL=url)
        assert (refused.returncode, "say one of them" in refused.stderr) == (2, True)

    def test_runs_and_dags(self, url: str, fleet: Fleet) -> None:
        (run,) = fleet.execute("SELECT id FROM dag_run WHERE dag_id = 'older'").fetchone() or (None,)
        assert self.asked(url, "--dag-run-id", str(run)) == ["older"]
        assert self.asked(url, "--dag-id", "new", "--dag-id", "oldest") == ["oldest", "new"]

    def test_a_table_says_it_all(self, url: str) -> None:
        header, *rows = command(*DAGBUMP, "history", DAGBUMP_URL=url).stdout.splitlines()
        assert "from version" in header
        assert len(rows) == 3
        assert re.search(r"new +run_\d+ +1 +1 \(1\) +2 ", rows[-1])

    def test_an_empty_one(self, database: URL) -> None:
        assert command(*DAGBUMP, "history", DAGBUMP_URL=libpq(database)).stdout == "dagbump.history has no row.\n"

    def test_one_that_is_empty_for_what_was_asked(self, url: str) -> None:
        assert "that these options select" in command(*DAGBUMP, "history", "--since", "0s", DAGBUMP_URL=url).stdout

    def test_in_python(self, url: str, connection: Connection) -> None:
        assert url
        oldest, older, new = dagbump.history(connection)
        assert dagbump.history(connection, [older.dag_run_id], ["older"], older.bumped_at, new.bumped_at, 5) == (older,)
        assert dagbump.history(connection, limit=1) == (new,)
        assert oldest.from_versions[0]["version_number"] == 1
        assert oldest.came_from == "1 (1)"
        with pytest.raises(TypeError, match="since takes a datetime"):
            dagbump.history(connection, since="yesterday")  # type: ignore[arg-type]

    def test_follow(self, url: str, fleet: Fleet, connect: Connect) -> None:
        """A row that is committed late is printed too, and each row is printed once."""
        late = connect()
        stale_run(fleet, "late")
        dagbump.bump(late)
        with running(*DAGBUMP, "history", "--follow", "--limit", "1", DAGBUMP_URL=url) as following:
            following.until_printed(" new ")
            stale_run(fleet, "prompt")
            caller = connect(autocommit=True)
            dagbump.bump(caller)
            following.until_printed(" prompt ")
            late.commit()
            following.until_printed(" late run_")
            following.process.send_signal(signal.SIGTERM)
            assert following.finish(timeout=10) == 0
        assert len(following.lines) == 3
        assert following.count("1 task instance to version 2 from 1 (1), by") == 3
