"""Airflow's supported releases and dagbump's version are each written in one place; files that cannot read it agree."""

from __future__ import annotations

import re

import dagbump
import pytest
from dagbump.installation import shapes
from support import matrix
from support.processes import CHECKOUT
from support.releases.environments import SUPPORTED

from benchmarks import figures

pytestmark = pytest.mark.once

LISTS = {
    "Makefile": r"^RELEASES \?= (.*)$",
    ".github/workflows/tests.yml": r"^ +airflow: \[(.*)\]$",
    "docs/install.md": r"^Airflow (3\..*), each with its own",
    "docs/page.md": r"a real API server of Airflow (.*), and a real browser",
    "docs/scheduler.md": r"^ *\| \| (3\..*) \|$",
}


# These say "3.0 to 3.4".
RANGES = (
    *("README.md", "docs/compatibility.md", "docs/install.md", "docs/python.md"),
    *("py_client/dagbump/errors.py", "sql/installer/refuse_upgrade.sql", "tests/support/inside_airflow/components.py"),
    *(f"py_client/dagbump/airflow_plugin/{name}.py" for name in ("compatibility", "patches", "verification")),
)
LINES = tuple(".".join(release.split(".")[:2]) for release in SUPPORTED)


def read(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "pattern"), LISTS.items(), ids=LISTS)
def test_a_list_of_releases_is_complete(name: str, pattern: str) -> None:
    (listed,) = re.findall(pattern, read(name), re.MULTILINE)

    assert tuple(re.findall(r"\d+\.\d+\.\w+", listed)) == SUPPORTED


@pytest.mark.parametrize("name", RANGES)
def test_a_range_of_releases_ends_with_the_newest_line(name: str) -> None:
    assert set(re.findall(r"3\.0 to (3\.\d+)", read(name))) == {LINES[-1]}


def test_the_plugin_knows_each_line_and_the_newest_shape_names_the_newest() -> None:
    (known,) = re.findall(
        r"^_RELEASES = (.*)$", read("py_client/dagbump/airflow_plugin/compatibility.py"), re.MULTILINE
    )
    assert tuple(re.findall(r"[\d.]+", known)) == LINES  # its package can be imported only beside Airflow
    assert shapes.NEWEST.label.split()[-1] == LINES[-1]


def test_the_workflow_runs_airflow_of_each_release() -> None:
    assert tuple(re.findall(r"- make test-airflow RELEASES=(\S+)", read(".github/workflows/tests.yml"))) == SUPPORTED


@pytest.mark.parametrize("name", ["docs/install.md", "docs/containers.md"])
def test_a_wheel_in_a_document_has_the_version_of_the_package(name: str) -> None:
    assert set(re.findall(r"dagbump-([\d.]+)-py3", read(name))) == {dagbump.__version__}


@pytest.mark.parametrize("name", ["POSTGRES", "PYTHONS"])
def test_the_workflow_runs_what_make_pairs_runs(name: str) -> None:
    (wanted,) = re.findall(rf"^{name} \?= (.*)$", read("Makefile"), re.MULTILINE)
    kind = {"POSTGRES": "postgres", "PYTHONS": "python"}[name]
    (listed,) = re.findall(rf"^ +{kind}: \[(.*)\]$", read(".github/workflows/tests.yml"), re.MULTILINE)

    assert re.findall(r'[^", ]+', listed) == wanted.split()


def test_what_is_promised_has_passed() -> None:
    """docs/compatibility.md promises PostgreSQL, Airflow and Python by their versions; the rest of it is shown."""
    text, kept = read("docs/compatibility.md"), figures.load(CHECKOUT / "docs")["proof"]
    oldest, newest = map(int, re.findall(r"^\| PostgreSQL \| (\d+) to (\d+) ", text, re.MULTILINE)[0])
    servers = [f"PostgreSQL {major}" for major in range(oldest, newest + 1)]
    (minors,) = re.findall(r"^\| Python \| 3\.(\d+) to 3\.(\d+) ", text, re.MULTILINE)
    pythons = [f"Python 3.{minor}" for minor in range(int(minors[0]), int(minors[1]) + 1)]

    assert passed(kept[matrix.PAIRS]) == {(server, release) for server in servers for release in SUPPORTED}
    assert passed(kept[matrix.PYTHONS]) == {(python, matrix.PASSED) for python in pythons}


def passed(proof: figures.Proof) -> set[tuple[str, str]]:
    """Return the cells, by row and column, in which at least one test has passed."""
    cells = ((row, *cell) for row, of in proof.figures.items() if isinstance(of, dict) for cell in of.items())
    return {(row, column) for row, column, figure in cells if isinstance(figure, int) and figure > 0}
