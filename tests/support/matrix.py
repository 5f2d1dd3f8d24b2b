"""`make test-matrix`: the suite on every pair of an Airflow schema and a PostgreSQL, and on every Python, as tables.

The pairs run what is about SQL: not the command line, nor what takes a real Airflow. Pythons run all of the suite but
that, on one pair. What the machine lacks is not brought, and shown as not run. With --write, docs/matrix.json keeps
each outcome with its day and commit as soon as it is there, so the whole can be run in parts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree as ET

from packaging.version import Version
from uv import find_uv_bin

from support.processes import CHECKOUT
from support.releases import environments
from support.server import engine_answers

DOCUMENT = CHECKOUT / "docs" / "matrix.md"
RECORD = DOCUMENT.with_suffix(".json")
AIRFLOWS = sorted({*environments.RELEASES, *environments.OTHER_RELEASES, *environments.BETAS}, key=Version)
# Where each PostgreSQL comes from: the values of DAGBUMP_POSTGRES_IMAGE.
POSTGRESES = {
    "13": "embedded:13",
    "14": "embedded:14",
    "15": "postgres:15",
    "16": "embedded:16",
    "17": "postgres:17",
    "18": "embedded",
}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

# Tests that say little about the pair: of the command line, of Python, of the tests' own tools.
LEFT_OUT = ("beside_airflow", "benchmark", "cli", "demo", "revisions", "run", "server", "terminal", "url")
MARKS = "not once and not airflow and not migrations and not ui"

NOT_RUN = "not run"
_BLOCK = re.compile(r"(<!-- generated -->\n).*(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """What came of a run of pytest, or why there was none."""

    day: str
    commit: str  # "… and changes": with what was not committed
    seconds: float = 0
    passed: int = 0
    failed: Sequence[str] = ()
    not_run: str | None = None

    def __str__(self) -> str:
        """Return what a cell of the table says."""
        if self.not_run:
            return f"{NOT_RUN}: {self.not_run}"
        if self.failed:
            return f"**{len(self.failed)} of {self.passed + len(self.failed)} failed**"
        return f"{self.passed} passed"


def run_pair(airflow: str, postgres: str) -> Outcome:
    """Run the tests of SQL on a pair."""
    image = POSTGRESES[postgres]
    if not image.startswith("embedded") and not engine_answers():
        return Outcome(*_now(), not_run="no container engine")
    left_out = [f"--ignore=tests/test_{name}.py" for name in LEFT_OUT]
    variables = {"DAGBUMP_AIRFLOW": airflow, "DAGBUMP_POSTGRES_IMAGE": image, "DAGBUMP_REQUIRE_CONTAINERS": "1"}
    return _pytest(Path(sys.executable), ("-m", MARKS, *left_out, "tests"), variables)


def run_python(version: str) -> Outcome:
    """Run the suite on a Python, in an environment of its own, where the machine has it."""
    python = find_python(version)
    if python is None:
        return Outcome(*_now(), not_run=f"no Python {version} there")
    environment = CHECKOUT / ".cache" / f"python-{version}"
    subprocess.run(
        ["make", "--silent", f"VENV={environment}", f"PYTHON={python}", f"{environment}/.dev"],
        cwd=CHECKOUT,
        check=True,
    )
    variables = {"DAGBUMP_AIRFLOW": environments.DEFAULT_RELEASE, "DAGBUMP_POSTGRES_IMAGE": POSTGRESES["18"]}
    return _pytest(environment / "bin" / "python", ("-m", MARKS), variables)


def find_python(version: str) -> str | None:
    """Find a Python that the machine has, on its path or among those of pyenv, whose path may lead to another one."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    path = os.pathsep.join([*map(str, pyenv.glob(f"versions/{version}.*/bin")), os.environ["PATH"]])
    found = subprocess.run(
        [find_uv_bin(), "python", "find", "--no-python-downloads", "--no-project", "--system", version],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() if found.returncode == 0 else None


def _pytest(python: Path, words: Sequence[str], variables: dict[str, str]) -> Outcome:
    now, began = _now(), time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [str(python), "-m", "pytest", "-q", f"--junitxml={report}", "-p", "no:cacheprovider", *words]
        # DAGBUMP_TEST_URL would be the server of every pair.
        kept = {name: value for name, value in os.environ.items() if name not in {"DAGBUMP_TEST_URL", "PYTHONPATH"}}
        done = subprocess.run(command, cwd=CHECKOUT, env=kept | variables, check=False)
        # Without a report nothing has run: no server, say.
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []  # noqa: S314  (pytest, started above, wrote it)
    ended = [(case, {child.tag for child in case}) for case in cases]
    failed = [_name(case) for case, how in ended if how & {"failure", "error"}]
    passed = sum(not how & {"failure", "error", "skipped"} for _, how in ended)
    if done.returncode > 1 or (done.returncode and not failed):  # 1: tests failed; more: cut off, say
        failed.append(f"pytest ended with {done.returncode}")
    return Outcome(*now, seconds=time.monotonic() - began, passed=passed, failed=failed)


def _name(case: ET.Element) -> str:
    return f"{case.get('classname', '').replace('tests.', '')}.{case.get('name')}"


def _now() -> tuple[str, str]:
    changed = " and changes" if _git("status", "--porcelain", "-uno", "--", ".", ":!docs/matrix.*") else ""
    return f"{datetime.now(timezone.utc):%Y-%m-%d}", _git("rev-parse", "--short", "HEAD") + changed


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()


# ---- The tables ----

Results = dict[str, dict[str, Outcome]]  # by Airflow, or "Python"; then by PostgreSQL, or the version of Python


def tables(results: Results) -> str:
    """Write the results as Markdown: two tables, when they came about, and what has failed."""

    def cell(row: str, column: str) -> str:
        return str(results.get(row, {}).get(column, NOT_RUN))

    header = ["Airflow's schema", *(f"PostgreSQL {postgres}" for postgres in POSTGRESES)]
    rows = [[airflow, *(cell(airflow, postgres) for postgres in POSTGRESES)] for airflow in AIRFLOWS]
    pythons = [[version, cell("Python", version)] for version in PYTHONS]
    suite = f"the suite, on Airflow {environments.DEFAULT_RELEASE} and PostgreSQL 18"
    blocks = (_table(header, rows), _table(["Python", suite], pythons), _when(results), _failures(results))
    return "\n".join(block for block in blocks if block)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |\n" for line in lines
    )


def _when(results: Results) -> str:
    runs: dict[str, dict[str, list[str]]] = {}
    for row, column, outcome in _each(results):
        if not outcome.not_run:
            runs.setdefault(f"{outcome.day}, commit {outcome.commit}", {}).setdefault(row, []).append(column)
    return "".join(
        f"- {when}: {'; '.join(f'{row} on ' + ', '.join(columns) for row, columns in what.items())}\n"
        for when, what in sorted(runs.items())
    )


def _failures(results: Results) -> str:
    return "\n".join(
        f"{row} on {column}:\n\n" + "".join(f"- `{name}`\n" for name in outcome.failed)
        for row, column, outcome in _each(results)
        if outcome.failed
    )


def _each(results: Results) -> Iterator[tuple[str, str, Outcome]]:
    for row in (*AIRFLOWS, "Python"):
        for column, outcome in sorted(results.get(row, {}).items(), key=lambda item: Version(item[0])):
            yield row, column, outcome


def read_record() -> Results:
    """Read the outcomes that earlier runs have recorded."""
    rows = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    return {row: {column: Outcome(**outcome) for column, outcome in cells.items()} for row, cells in rows.items()}


def record(row: str, column: str, outcome: Outcome) -> None:
    """Record an outcome, and put the tables of all into the page."""
    results = read_record()
    results.setdefault(row, {})[column] = outcome
    rows = {name: {key: asdict(one) for key, one in cells.items()} for name, cells in results.items()}
    RECORD.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", "utf-8")
    page = DOCUMENT.read_text("utf-8")
    DOCUMENT.write_text(_BLOCK.sub(lambda found: f"{found[1]}{tables(results)}{found[2]}", page), "utf-8")


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for, print the tables, and record them where that is asked for too."""
    options = _options(arguments)
    ran: Results = {}

    def keep(row: str, column: str, outcome: Outcome) -> None:
        print(f"=== {row} on {column}: {outcome}, in {outcome.seconds:.0f} s", flush=True)
        ran.setdefault(row, {})[column] = outcome
        if options.write:
            record(row, column, outcome)

    for postgres in options.postgres:
        for airflow in options.airflow:
            keep(airflow, postgres, run_pair(airflow, postgres))
    for version in options.python:
        keep("Python", version, run_python(version))
    print(f"\n{tables(ran)}")
    return int(any(outcome.failed for _, _, outcome in _each(ran)))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make test-matrix", description=__doc__)
    parser.add_argument("--airflow", type=_list_of(AIRFLOWS), help=f"of {', '.join(AIRFLOWS)}")
    parser.add_argument("--postgres", type=_list_of(POSTGRESES), help=f"of {', '.join(POSTGRESES)}")
    parser.add_argument("--python", type=_list_of(PYTHONS), help=f"of {', '.join(PYTHONS)}")
    parser.set_defaults(airflow=[], postgres=[], python=[])
    parser.add_argument(
        "--write", action="store_true", help="record them in docs/matrix.*, beside those of earlier runs"
    )
    options = parser.parse_args(arguments)
    everything = not (options.airflow or options.postgres or options.python)
    if everything or options.airflow or options.postgres:
        options.airflow = options.airflow or AIRFLOWS
        options.postgres = options.postgres or list(POSTGRESES)
    if everything:
        options.python = list(PYTHONS)
    options.write |= everything
    return options


def _list_of(known: Sequence[str] | Mapping[str, str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
