"""Airflow's supported releases and dagbump's version are each written in one place; files that cannot read it agree."""

from __future__ import annotations

import re

import dagbump
import pytest
from support.processes import CHECKOUT
from support.releases.environments import SUPPORTED

pytestmark = pytest.mark.once

LISTS = {
    "Makefile": r"^RELEASES \?= (.*)$",
    ".github/workflows/tests.yml": r"^ +airflow: \[(.*)\]$",
    "docs/install.md": r"^Airflow (3\..*), each with its own",
    "docs/page.md": r"a real API server of Airflow (.*), and a real browser",
    "docs/scheduler.md": r"^ *\| \| (3\..*) \|$",
}


def read(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "pattern"), LISTS.items(), ids=LISTS)
def test_a_list_of_releases_is_complete(name: str, pattern: str) -> None:
    (listed,) = re.findall(pattern, read(name), re.MULTILINE)

    assert tuple(re.findall(r"\d+\.\d+\.\w+", listed)) == SUPPORTED


def test_the_workflow_runs_airflow_of_each_release() -> None:
    assert tuple(re.findall(r"- make test-airflow RELEASES=(\S+)", read(".github/workflows/tests.yml"))) == SUPPORTED


@pytest.mark.parametrize("name", ["docs/install.md", "docs/containers.md"])
def test_a_wheel_in_a_document_has_the_version_of_the_package(name: str) -> None:
    assert set(re.findall(r"dagbump-([\d.]+)-py3", read(name))) == {dagbump.__version__}
