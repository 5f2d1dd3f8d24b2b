"""Loop for loop against the stock scheduler: the same random fleet, the same loops, with the plugin and without.

A loop is all of SchedulerJobRunner._do_scheduling of the release that `environments.release` names. Afterwards both
databases must hold the same, apart from stale task instances that dagbump has moved and the stock scheduler has not.

20 fleets by default, and 2,000 in `make prove`. `DAGBUMP_LOOP_FLEETS` says how many; `DAGBUMP_LOOP_SEED=…` tries one.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import dagbump
import psycopg
import pytest
from support import proof
from support.loop_comparison import KEYS, Comparison, Key, by_key, snapshot
from support.random_fleets import Prototypes, RandomFleet, write_dags
from support.releases import environments
from support.releases.scheduler import Scheduler, scheduler_process
from support.server import Server

pytestmark = pytest.mark.airflow

SCRIPT = Path(__file__).parents[1] / "support" / "inside_airflow" / "loops.py"
RELEASE = environments.number()
# From 3.2 on the stock scheduler passes over task instances whose state is NULL.
STOCK_FORGETS_NULL = RELEASE >= (3, 2)
# Up to 3.1 it loads all task instances of the runs that it examines.
STOCK_LOADS_TIS = RELEASE < (3, 2)

FLEETS = int(os.environ.get("DAGBUMP_LOOP_FLEETS") or (2_000 if proof.LONG else 20))
SEED = os.environ.get("DAGBUMP_LOOP_SEED")
SEEDS = [int(SEED)] if SEED else list(range(FLEETS))
# What is counted for docs/reliability.md.
COMPARED_FLEETS = "fleets compared"
LOOPS = "loops of each scheduler"
COMPARED_TIS = "TIs compared"
MENDED = "TIs that only dagbump moved to the latest version"
HANDED = "TIs that only dagbump's scheduler handed to its executor"
RAISED = "other fleets, in which a loop of stock Airflow raised an error"
UNNAMED = "other differences"
CALLBACKS = "callback_request" if RELEASE < (3, 2) else "callback"
IS_ON = f"INFO: dagbump {dagbump.__version__} is on: one dagbump.bump per scheduler loop"

ENVIRONMENT = {
    "AIRFLOW__API_AUTH__JWT_SECRET": "the executor signs its tasks with it",
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",  # a new version at once
    "AIRFLOW__CORE__PARALLELISM": "1000",  # so many TIs can be queued that their order does not matter
    "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "0",
    "PGOPTIONS": "-c lock_timeout=3s",  # a wait fails, because nobody would end the other transaction
}


@dataclass(frozen=True)
class Base:
    """A template with DAGs, and the rows that Airflow creates for a run of each of their versions."""

    database: str
    prototypes: Prototypes


@pytest.fixture(scope="module")
def stock(postgres: Server, dagbump_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    home = tmp_path_factory.mktemp("stock")
    with scheduler_process(SCRIPT, postgres, dagbump_template, home, ENVIRONMENT) as stock:
        yield stock


@pytest.fixture(scope="module")
def plugin(postgres: Server, dagbump_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    """The one with dagbump; its Airflow writes compressed DAGs, and reads either."""
    environment = ENVIRONMENT | {
        "AIRFLOW__DAGBUMP__ENABLED": "True",
        "AIRFLOW__CORE__COMPRESS_SERIALIZED_DAGS": "True",
    }
    home = tmp_path_factory.mktemp("plugin")
    with scheduler_process(SCRIPT, postgres, dagbump_template, home, environment) as plugin:
        assert plugin.worker("start_scheduler") == [IS_ON]
        yield plugin


@pytest.fixture(scope="module")
def bases(stock: Scheduler, plugin: Scheduler) -> Iterator[dict[str, Base]]:
    """Both kinds of serialized DAGs."""
    bases = {"plain": base(stock, "loops_base_plain"), "compressed": base(plugin, "loops_base_compressed")}
    yield bases
    for one in bases.values():
        stock.postgres.drop_database(one.database)


def base(scheduler: Scheduler, template: str) -> Base:
    with scheduler.connection() as connection:
        prototypes = write_dags(scheduler.worker, connection)
    scheduler.save(template)
    return Base(template, prototypes)


# ---- Loops ----


@dataclass(frozen=True)
class Pair:
    """Two schedulers, and the templates for their databases."""

    stock: Scheduler
    plugin: Scheduler
    bases: dict[str, Base]

    @contextmanager
    def fleet(self, seed: int, base: str) -> Iterator[RandomFleet]:
        """Put a fleet into both databases: that which is written inside the `with`."""
        chosen = self.bases[base]
        with self.plugin.replace_database(chosen.database) as connection:
            yield RandomFleet(seed, chosen.prototypes, connection)
        self.stock.replace_database(self.plugin.database).close()
        for scheduler in (self.stock, self.plugin):
            scheduler.worker("connect")

    def do_loops(self, fleet: RandomFleet, count: int, max_runs: int, command: str = "do_scheduling") -> Loops:
        """Do the same number of loops with each scheduler; `command` is the loop of the one with dagbump."""
        with self.stock.connection() as stock, self.plugin.connection() as plugin:
            before = snapshot(plugin)
            done = [
                (self.stock.worker("do_scheduling", max_runs=max_runs), self.plugin.worker(command, max_runs=max_runs))
                for _ in range(count)
            ]
            comparison = Comparison(before, snapshot(stock), snapshot(plugin), fleet.latest)
            lacking = {row.dag_run_id for row in dagbump.preview(stock) if row.missing_tasks}
        of_stock, of_plugin = zip(*done, strict=True)
        return Loops(comparison, of_stock, of_plugin, lacking)


@dataclass
class Loops:
    """One fleet, and what two schedulers did to it."""

    comparison: Comparison
    stock: tuple[dict[str, Any], ...]  # the answers of support/inside_airflow/loops.py
    plugin: tuple[dict[str, Any], ...]
    lacking: set[int]  # runs of which preview says, in the stock scheduler's database, that they lack a task


@pytest.fixture(scope="module")
def pair(stock: Scheduler, plugin: Scheduler, bases: dict[str, Base]) -> Pair:
    return Pair(stock, plugin, bases)


@pytest.fixture(scope="module")
def cases() -> Counter[str]:
    """In how many fleets something has happened."""
    return Counter()


@pytest.fixture(scope="module")
def counted() -> Iterator[Counter[str]]:
    """What is compared, for docs/reliability.md."""
    counted = Counter(dict.fromkeys((COMPARED_FLEETS, LOOPS, COMPARED_TIS, MENDED, HANDED, RAISED, UNNAMED), 0))
    yield counted
    command = 'make prove ARGS="-k the_databases_end_the_same"'
    release = environments.release()
    proof.record("Against Airflow's own code", command, {what: {release: count} for what, count in counted.items()})


@pytest.mark.proof
@pytest.mark.parametrize("seed", SEEDS)
def test_the_databases_end_the_same(pair: Pair, cases: Counter[str], counted: Counter[str], seed: int) -> None:
    base = "compressed" if seed % 2 else "plain"
    random = Random(seed)  # noqa: S311  (not for secrets)
    count, max_runs = random.randint(1, 2), random.choice([3, 20])
    with pair.fleet(seed, base) as fleet:
        fleet.make()

    loops = pair.do_loops(fleet, count, max_runs)

    errors = [(stock["error"], plugin["error"]) for stock, plugin in zip(loops.stock, loops.plugin, strict=True)]
    print(f"seed {seed}: {base}, {count} loops of {max_runs} runs, errors {errors}")
    vanished = "no longer has, and Airflow removes them"
    assert not [line for plugin in loops.plugin for line in plugin["logged"] if vanished not in line]
    if any(stock for stock, _ in errors):
        cases["stock raised"] += 1
        counted[RAISED] += 1
        assert all(plugin is None or kind(plugin) == kind(stock or "") for stock, plugin in errors)
        return
    assert [plugin for _, plugin in errors] == [None] * count
    comparison = loops.comparison
    differences = [*comparison.differences, *differences_of_queues(loops)]
    counted.update({COMPARED_FLEETS: 1, LOOPS: count, COMPARED_TIS: len(by_key(comparison.stock, "task_instance"))})
    counted.update({MENDED: len(comparison.mended), UNNAMED: len(differences)})
    counted[HANDED] += len(queued(loops.plugin).keys() - queued(loops.stock).keys())
    if differences:
        pytest.fail("\n".join(differences), pytrace=False)
    # A run that Airflow has verified lacks nothing, so this would be a false alarm.
    assert not loops.lacking & {run for stock in loops.stock for run in stock["verified"]}
    cases.update({base, f"{count} loops", *happened(loops)})


@pytest.mark.parametrize("seed", SEEDS[:: 2 if len(SEEDS) > 1 else 1])
def test_a_loop_that_looks_for_missing_tasks_leaves_none(pair: Pair, seed: int) -> None:
    with pair.fleet(seed, "plain") as fleet:
        fleet.make()
    with pair.plugin.connection() as connection:
        expected = fleet.missing_tasks(connection)
        before = {row.dag_run_id: row for row in dagbump.preview(connection)}
        running = running_runs(connection)
        assert {run: row.missing_tasks for run, row in before.items() if row.missing_tasks} == expected

        answer = pair.plugin.worker("do_scheduling", max_runs=20, missing_tasks=True)

        if answer["error"]:
            return
        # The loop ends runs, for their timeout for one, and starts others, which the next loop looks at.
        running &= running_runs(connection)
        lacked = running & {run for run, row in before.items() if row.verdict == "missing_tasks"}
        still = running & {row.dag_run_id for row in dagbump.preview(connection) if row.verdict == "missing_tasks"}
        assert still == lacked - set(answer["verified"])
        # Airflow leaves a run alone whose logical date lies in the future, and ends one for its timeout.
        future = {run for (run,) in connection.execute("SELECT id FROM dag_run WHERE logical_date > now()")}
        assert {run for run in still if before[run].dag_id != "timeout"} <= future


def running_runs(connection: psycopg.Connection[Any]) -> set[int]:
    return {run for (run,) in connection.execute("SELECT id FROM dag_run WHERE state = 'running'")}


def kind(error: str) -> str:
    return error.partition(":")[0]


def differences_of_queues(loops: Loops) -> Iterator[str]:
    """Both executors get the same TIs. Stale ones come to dagbump's executor with the latest version.

    From 3.2 on the stock scheduler sends some of them with the old version, and holds back those without a version. It
    may move such a TI in a later loop, but never sends it.
    """
    comparison = loops.comparison
    stock, plugin = queued(loops.stock), queued(loops.plugin)
    for key in sorted(stock.keys() - plugin.keys()):
        yield f"{key} was sent to the executor of stock alone"
    for key, ti in plugin.items():
        if key not in stock and not (key in comparison.mended or comparison.had_no_version(key)):
            yield f"{key} was sent to the executor of dagbump alone"
        elif comparison.was_stale(key) and ti != stock.get(key):
            if ti["dag_version_id"] != str(comparison.latest[ti["dag_id"]]):
                yield f"{key} was sent to the executor of dagbump with another version than the latest"
        elif key in stock and ti != stock[key]:
            yield f"{key}: stock sent {stock[key]}, dagbump {ti}"


def queued(answers: Iterable[dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    return {tuple(ti[name] for name in KEYS["task_instance"]): ti for answer in answers for ti in answer["queued"]}


def happened(loops: Loops) -> Iterator[str]:
    """Name the cases that a fleet has covered."""
    comparison = loops.comparison
    yield from names_of_runs(comparison)
    yield from names_of_tis(comparison)
    if any(plugin["queued"] for plugin in loops.plugin):
        yield "a TI was queued"
    if comparison.created("dag_run"):
        yield "a run was created"
    if len(comparison.dagbump[CALLBACKS]) > len(comparison.before[CALLBACKS]):
        yield "a callback was sent"


def names_of_runs(comparison: Comparison) -> Iterator[str]:
    paused = {dag["dag_id"] for dag in comparison.before["dag"] if dag["is_paused"]}
    for was, run in comparison.runs():
        stale = comparison.stale((run["dag_id"], run["run_id"]))
        if was["state"] != run["state"]:
            yield f"a {was['state']} run came to {run['state']}"
        if was["state"] == "running" and run["bundle_version"] and stale:
            yield "a pinned run was left alone"
        if was["state"] == "running" and run["dag_id"] in paused and stale:
            yield "a run of a paused DAG was left alone"
        if (was["state"], run["state"], run["dag_id"]) == ("running", "failed", "timeout") and stale:
            yield "a run timed out, and kept its version"


def names_of_tis(comparison: Comparison) -> Iterator[str]:
    before = {key: run["state"] for key, run in by_key(comparison.before, "dag_run").items()}
    states = {key: ti["state"] for key, ti in by_key(comparison.before, "task_instance").items()}
    for was, ti in comparison.tis():
        if was["dag_version_id"] != ti["dag_version_id"]:
            yield "a TI was moved" if ti["map_index"] < 0 else "a mapped TI was moved"
    for ti in comparison.created("task_instance"):
        if before.get((ti["dag_id"], ti["run_id"])) == "running":
            yield "a TI was created" if ti["map_index"] < 0 else "a mapped TI was created"
    for key in comparison.mended:
        yield "a TI was mended whose state was NULL" if states.get(key, "") is None else "another TI was mended"


@pytest.mark.proof
@pytest.mark.skipif(len(SEEDS) < 20, reason="a few fleets need not hold every case")
def test_the_fleets_were_worth_it(cases: Counter[str]) -> None:
    print(*sorted(cases.items()), sep="\n")
    assert {name: cases[name] for name in INTERESTING if not cases[name]} == {}
    assert cases["stock raised"] <= len(SEEDS) / 10


INTERESTING = (
    "plain",
    "compressed",
    "1 loops",
    "2 loops",
    "a TI was moved",
    "a mapped TI was moved",
    "a TI was created",
    "a mapped TI was created",
    "a TI was queued",
    "a callback was sent",
    "a run was created",
    "a queued run came to running",
    "a running run came to success",
    "a running run came to failed",
    "a run timed out, and kept its version",
    "a pinned run was left alone",
    "a run of a paused DAG was left alone",
    "another TI was mended",
    *(["a TI was mended whose state was NULL"] if STOCK_FORGETS_NULL else []),
)


# ---- Can it fail? ----


def test_a_plugin_that_does_not_verify_is_found_out(pair: Pair) -> None:
    with pair.fleet(0, "plain") as fleet:
        fleet.landed()

    loops = pair.do_loops(fleet, 1, 20, "do_scheduling_without_verify")

    (difference,) = loops.comparison.differences
    assert difference.startswith("task_instance: ('plain', 'landed', 'D', -1) is only in the database of stock: ")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("UPDATE task_instance SET state = 'queued' WHERE task_id = 'B'", "task_instance: {}.state: stock None, "),
        ("UPDATE task_instance SET updated_at = now() WHERE task_id = 'B'", "task_instance: {}.updated_at: stock "),
        ("UPDATE task_instance SET end_date = now() WHERE task_id = 'B'", "task_instance: {}.end_date: stock None, "),
        ("UPDATE task_instance SET id = gen_random_uuid() WHERE task_id = 'B'", "task_instance: {}.id: stock UUID("),
        ("UPDATE task_instance SET dag_version_id = NULL WHERE task_id = 'B'", "task_instance: {}.dag_version_id: "),
        ("DELETE FROM task_instance WHERE task_id = 'B'", "task_instance: {} is only in the database of stock: "),
        ("UPDATE dag_run SET conf = '{{\"a\": 1}}'", "dag_run: ('plain', 'landed').conf: "),
        ("UPDATE slot_pool SET slots = 7", "slot_pool: only in the database of "),
    ],
)
def test_a_change_is_seen(pair: Pair, change: str, difference: str) -> None:
    with pair.fleet(0, "plain") as fleet:
        fleet.landed()
    with pair.plugin.connection() as connection:
        before = snapshot(connection)
        connection.execute(change.format().encode())
        after = snapshot(connection)

    seen = Comparison(before, before, after, fleet.latest).differences

    assert seen
    expected = difference.format("('plain', 'landed', 'B', -1)")
    assert all(line.startswith((expected, expected.replace(".end_date", ".updated_at"))) for line in seen)


@pytest.mark.parametrize("pinned", [None, "abc"])
@pytest.mark.parametrize("decided", ["now()", "last_scheduling_decision"])
def test_only_a_stale_ti_of_a_scheduled_run_is_mended(pair: Pair, decided: str, pinned: str | None) -> None:
    with pair.fleet(0, "plain") as fleet:
        fleet.landed()
    with pair.plugin.connection() as connection:
        connection.execute("UPDATE dag_run SET bundle_version = %s", (pinned,))
        connection.execute("UPDATE task_instance SET state = 'success' WHERE task_id = 'A'")
        before = snapshot(connection)
        connection.execute(f"UPDATE dag_run SET last_scheduling_decision = {decided}".encode())
        stock = snapshot(connection)
        connection.execute("UPDATE task_instance SET dag_version_id = %s, updated_at = now()", (fleet.latest["plain"],))
        after = snapshot(connection)

    comparison = Comparison(before, stock, after, fleet.latest)

    mended = "BC" if decided == "now()" and not pinned else ""
    assert comparison.mended == [("plain", "landed", task_id, -1) for task_id in mended]
    assert {line.partition(".")[0] for line in comparison.differences} == {
        f"task_instance: ('plain', 'landed', '{task_id}', -1)" for task_id in sorted(set("ABC") - set(mended))
    }


# ---- What a loop costs ----


@pytest.mark.parametrize(("runs", "dags"), [(1, 1), (20, 1), (20, 10)])
def test_a_steady_loop_sends_three_statements_less_for_each_run(pair: Pair, runs: int, dags: int) -> None:
    stock, plugin = count_statements(pair, runs, dags)

    assert (stock["runs"], plugin["runs"]) == (runs, runs)
    before, after = len(stock["scheduling"]), len(plugin["scheduling"])
    print(f"{runs} runs of {dags} DAGs: {before} statements, with dagbump {after}")
    # For the loop it adds a savepoint, its release, and the bump.
    assert before - after == 3 * runs - 3


def test_a_version_change_without_new_tasks_writes_all_runs_at_once(pair: Pair) -> None:
    one, many = (sent_for_a_version_change(pair, runs) for runs in (1, 20))

    # Opening a savepoint flushes the session. So a savepoint for each run would write each run with its own UPDATE.
    assert updates_of_runs(many) == updates_of_runs(one) == 1


def sent_for_a_version_change(pair: Pair, runs: int) -> list[str]:
    with pair.fleet(0, "plain") as fleet:
        fleet.steady(runs, ["plain"])
        moved = fleet.connection.execute(
            "UPDATE task_instance SET dag_version_id = %s", (fleet.prototypes["plain"][0].version,)
        )
        assert moved.rowcount >= runs
    counted = pair.plugin.worker("count_statements")
    assert counted["runs"] == runs
    sent: list[str] = counted["scheduling"]
    return sent


def updates_of_runs(statements: list[str]) -> int:
    return sum(statement.startswith("UPDATE dag_run ") for statement in statements)


def test_examining_asks_for_the_same_runs_and_for_no_ti(pair: Pair) -> None:
    stock, plugin = count_statements(pair, 20, 1)
    (theirs,), (ours,) = stock["examining"], plugin["examining"]

    assert bool(stock["tis_loaded"]) == STOCK_LOADS_TIS
    assert plugin["tis_loaded"] == 0
    assert "task_instance" not in ours
    assert (theirs == ours) == (not STOCK_LOADS_TIS)
    assert EXAMINED.findall(normal(theirs)) == EXAMINED.findall(normal(ours)) != []
    assert set(COLUMNS_OF_RUN.findall(theirs)) == set(COLUMNS_OF_RUN.findall(ours)) != set()


# The stock scheduler's query has this as a subquery, up to 3.1, and the TIs outside it.
EXAMINED = re.compile(r"FROM dag_run JOIN .*WHERE .*ORDER BY .* LIMIT .* FOR NO KEY UPDATE OF dag_run SKIP LOCKED")
COLUMNS_OF_RUN = re.compile(r"\bdag_run\.(\w+)")


def normal(statement: str) -> str:
    """Leave out how lines are broken, and how parameters are numbered."""
    return re.sub(r"%\(\w+\)s", "?", " ".join(statement.split()))


def count_statements(pair: Pair, runs: int, dags: int) -> list[dict[str, Any]]:
    with pair.fleet(0, "plain") as fleet:
        fleet.steady(runs, sorted(fleet.prototypes)[:dags])
    for _ in range(3):  # the caches of both are full
        answers = [scheduler.worker("count_statements") for scheduler in (pair.stock, pair.plugin)]
    return answers
