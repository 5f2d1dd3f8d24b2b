"""A real Prometheus reads a real `dagbump run`: the alerts and the dashboard of docs/, and what docker compose plays.

There is no Grafana, so the tests try only the queries and the layout of the dashboard.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import dagbump
import pytest
import yaml
from dagbump.demo import play
from sqlalchemy.engine import URL
from support.fleet import Fleet, stale_run
from support.processes import CHECKOUT, DAGBUMP, command, running
from support.server import Connect, Server, libpq
from support.waits import until

pytestmark = [pytest.mark.once, pytest.mark.slow]

ALERTS = CHECKOUT / "docs" / "alerts.yml"
DASHBOARD = json.loads((CHECKOUT / "docs" / "grafana-dashboard.json").read_text(encoding="utf-8"))
RULES_TEST = CHECKOUT / "tests" / "support" / "alerts_test.yml"


@pytest.fixture(scope="module")
def programs() -> Path:
    """Return the directory of prometheus and promtool."""
    program = shutil.which("promtool")
    if program is None:
        missing = pytest.fail if os.environ.get("DAGBUMP_REQUIRE_CONTAINERS") == "1" else pytest.skip
        missing("Prometheus is not installed. On Debian: apt-get install prometheus")
    return Path(program).parent


def promtool(programs: Path, *words: str) -> None:
    done = command(str(programs / "promtool"), *words)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_ring_when_they_should(programs: Path, tmp_path: Path) -> None:
    promtool(programs, "check", "rules", str(ALERTS))
    rules_test = tmp_path / "alerts_test.yml"
    rules_test.write_text(RULES_TEST.read_text(encoding="utf-8").replace("ALERTS", str(ALERTS)))
    promtool(programs, "test", "rules", str(rules_test))


def expressions() -> list[str]:
    """Return the queries of the dashboard, as Grafana sends them."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [each.replace("$__rate_interval", "1m").replace("$job", ".*") for each in found]


class Prometheus:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}") as answer:  # noqa: S310  (on loopback)
            return json.load(answer)["data"]

    def answers(self, expression: str) -> list[Any]:
        found: list[Any] = self.get("query", query=expression)["result"]
        return found

    def is_up(self) -> bool:
        try:
            return bool(self.answers("up == 1"))
        except OSError:
            return False


def compose_config(name: str) -> Any:
    composed = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text(encoding="utf-8"))
    return yaml.safe_load(composed["configs"][name]["content"])


@contextmanager
def prometheus(programs: Path, scraped: str, directory: Path) -> Iterator[Prometheus]:
    """Start Prometheus with the configuration of docker compose, with other addresses and paths."""
    configuration = compose_config("prometheus")
    configuration["rule_files"] = [str(ALERTS)]
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["scrape_configs"] = [{"job_name": "dagbump", "static_configs": [{"targets": [scraped]}]}]
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    promtool(programs, "check", "config", str(file))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = (f"--config.file={file}", f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{port}")
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen([programs / "prometheus", *words], cwd=directory, stdout=log, stderr=log) as process,
    ):
        server = Prometheus(port)
        try:
            until(lambda: process.poll() is not None or server.is_up(), (directory / "log").read_text)
            assert process.poll() is None, (directory / "log").read_text()
            yield server
        finally:
            process.kill()


def test_every_query_of_the_dashboard_answers(
    programs: Path, fleet: Fleet, database: URL, connect: Connect, tmp_path: Path
) -> None:
    stale_run(fleet, "bumped")
    old, _ = fleet.dag("left", versions=2)
    fleet.ti(fleet.run("left"), old, "scheduled")
    fleet.dag("lacks")
    version = fleet.version("lacks", 1, tasks=["old", "new"])
    fleet.ti(fleet.run("lacks"), version, "running", task_id="old")
    words = ("--interval", "0.1", "--lock-timeout", "0.05", "--metrics-port", "0", "--metrics-address", "127.0.0.1")
    with running(*DAGBUMP, "run", *words, DAGBUMP_URL=libpq(database)) as loop:
        loop.until_printed("bumped 1")
        (scraped,) = re.findall(r"metrics at http://(.+)/metrics", "".join(loop.lines))
        with prometheus(programs, scraped, tmp_path) as server:
            until(lambda: server.answers("dagbump_missing_tasks"), lambda: "the first preview has been read")
            gate = connect()
            gate.execute("LOCK TABLE task_instance IN ACCESS EXCLUSIVE MODE")
            loop.until_printed("trying again")
            gate.rollback()
            loop.until_printed("connected again")
            for expression in expressions():
                until(partial(server.answers, expression), partial("{} answers".format, expression))
            (group,) = server.get("rules")["groups"]
            until(
                lambda: {rule["health"] for rule in server.get("rules")["groups"][0]["rules"]} == {"ok"},
                lambda: "the alerts have been evaluated",
            )
            assert len(group["rules"]) == 3


def test_the_panels_stand_side_by_side() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        assert any(
            first[at] + first[size] <= second[at]
            for first, second in ((one, other), (other, one))
            for at, size in (("x", "w"), ("y", "h"))
        ), (one, other)
    assert all(place["x"] + place["w"] <= 24 for place in (panel["gridPos"] for panel in panels))


def test_the_place_to_play_has_something_to_move(postgres: Server) -> None:
    """It begins with a database without tables, as docker compose does."""
    with postgres.temporary_database() as url:
        engine = play.connect_to(url)
        for _ in range(2):
            play.build_if_empty(engine)
            assert command(*DAGBUMP, "upgrade", DAGBUMP_URL=libpq(url)).returncode == 0
        for _ in range(2):
            play.land_a_version(engine)
            with engine.begin() as connection:
                left = dagbump.bump(connection)
            assert (left.bumped, len(left.needs_verify)) == (0, play.RUNS)
            play.schedule(engine)
            with engine.begin() as connection:
                done = dagbump.bump(connection)
            assert done.bumped > 0
            assert done.needs_verify == ()
