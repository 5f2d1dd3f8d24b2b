"""`make test-matrix`: the suite on every pair of an Airflow schema and a PostgreSQL, and on every Python, as tables.

The pairs run what is about SQL: not the command line, nor what takes a real Airflow. Pythons run all of the suite but
that, on one pair. What the machine lacks is not brought, and shown as not run.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree as ET

from packaging.version import Version
from uv import find_uv_bin

from support.processes import CHECKOUT
from support.releases import environments
from support.server import engine_answers

DOCUMENT = CHECKOUT / "docs" / "matrix.md"
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
LEFT_OUT = ("beside_airflow", "benchmark", "cli", "demo", "real_airflow", "revisions", "run", "terminal", "url")
MARKS = "not once and not airflow and not migrations"

NOT_RUN = "not run"
_BLOCK = re.compile(r"(<!-- generated -->\n).*(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """What came of a run of pytest."""

    passed: int
    failed: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        """Return what a cell of the table says."""
        if self.failed:
            return f"**{len(self.failed)} of {self.passed + len(self.failed)} failed**"
        return f"{self.passed} passed"


def run_pair(airflow: str, postgres: str) -> Outcome | str:
    """Run the tests of SQL on a pair; return why not, where the machine lacks something."""
    image = POSTGRESES[postgres]
    if not image.startswith("embedded") and not engine_answers():
        return f"{NOT_RUN}: no container engine"
    left_out = [f"--ignore=tests/test_{name}.py" for name in LEFT_OUT]
    variables = {"DAGBUMP_AIRFLOW": airflow, "DAGBUMP_POSTGRES_IMAGE": image}
    return _pytest(Path(sys.executable), ("-m", MARKS, *left_out, "tests"), variables)


def run_python(version: str) -> Outcome | str:
    """Run the suite on a Python, in an environment of its own, where the machine has it."""
    python = find_python(version)
    if python is None:
        return f"{NOT_RUN}: no Python {version} here"
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
    began = time.monotonic()
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
    return Outcome(passed, tuple(failed), time.monotonic() - began)


def _name(case: ET.Element) -> str:
    return f"{case.get('classname', '').replace('tests.', '')}.{case.get('name')}"


# ---- The tables ----

Results = dict[tuple[str, str], "Outcome | str"]  # by Airflow and PostgreSQL, or by "Python" and its version


def tables(results: Results) -> str:
    """Write the results as Markdown: two tables, and what has failed."""
    header = ["Airflow's schema", *(f"PostgreSQL {postgres}" for postgres in POSTGRESES)]
    rows = [[airflow, *(str(results.get((airflow, one), NOT_RUN)) for one in POSTGRESES)] for airflow in AIRFLOWS]
    pythons = [[version, str(results.get(("Python", version), NOT_RUN))] for version in PYTHONS]
    suite = f"the suite, on Airflow {environments.DEFAULT_RELEASE} and PostgreSQL 18"
    return "\n".join([_table(header, rows), _table(["Python", suite], pythons), *_failures(results)])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |\n" for line in lines
    )


def _failures(results: Results) -> Iterator[str]:
    for (row, column), outcome in results.items():
        if isinstance(outcome, Outcome) and outcome.failed:
            yield f"{row}, {column}:\n" + "".join(f"- `{name}`\n" for name in outcome.failed)


def document(text: str, results: Results, command: str) -> str:
    """Put the tables into the page, with how they came about."""
    commit = _git("rev-parse", "--short", "HEAD") + (" and changes" if _git("status", "--porcelain", "-uno") else "")
    about = f"`{command}`, {datetime.now(timezone.utc):%Y-%m-%d}, commit {commit}.\n"
    return _BLOCK.sub(lambda found: f"{found[1]}{about}\n{tables(results)}{found[2]}", text)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for, print the tables, and write them into the page."""
    options = _options(arguments)
    results: Results = {}
    for airflow in options.airflow:
        for postgres in options.postgres:
            results[airflow, postgres] = _said(f"Airflow {airflow}, PostgreSQL {postgres}", run_pair(airflow, postgres))
    for version in options.python:
        results["Python", version] = _said(f"Python {version}", run_python(version))
    print(f"\n{tables(results)}")
    if options.write:
        command = " ".join(["make test-matrix", *([f'ARGS="{" ".join(arguments)}"'] if arguments else [])])
        DOCUMENT.write_text(document(DOCUMENT.read_text("utf-8"), results, command), "utf-8")
    return int(any(isinstance(outcome, Outcome) and outcome.failed for outcome in results.values()))


def _said(what: str, outcome: Outcome | str) -> Outcome | str:
    took = f", in {outcome.seconds:.0f} s" if isinstance(outcome, Outcome) else ""
    print(f"=== {what}: {outcome}{took}", flush=True)
    return outcome


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make test-matrix", description=__doc__)
    parser.add_argument("--airflow", type=_list_of(AIRFLOWS), help=f"of {', '.join(AIRFLOWS)}")
    parser.add_argument("--postgres", type=_list_of(POSTGRESES), help=f"of {', '.join(POSTGRESES)}")
    parser.add_argument("--python", type=_list_of(PYTHONS), help=f"of {', '.join(PYTHONS)}")
    parser.set_defaults(airflow=[], postgres=[], python=[])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/matrix.md, as a run of all does")
    options = parser.parse_args(arguments)
    everything = not (options.airflow or options.postgres or options.python)
    if everything or options.airflow or options.postgres:
        options.airflow = options.airflow or AIRFLOWS
        options.postgres = options.postgres or list(POSTGRESES)
    if everything:
        options.python = list(PYTHONS)
    options.write = options.write or everything
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
