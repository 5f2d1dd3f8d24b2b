"""The suite runs without a container too, unless DAGBUMP_REQUIRE_CONTAINERS is set."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.processes import command

pytestmark = [pytest.mark.once, pytest.mark.slow]

NO_CONTAINERS = {
    "no image": {"DAGBUMP_POSTGRES_IMAGE": "localhost:1/there-is-no-such-image:0"},
    "no reaper": {"RYUK_CONTAINER_IMAGE": "localhost:1/there-is-no-such-image:0", "TESTCONTAINERS_RYUK_DISABLED": ""},
    "no engine": {"DOCKER_HOST": "unix:///there/is/no/engine"},
}


def collect(**environment: str) -> subprocess.CompletedProcess[str]:
    words = (sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "tests/sql/test_landing.py")
    return command(*words, **environment)


@pytest.mark.parametrize("missing", NO_CONTAINERS)
def test_the_embedded_server_takes_the_place_of_a_container_and_one_line_says_so(missing: str) -> None:
    done = collect(**NO_CONTAINERS[missing])
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = [line for line in done.stdout.splitlines() if "container" in line]
    assert "embedded PostgreSQL 18 (NOT a container), as there is none of " in line


def test_a_container_that_is_required_is_missed_in_one_line() -> None:
    done = collect(**NO_CONTAINERS["no image"], DAGBUMP_REQUIRE_CONTAINERS="1")
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).splitlines()
    assert "DAGBUMP_REQUIRE_CONTAINERS=1, and no container of " in line
