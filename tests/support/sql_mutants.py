"""Breaks one clause of the SQL at a time, and looks whether a test fails. `make mutants ARGS="bump parts/stale"`.

It is a pytest that collects the tests of the SQL once. For each mutant it installs a copy of dagbump with that SQL, and
runs tests in a child up to the first that fails: those that mention a function with that file in it, the likely and
quick ones first. `.cache/mutants.json` keeps what became of each mutant. A further run tries those again that have
survived: with other --tests, with the tables of another DAGBUMP_AIRFLOW, or with more --seconds of tests.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Any, NoReturn, TypedDict

import pytest

from support import sql_clauses
from support.processes import CHECKOUT
from support.sql_clauses import SOURCES, Mutant

# Mutants that no test can kill: FILE | MUTANT | REASON.
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
TITLE = "Mutants"
# A file is counted for the first of these functions that has it in it.
AREAS, OTHERS = ("bump", "repair", "preview", "check", "verify_scope"), "others"
ROWS = (
    "clauses that can be broken",
    "a test fails",
    "with it, dagbump cannot be installed",
    "changes nothing, named with the reason",
    "no test fails",
    "not run",
)
SURVIVES, NOT_INSTALLED, ENDLESS = "survives", "does not install", "waits for ever"
FAILED = "failed"
_WORD = re.compile(r"[a-z]\w{3,}")
SECONDS_PER_TEST = 60


class Known(TypedDict):
    """What is kept between runs; see Runner."""

    fates: dict[str, str]
    seconds: dict[str, float]


def functions_of() -> dict[str, list[str]]:
    """Return the functions that have a file of `sql/` in them, or call a function that has."""
    texts = {path: path.read_text("utf-8").partition("\nCOMMENT ON")[0] for path in SOURCES.rglob("*.sql")}
    users: dict[str, list[str]] = {}

    def use(paths: list[Path], function: str) -> None:
        for path in paths:
            functions = users.setdefault(path.relative_to(SOURCES).as_posix(), [])
            if function not in functions:
                functions.append(function)
                for kind, name in re.findall(r"(@include:|dagbump\.)(\w+)[@(]", texts[path]):
                    in_parts = kind != "dagbump."
                    use([each for each in texts if each.stem == name and ("parts" in each.parts) is in_parts], function)

    for path in sorted(SOURCES.glob("*.sql")):
        use([path], path.stem)
    return users


class Runner:
    """A plugin of pytest that runs tests for each mutant, in place of all tests once.

    Attributes:
        tree: the copy of dagbump that the tests use.
        fates: what became of each mutant, by its name: the test that has killed it, or why none has.
        seconds: how long each test takes where nothing is broken. A test that fails there kills nobody.
        at_most: for how many seconds tests are run for each mutant.
    """

    def __init__(self, tree: Path, mutants: list[Mutant], known: Known, server: Any, at_most: float) -> None:
        self.tree, self.mutants, self.known, self.server, self.at_most = tree, mutants, known, server, at_most
        self.fates, self.seconds = known["fates"], known["seconds"]
        self.users = functions_of()
        self.items: list[pytest.Item] = []
        self.words: dict[str, set[str]] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        from dagbump.installation import sql_files

        from support import airflow_tables

        assert self.tree / "sql" == sql_files.SOURCES, "the tests do not use the copy"
        airflow_tables.make(self.server.create_database("airflow_of_mutants"), self.tree)
        self.items = session.items
        self.words = {item.nodeid: set(_WORD.findall(_source_of(item))) for item in self.items}
        self.measure()
        for number, mutant in enumerate(self.mutants, 1):
            began = time.monotonic()
            target = self.tree / "sql" / mutant.path
            target.write_text(mutant.text, "utf-8")
            fate = self.fate_of(mutant)
            shutil.copyfile(SOURCES / mutant.path, target)
            self.fates[mutant.name] = fate
            self.keep()
            seconds = time.monotonic() - began
            print(f"{number}/{len(self.mutants)} {seconds:.0f} s {mutant.line}: {mutant.name}: {fate}", flush=True)
        return True

    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> str | None:
        """Give the tests the templates that are there already."""
        names = {"airflow_template": "airflow_of_mutants", "dagbump_template": "mutant"}
        name = names.get(fixturedef.argname)
        if name:
            fixturedef.cached_result = (name, fixturedef.cache_key(request), None)
        return name

    def keep(self) -> None:
        self.tree.with_suffix(".json").write_text(json.dumps(self.known, indent=1), "utf-8")

    def measure(self) -> None:
        """Run the tests that are new where nothing is broken, and go on with those that pass."""
        new = [item for item in self.items if item.nodeid not in self.seconds]
        assert self.install()
        while new:
            passed, failed = self.run(new)
            self.seconds.update(passed)
            self.keep()
            new = new[len(passed) + 1 :]
            if failed:
                print(f"fails where nothing is broken, and is left out: {failed}", flush=True)
        self.items = [item for item in self.items if item.nodeid in self.seconds]

    def install(self) -> bool:
        """Make the database that the tests copy. Return whether that works."""
        from dagbump import database
        from dagbump.installation import installer

        from support.server import libpq

        url = self.server.create_database("mutant", "airflow_of_mutants")
        engine = database.create_engine(libpq(url))
        try:
            installer.upgrade(engine)
        except Exception:  # noqa: BLE001  (whichever way the server refuses a mutant, it cannot be installed)
            return False
        finally:
            engine.dispose()
        return True

    def fate_of(self, mutant: Mutant) -> str:
        if not self.install():
            return NOT_INSTALLED
        tests = self.in_order(mutant)
        return (tests and self.run(tests)[1]) or SURVIVES

    def in_order(self, mutant: Mutant) -> list[pytest.Item]:
        """Return the tests that may fail. Those come first that have killed many others, or have rare words of the
        clause in them, and take little time.
        """
        killers = Counter(self.fates.values())
        of_file = Counter(test for name, test in self.fates.items() if name.startswith(f"{mutant.path} |"))
        named = re.compile(rf"\b(?:{'|'.join(self.users.get(mutant.path) or ['dagbump'])})\b")
        tests = Counter(item.path for item in self.items)
        near = {path: len(named.findall(path.read_text("utf-8"))) / tests[path] for path in tests}
        words = {item: self.words[item.nodeid] & set(_WORD.findall(mutant.what)) for item in self.items}
        used = Counter(word for shared in words.values() for word in shared)

        def rank(item: pytest.Item) -> float:
            test = item.nodeid
            if shares_a_fixture(item) and not of_file[test]:
                return 0  # in their own order, at the end
            rare = sum(20 / used[word] for word in words[item])
            return -(10 * of_file[test] + killers[test] + near[item.path] + rare) / (self.seconds[test] + 0.05)

        items = sorted((item for item in self.items if near[item.path]), key=rank)
        after = accumulate(self.seconds[item.nodeid] for item in items)
        return [item for item, seconds in zip(items, after, strict=True) if seconds <= self.at_most]

    def run(self, items: Sequence[pytest.Item]) -> tuple[dict[str, float], str]:
        """Run tests in a child, up to the first that fails. Return the seconds of those that passed, and that one."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            _run_and_exit(items, self.tree / "log", writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            ended = [line.rpartition(" ") for line in pipe.read().splitlines()]
        _, status = os.waitpid(child, 0)
        failed = next((test for test, _, seconds in ended if seconds == FAILED), "")
        if status and not os.WIFSIGNALED(status):
            raise RuntimeError(f"the tests could not be run: {self.tree / 'log'}")
        return {test: float(seconds) for test, _, seconds in ended if seconds != FAILED}, ENDLESS if status else failed


def _source_of(item: pytest.Item) -> str:
    assert isinstance(item, pytest.Function)
    return item.nodeid + inspect.getsource(item.function)


def shares_a_fixture(item: pytest.Item) -> bool:
    """Return whether other tests use a fixture of this one, whose time only the first of them takes."""
    assert isinstance(item, pytest.Function)
    fixtures = [each for several in item._fixtureinfo.name2fixturedefs.values() for each in several]
    return any(each.scope in {"module", "class"} or each.argname == "trapped_template" for each in fixtures)


def _run_and_exit(items: Sequence[pytest.Item], log: Path, pipe: int) -> NoReturn:
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        watcher = _Watcher(pipe)
        items[0].config.pluginmanager.register(watcher)
        signal.signal(signal.SIGALRM, _give_up)
        for item, following in zip(items, [*items[1:], None], strict=True):
            signal.alarm(SECONDS_PER_TEST)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if watcher.failed:
                # Roles and settings of the server would be left to the tests of the next mutant.
                item.session._setupstate.teardown_exact(None)
                break
        status = 0
    finally:
        os._exit(status)


def _give_up(*_: object) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process, should it not end by itself
    signal.alarm(SECONDS_PER_TEST)
    pytest.fail(ENDLESS)


class _Watcher:
    """Reports each test that has ended, with its seconds or FAILED."""

    def __init__(self, pipe: int) -> None:
        self.pipe, self.seconds, self.failed = pipe, 0.0, False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds += report.duration
        if report.failed:
            self.failed = True
            print(report.longreprtext, flush=True)
        if report.when == "teardown":
            os.write(self.pipe, f"{report.nodeid} {FAILED if self.failed else round(self.seconds, 3)}\n".encode())
            self.seconds = 0


def equivalent() -> set[str]:
    lines = EQUIVALENT.read_text("utf-8").splitlines()
    return {line.rpartition(" | ")[0] for line in lines if line and not line.startswith("#")}


def report(mutants: list[Mutant], fates: dict[str, str]) -> int:
    """Name the survivors, keep the figures, and return the number of survivors."""
    from support import proof

    ignored, users = equivalent(), functions_of()
    counted: dict[str, Counter[str]] = {row: Counter(dict.fromkeys((*AREAS, OTHERS), 0)) for row in ROWS}
    for mutant in mutants:
        fate = fates.get(mutant.name)
        kept = {None: "not run", NOT_INSTALLED: "with it, dagbump cannot be installed", SURVIVES: "no test fails"}
        row = "changes nothing, named with the reason" if mutant.name in ignored else kept.get(fate, "a test fails")
        area = next((area for area in AREAS if area in users.get(mutant.path, ())), OTHERS)
        counted["clauses that can be broken"][area] += 1
        counted[row][area] += 1
        if row == kept[SURVIVES]:
            print(f"survives: sql/{mutant.path}:{mutant.line}: {mutant.what}")
    proof.record(TITLE, "make mutants", counted)
    return counted[ROWS[-2]].total()


def main() -> int:
    """Run what is asked for, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="below sql/, without .sql, the first first; all by default")
    parser.add_argument("--tests", nargs="+", default=["tests/sql"], help="which tests may kill them")
    parser.add_argument("--seconds", type=float, default=inf, help="of tests for each mutant, at most")
    parser.add_argument(
        "--tree", type=Path, default=CHECKOUT / ".cache/mutants", help="for the copy; and what is known"
    )
    arguments = parser.parse_args()
    everything = [mutant for path in sorted(SOURCES.rglob("*.sql")) for mutant in sql_clauses.mutants(path)]
    tree: Path = arguments.tree
    kept = tree.with_suffix(".json")
    known: Known = json.loads(kept.read_text("utf-8")) if kept.exists() else {"fates": {}, "seconds": {}}
    done = {name for name, fate in known["fates"].items() if fate != SURVIVES} | equivalent()
    wanted = [f"{name}.sql" for name in arguments.files] or list(dict.fromkeys(mutant.path for mutant in everything))
    left = [mutant for mutant in everything if mutant.path in wanted and mutant.name not in done]
    left.sort(key=lambda mutant: (mutant.name in known["fates"], wanted.index(mutant.path)))

    shutil.rmtree(tree, ignore_errors=True)
    for name in ("py_client", "sql", "migrations"):
        shutil.copytree(CHECKOUT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    os.environ["PYTHONPATH"] = str(tree / "py_client")
    sys.path.insert(0, str(tree / "py_client"))  # before dagbump is imported
    from support import server

    with server.start(image="embedded") as postgres:
        os.environ["DAGBUMP_TEST_URL"] = postgres.url.render_as_string(hide_password=False)
        words = ["-q", "-s", "-p", "no:cacheprovider", *arguments.tests]
        ended = pytest.main(words, plugins=[Runner(tree, left, known, postgres, arguments.seconds)])
    failed = ended not in {0, pytest.ExitCode.NO_TESTS_COLLECTED}
    return 1 if failed else min(report(everything, known["fates"]), 1)


if __name__ == "__main__":
    sys.exit(main())
