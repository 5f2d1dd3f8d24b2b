"""Runs tests on each pair of PostgreSQL and Airflow, and on each Python: `make test-matrix` and `make pairs`.

With DAGBUMP_RECORD=1, docs/proof.json keeps how many tests have passed where. What has passed at this commit is not run
again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Figure
from support import proof
from support.processes import CHECKOUT
from support.releases import environments

PAIRS, PYTHONS = "PostgreSQL and Airflow", "Python"
PASSED = "tests passed"
_COMMAND = "make pairs"
_RECORDS = os.environ.get("DAGBUMP_RECORD") == "1"
_NEWEST_POSTGRES = "18"
_PYTHON = ".cache/python-{}"
# What the client and the installation depend on, by the names of the packages.
_VERSIONS = """
import json, platform
from importlib.metadata import version
packages = {"SQLAlchemy": "sqlalchemy", "psycopg": "psycopg", "psycopg2": "psycopg2-binary", "asyncpg": "asyncpg"}
print(json.dumps({"version": platform.python_version(), **{name: version(one) for name, one in packages.items()}}))
"""


@dataclass(frozen=True)
class Place:
    """Where the tests are run, and the cell of a table that says how many passed there."""

    table: str
    row: str
    column: str
    variables: Mapping[str, str] = field(default_factory=dict)
    python: str = ""  # a version, or the path of an interpreter; empty: the one that runs this

    def __str__(self) -> str:
        return self.row if self.table == PYTHONS else f"{self.row}, {self.column}"


def pairs(releases: Sequence[str], images: Sequence[str]) -> Iterator[Place]:
    """Return each pair of a PostgreSQL, given as DAGBUMP_POSTGRES_IMAGE, and the tables of an Airflow release."""
    for image in images:
        row = f"PostgreSQL {image.partition(':')[2] or _NEWEST_POSTGRES}"
        for release in releases:
            yield Place(PAIRS, row, release, {"DAGBUMP_POSTGRES_IMAGE": image, "DAGBUMP_AIRFLOW": release})


def pythons(interpreters: Sequence[str]) -> Iterator[Place]:
    """Return each Python, given by its version or its path."""
    for name in interpreters:
        (version,) = re.findall(r"3\.\d+$", name)
        yield Place(PYTHONS, f"Python {version}", PASSED, python=name)


def has_passed(place: Place) -> bool:
    """Return whether the tests have passed there at this commit."""
    row = proof.counted(place.table).get(place.row)
    return isinstance(row, dict) and isinstance(row.get(place.column), int)


def run(place: Place, arguments: Sequence[str]) -> bool:
    """Run tests there, and return whether they passed."""
    python, versions = with_wheel(place.python) if place.python else (sys.executable, {})
    variables = {**os.environ, **place.variables, "DAGBUMP_REQUIRE_CONTAINERS": "1"}
    line = ""
    with subprocess.Popen(
        [python, "-m", "pytest", *arguments], cwd=CHECKOUT, env=variables, stdout=subprocess.PIPE, text=True
    ) as pytest:
        for line in pytest.stdout or ():
            print(line, end="", flush=True)
            if found := re.match(r"PostgreSQL (\S+) .*from ", line):  # the header
                versions = versions or {"version": found[1]}
    succeeded = pytest.returncode == 0
    if _RECORDS:
        passed = re.search(r"(\d+) passed", line) if succeeded else None
        figure: Figure = int(passed[1]) if passed else "failed"
        proof.record(place.table, _COMMAND, {place.row: {**versions, place.column: figure}})
    return succeeded


def with_wheel(interpreter: str) -> tuple[str, dict[str, Figure]]:
    """Return the Python of a new environment with dagbump's wheel and what the tests need, and what is in it."""
    environment = CHECKOUT / _PYTHON.format(Path(interpreter).name.removeprefix("python"))
    python = str(environment / "bin" / "python")
    pins = () if environments.NEWEST else ("--constraint", str(environments.PINS / "development.txt"))
    environments.uv("venv", "--clear", "--no-python-downloads", "--python", interpreter, str(environment))
    with tempfile.TemporaryDirectory() as directory:
        wheel = environments.build_wheel(Path(directory))
        group = f"{CHECKOUT / 'pyproject.toml'}:test"
        environments.uv("pip", "install", "--python", python, *pins, str(wheel), "--group", group)
    versions = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=True).stdout
    return python, json.loads(versions)


def main() -> int:
    """Run them all, and return an exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--airflow", nargs="*", default=[], help="the releases whose tables the tests use")
    options.add_argument("--postgres", nargs="*", default=[], help="values of DAGBUMP_POSTGRES_IMAGE")
    options.add_argument("--python", nargs="*", default=[], help="versions, or paths, of interpreters")
    options.add_argument("pytest", nargs="*", help="arguments of pytest, behind --")
    given = options.parse_args()
    if _RECORDS and proof.is_changed():
        options.error("DAGBUMP_RECORD=1 keeps what passed at a commit, and there are changes that are not committed")
    failed = []
    for place in (*pairs(given.airflow, given.postgres), *pythons(given.python)):
        print(f"=== {place}", flush=True)
        if _RECORDS and has_passed(place):
            print("has passed at this commit")
        elif not run(place, given.pytest):
            failed.append(str(place))
    print("failed: " + "; ".join(failed) if failed else "all passed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
