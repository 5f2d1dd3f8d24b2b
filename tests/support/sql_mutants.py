"""Breaks one clause of the SQL at a time, and looks whether a test fails. `make mutants ARGS="bump parts/stale"`.

It is a pytest that collects the tests of the SQL once. For each mutant it installs a copy of dagbump with that SQL, and
runs tests in a child: first those that have killed most of the others, then those of the functions that have the file
in them. `.cache/mutants.json` keeps what became of each mutant, so that a run can be continued.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from support import sql_clauses
from support.processes import CHECKOUT
from support.sql_clauses import SOURCES, Mutant

TREE = CHECKOUT / ".cache/mutants"
KNOWN = CHECKOUT / ".cache/mutants.json"
# Mutants that no test can kill: FILE | MUTANT | REASON.
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
TITLE = "Mutants"
ALL_TESTS = ["tests/sql"]
SURVIVES, NOT_INSTALLED, ENDLESS = "survives", "does not install", "waits for ever"
SECONDS_PER_TEST = 60


def functions_of() -> dict[str, list[str]]:
    """Return the functions that have a file of `sql/` in them."""
    texts = {path: path.read_text("utf-8") for path in SOURCES.rglob("*.sql")}
    users: dict[str, list[str]] = {}

    def use(paths: list[Path], function: str) -> None:
        for path in paths:
            functions = users.setdefault(path.relative_to(SOURCES).as_posix(), [])
            if function not in functions:
                functions.append(function)
                for part in re.findall(r"@include:(\w+)@", texts[path]):
                    use([each for each in texts if each.stem == part and "parts" in each.parts], function)

    for path in sorted(SOURCES.glob("*.sql")):
        use([path], path.stem)
    return users


class Runner:
    """A plugin of pytest that runs tests for each mutant, in place of all tests once."""

    def __init__(self, mutants: list[Mutant], known: dict[str, str], server: Any) -> None:
        self.mutants, self.known, self.server = mutants, known, server
        self.users = functions_of()
        self.items: list[pytest.Item] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        from dagbump.installation import sql_files

        from support import airflow_tables

        assert sql_files.SOURCES == TREE / "sql", "the tests do not use the copy"
        airflow_tables.make(self.server.create_database("airflow_of_mutants"), TREE)
        self.items = session.items
        for number, mutant in enumerate(self.mutants, 1):
            began = time.monotonic()
            target = TREE / "sql" / mutant.path
            target.write_text(mutant.text, "utf-8")
            fate = self.fate_of(mutant)
            shutil.copyfile(SOURCES / mutant.path, target)
            self.known[mutant.name] = fate
            KNOWN.write_text(json.dumps(self.known, indent=1), "utf-8")
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

    def fate_of(self, mutant: Mutant) -> str:
        from dagbump import database
        from dagbump.installation import installer

        from support.server import libpq

        url = self.server.create_database("mutant", "airflow_of_mutants")
        engine = database.create_engine(libpq(url))
        try:
            installer.upgrade(engine)
        except Exception:  # noqa: BLE001  (whatever the server says to it)
            return NOT_INSTALLED
        finally:
            engine.dispose()
        return self.first_failure(self.in_order(mutant)) or SURVIVES

    def in_order(self, mutant: Mutant) -> list[pytest.Item]:
        """Return the tests, those first that are likely to fail."""
        killers = Counter(self.known.values())
        of_file = Counter(test for name, test in self.known.items() if name.startswith(f"{mutant.path} |"))
        named = re.compile(rf"\b(?:{'|'.join(self.users.get(mutant.path) or ['dagbump'])})\b")
        near = {path: len(named.findall(path.read_text("utf-8"))) for path in {item.path for item in self.items}}
        likely = {test for killed in (of_file, killers) for test, _ in killed.most_common(8)}

        def rank(item: pytest.Item) -> tuple[Any, ...]:
            return item.nodeid not in likely, -of_file[item.nodeid], -killers[item.nodeid], -near[item.path]

        return sorted((item for item in self.items if near[item.path]), key=rank)

    def first_failure(self, items: Sequence[pytest.Item]) -> str | None:
        """Run tests in a child, which ends with the first that fails."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            log = os.open(TREE / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            items[0].config.pluginmanager.register(_Watcher(writing))
            status = 1
            try:
                for item, following in zip(items, [*items[1:], None], strict=True):
                    signal.alarm(SECONDS_PER_TEST)
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            failed = pipe.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return ENDLESS
        if status:
            raise RuntimeError(f"the tests could not be run: {TREE / 'log'}")
        return failed or None


class _Watcher:
    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            print(report.longreprtext, flush=True)
            os.write(self.pipe, report.nodeid.encode())
            os._exit(0)


def equivalent() -> set[str]:
    lines = EQUIVALENT.read_text("utf-8").splitlines()
    return {line.rpartition(" | ")[0] for line in lines if line and not line.startswith("#")}


def report(mutants: list[Mutant], known: dict[str, str], *, of_all_tests: bool) -> int:
    """Name the survivors, keep the figures if all tests could kill them, and return the number of survivors."""
    from support import proof

    ran = [mutant for mutant in mutants if known.get(mutant.name, NOT_INSTALLED) != NOT_INSTALLED]
    alive = [mutant for mutant in ran if known[mutant.name] == SURVIVES]
    survivors = [mutant for mutant in alive if mutant.name not in equivalent()]
    print(*(f"survives: sql/{mutant.path}:{mutant.line}: {mutant.what}" for mutant in survivors), sep="\n")
    counted = {
        "clauses of the SQL that can be broken": len(mutants),
        "mutants that were run, each with one clause broken": len(ran),
        "of these, killed by a test": len(ran) - len(alive),
        "of these, changing nothing that anybody can see, each named with its reason": len(alive) - len(survivors),
        "of these, surviving": len(survivors),
        "mutants that PostgreSQL refuses to install": sum(
            known.get(mutant.name) == NOT_INSTALLED for mutant in mutants
        ),
    }
    if of_all_tests:
        proof.record(TITLE, "make mutants", counted)
    return len(survivors)


def main() -> int:
    """Run what is asked for, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="below sql/, without .sql; all by default")
    parser.add_argument("--tests", nargs="+", default=ALL_TESTS, help="which tests may kill them")
    arguments = parser.parse_args()
    everything = [mutant for path in sorted(SOURCES.rglob("*.sql")) for mutant in sql_clauses.mutants(path)]
    wanted = {f"{name}.sql" for name in arguments.files} or {mutant.path for mutant in everything}
    known: dict[str, str] = json.loads(KNOWN.read_text("utf-8")) if KNOWN.exists() else {}
    done = {name for name, fate in known.items() if fate != SURVIVES} | equivalent()
    left = [mutant for mutant in everything if mutant.path in wanted and mutant.name not in done]

    shutil.rmtree(TREE, ignore_errors=True)
    for name in ("py_client", "sql", "migrations"):
        shutil.copytree(CHECKOUT / name, TREE / name, ignore=shutil.ignore_patterns("__pycache__"))
    os.environ["PYTHONPATH"] = str(TREE / "py_client")
    sys.path.insert(0, str(TREE / "py_client"))  # before dagbump is imported
    from support import server

    with server.start(image="embedded") as postgres:
        os.environ["DAGBUMP_TEST_URL"] = postgres.url.render_as_string(hide_password=False)
        words = ["-q", "-s", "-p", "no:cacheprovider", *arguments.tests]
        failed = pytest.main(words, plugins=[Runner(left, known, postgres)]) not in {
            0,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        }
    return 1 if failed else min(report(everything, known, of_all_tests=arguments.tests == ALL_TESTS), 1)


if __name__ == "__main__":
    sys.exit(main())
