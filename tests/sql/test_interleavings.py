"""All orders of the steps of two and three sessions: nothing goes backwards, nothing is lost, and bump never waits.

`make prove ARGS="-k interleavings"` walks more sessions, with more gates.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagbump import database as dagbump_database
from dagbump.installation import installer, sql_files
from sqlalchemy.engine import URL
from support import interleavings, proof
from support.fleet import Fleet
from support.interleavings import ALL_GATES, Program, Session, ViolationError, World
from support.proof import LONG
from support.releases import environments
from support.server import libpq

pytestmark = [pytest.mark.once, pytest.mark.slow]

JSON = "SELECT json_agg(answer) FROM dagbump.bump({}, caller => 'session {}') AS answer"
LATEST = "(SELECT id FROM dag_version ORDER BY version_number DESC LIMIT 1)"
FOREIGN_KEY_VIOLATION = frozenset({"23503"})


# ---- What bumps ----


def examined(session: Session) -> str:
    """Bump the runs that the scheduler has locked, as the plugin does."""
    runs = session.answer["runs"] or []
    return JSON.format(f"ARRAY{runs}::bigint[], caller_verifies => TRUE, report_all => TRUE", session.number)


def verify(session: Session) -> str:
    """Do what verify_integrity does, for each run with needs_verify in the answer."""
    due = [row for row in session.open_answers if row["needs_verify"]]
    calls = [f"SELECT verify_integrity({row['dag_run_id']}, '{row['dag_version_id']}')" for row in due]
    return "; ".join(calls) or "SELECT"


def scheduler(gates: str) -> Program:
    lock = """
        BEGIN;
        SELECT json_build_object('runs', json_agg(id))
        FROM (SELECT id FROM dag_run WHERE state = 'running' FOR NO KEY UPDATE SKIP LOCKED) AS run
    """
    return Program("a scheduler's loop", (lock, examined, verify, "COMMIT"), gates, never_waits=True)


def caller(gates: str) -> Program:
    """Bump and verify without a lock on the runs, as another program may do."""

    def bump(session: Session) -> str:
        return "BEGIN; " + JSON.format("caller_verifies => TRUE", session.number)

    return Program("a caller that verifies", (bump, verify, "COMMIT"), gates, never_waits=True)


def by_hand(gates: str) -> Program:
    """Bump in the safe form, in a transaction that stays open for a step."""

    def bump(session: Session) -> str:
        return "BEGIN; " + JSON.format("report_all => TRUE", session.number)

    return Program("a bump by hand", (bump, "COMMIT"), gates, never_waits=True)


def repair(gates: str) -> Program:
    return Program("a repair", ("CALL dagbump.repair(batch_size => 1)",), gates, never_waits=True)


# ---- What happens beside it ----

LAND = Program("a version lands", ("BEGIN; SELECT walk.land('d', 'new')", "COMMIT"))
REWRITE = Program(
    "a version is rewritten in place",
    (
        f"BEGIN; SELECT FROM dag_version WHERE id = {LATEST} FOR NO KEY UPDATE",
        f"UPDATE dag_version SET last_updated = now() WHERE id = {LATEST}; "
        f"UPDATE serialized_dag SET data = walk.with_task(data::json, 'new') WHERE dag_version_id = {LATEST}",
        "COMMIT",
    ),
    hides_tasks=True,
)
FINISH = Program(
    "a task finishes",
    (
        "BEGIN; SELECT FROM task_instance WHERE task_id = 'b' FOR UPDATE",
        "UPDATE task_instance SET state = 'success' WHERE task_id = 'b'",
        "COMMIT",
    ),
)
RETRY = Program(
    "a task is tried again",
    (
        "BEGIN; SELECT FROM task_instance WHERE task_id = 'b' FOR UPDATE",
        "UPDATE task_instance SET state = 'up_for_retry', id = gen_random_uuid() WHERE task_id = 'b'",
        "COMMIT",
    ),
)
CLEAR = Program(
    "a task is cleared",
    (
        f"BEGIN; UPDATE task_instance SET state = NULL, dag_version_id = {LATEST} WHERE task_id = 'a'",
        "UPDATE dag_run SET state = 'queued'; UPDATE dag_run SET state = 'running'",
        "COMMIT",
    ),
    hides_tasks=True,
)
PAUSE = Program("a DAG is paused", ("BEGIN; UPDATE dag SET is_paused = TRUE", "COMMIT"))
PIN = Program("a run is pinned", ("BEGIN; UPDATE dag_run SET bundle_version = 'x' WHERE run_id = 'verified'", "COMMIT"))
END = Program("a run ends", ("BEGIN; UPDATE dag_run SET state = 'failed' WHERE run_id = 'verified'", "COMMIT"))
CLEAN = Program(
    "a version is deleted",
    (
        f"BEGIN; DELETE FROM serialized_dag WHERE dag_version_id = {LATEST}; "
        f"DELETE FROM dag_version WHERE id = {LATEST}",
        "COMMIT",
    ),
    may_fail=FOREIGN_KEY_VIOLATION,
)
CLEAN_UPDATED = Program(
    "a version is updated and deleted",
    (
        f"BEGIN; UPDATE dag_version SET last_updated = now() WHERE id = {LATEST}",
        f"DELETE FROM serialized_dag WHERE dag_version_id = {LATEST}; DELETE FROM dag_version WHERE id = {LATEST}",
        "COMMIT",
    ),
    may_fail=FOREIGN_KEY_VIOLATION,
)
CLEAN_RUNS = Program(
    "db clean deletes runs",
    (
        "BEGIN; DELETE FROM task_instance WHERE task_id = 'b'",
        "DELETE FROM task_instance; DELETE FROM dag_run",
        "COMMIT",
    ),
)
INDEX = Program(
    "the index is built",
    (sql_files.render(sql_files.of_index("index_0001", "create"), "public", environments.shape()),),
)
CLEANS = (CLEAN, CLEAN_UPDATED)
BESIDE = (LAND, REWRITE, FINISH, RETRY, CLEAR, PAUSE, PIN, END, CLEAN_RUNS, INDEX)


@pytest.fixture
def world(database: URL, tmp_path: Path) -> Iterator[World]:
    with interleavings.world(database) as world:
        world.install(tmp_path)
        yield world


def fill(world: World, *runs: str) -> None:
    """Make DAG d with two versions, and its runs: on the second version already, or not yet."""
    fleet = Fleet(world.control)
    fleet.dag("d")
    old, new = (fleet.version("d", number, tasks=tasks) for number, tasks in ((1, "abc"), (2, "abcd")))
    for run_id in runs:
        run = fleet.run("d", run_id)
        fleet.ti(run, new if run_id == "verified" else old, "success", task_id="a")
        fleet.ti(run, old, "running", task_id="b")
        fleet.ti(run, old, None, task_id="c")
        if run_id == "verified":
            fleet.ti(run, new, None, task_id="d")
    world.keep()


# A whole run of a program has about ten parts with ALL_GATES.
GATES: dict[str, str] = (
    {"scheduler": ALL_GATES, "by_hand": ALL_GATES, "repair": ALL_GATES}
    if LONG
    else {"scheduler": "judge move", "by_hand": "judge version", "repair": "judge lock"}
)
BUMPING = {
    "verified": (by_hand, repair),
    "unverified": (scheduler,),
}
if LONG:
    BUMPING = dict.fromkeys(BUMPING, (scheduler, by_hand, repair))


@pytest.mark.proof
@pytest.mark.parametrize("run", BUMPING)
def test_one_call_beside_each_thing_that_happens(world: World, run: str) -> None:
    fill(world, run)
    for bumping in BUMPING[run]:
        for what in (*BESIDE, *(CLEANS if run == "unverified" else ())):
            world.walk(bumping(GATES[bumping.__name__]), what)
    figure(f"one call beside one other thing; {run} run", world)


@pytest.mark.proof
@pytest.mark.parametrize("runs", [("verified",), ("unverified",)] if not LONG else [("verified", "unverified")])
def test_two_calls_at_once(world: World, runs: tuple[str, ...]) -> None:
    fill(world, *runs)
    world.walk(caller("judge lock"), by_hand("judge lock"))
    world.walk(repair("lock"), by_hand("lock"))
    if LONG:
        world.walk(scheduler("judge lock"), scheduler("judge lock"))
        world.walk(repair("lock move"), caller("lock move"))
        world.walk(repair("lock"), repair("lock"))
    figure(f"two calls; {' and '.join(runs)} run", world)


@pytest.mark.proof
def test_three_sessions(world: World) -> None:
    fill(world, "verified", "unverified")
    gates = "judge" if LONG else ""
    for what in (LAND, FINISH, CLEAR, RETRY, PIN) if LONG else (LAND,):
        world.walk(caller(""), by_hand(gates), what)
    if LONG:
        world.walk(scheduler(""), repair("lock"), LAND)
        world.walk(scheduler("judge"), LAND, FINISH)
    figure("three sessions", world)


@pytest.mark.proof
def test_an_upgrade_between_any_two_parts_of_a_call(world: World, database: URL) -> None:
    fill(world, "verified")
    engine = dagbump_database.create_engine(f"{libpq(database)}?options=-c%20lock_timeout%3D5s")

    def upgrade(_: Session) -> str:
        installer.upgrade(engine)
        return "SELECT"

    world.walk(by_hand(ALL_GATES if LONG else "judge move"), Program("an upgrade", (upgrade,)), replaces_functions=True)
    figure("an upgrade", world)


SKIP = "FOR NO KEY UPDATE SKIP LOCKED\n    ) AS ti;"


@pytest.mark.parametrize(
    ("cut", "run", "programs", "said"),
    [
        pytest.param(
            ("bump.sql", "            CONTINUE;\n        END IF;\n\n        -- 6.", "        END IF;\n\n        -- 6."),
            "verified",
            (by_hand("judge"), LAND),
            "not its latest version",
            id="the step that judges a run again",
        ),
        pytest.param(
            ("parts/move_stale.sql", SKIP, SKIP.replace("SKIP LOCKED", "")),
            "verified",
            (by_hand("lock"), FINISH),
            "waits for another session",
            id="SKIP LOCKED on the TIs",
        ),
        pytest.param(
            ("parts/move_stale.sql", SKIP, ") AS ti;"),
            "verified",
            (by_hand("lock move"), FINISH),
            "waits for another session",
            id="the lock on the TIs",
        ),
        pytest.param(
            ("take_version.sql", "FOR KEY SHARE SKIP LOCKED", ""),
            "unverified",
            (caller("lock"), CLEAN),
            "waits for another session",
            id="the lock on the version",
        ),
        pytest.param(
            ("take_version.sql", "SET lock_timeout = '1ms'", ""),
            "unverified",
            (caller("lock"), CLEAN_UPDATED),
            "waits for another session",
            id="the limit of the one wait that PostgreSQL leaves",
        ),
        pytest.param(
            ("parts/count_stale.sql", "AND version.version_number > run.version_number", "AND FALSE"),
            "verified",
            (by_hand("count"), caller(""), LAND),
            "went backwards",
            id="TIs on a higher version are not stale",
        ),
    ],
)
def test_without_a_clause_the_walk_finds_a_violation(
    database: URL, tmp_path: Path, cut: tuple[str, str, str], run: str, programs: tuple[Program, ...], said: str
) -> None:
    with interleavings.world(database) as world:
        world.install(tmp_path, cut)
        fill(world, run)
        with pytest.raises(ViolationError, match=said):
            world.walk(*programs)


def figure(orders_of: str, world: World) -> None:
    """Keep how many orders were walked; a violation would have ended the test."""
    proof.record("Interleavings", 'make prove ARGS="-k interleavings"', {f"orders of {orders_of}": world.walked})
