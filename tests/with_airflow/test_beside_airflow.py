"""The wheel, installed beside Airflow and used as in a deployment.

The release is `environments.release`: `make test-airflow` runs all of it on each.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL
from support import server
from support.fleet import Fleet
from support.processes import CHECKOUT
from support.releases import environments
from support.server import Server


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environments.build_wheel(tmp_path_factory.mktemp("wheel"))


@dataclass(frozen=True)
class Installed:
    """An environment with Airflow and dagbump, and a database that this Airflow has migrated."""

    release: str
    python: Path
    url: URL
    home: Path
    packages_before: frozenset[str]

    def packages(self) -> frozenset[str]:
        return freeze(self.python)

    def dagbump(self, *arguments: str, url_from: Mapping[str, str] | None = None) -> str:
        """Run the command line; the database is the one that Airflow's configuration names."""
        return self._run(str(self.python.with_name("dagbump")), *arguments, url_from=url_from)

    def script(self, source: str) -> Any:
        """Run Python in that environment; return the JSON on its last line. Airflow may print other lines first."""
        return json.loads(self._run(str(self.python), "-c", source).splitlines()[-1])

    def refused(self, *arguments: str) -> str:
        """Run the command line beside an Airflow that it does not know, and return what it prints."""
        done = self._end(str(self.python.with_name("dagbump")), *arguments)
        assert done.returncode == 4, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stderr

    def _run(self, *command: str, url_from: Mapping[str, str] | None = None) -> str:
        done = self._end(*command, url_from=url_from)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _end(self, *command: str, url_from: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        # PSYCOPG_IMPL: psycopg cannot be loaded, even if the machine has a libpq.
        environment = environments.environment_for(self.url, self.home) | {"PSYCOPG_IMPL": "binary"}
        if url_from is not None:
            del environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
            environment |= url_from
        return subprocess.run(command, env=environment, cwd=self.home, capture_output=True, text=True, check=False)


def freeze(python: Path) -> frozenset[str]:
    return frozenset(environments.uv("pip", "freeze", "--python", str(python)).splitlines())


@pytest.fixture(scope="module")
def installed(postgres: Server, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    release = environments.release()
    home = tmp_path_factory.mktemp("deployment")
    with postgres.temporary_database() as url, environments.clone_of(release, home) as python:
        environments.migrate(release, url, home)
        packages_before = freeze(python)
        environments.install(release, python, str(wheel))
        yield Installed(release, python, url, home, packages_before)


@pytest.mark.airflow
def test_installing_it_moves_no_package_of_airflow(installed: Installed) -> None:
    after = installed.packages()

    assert installed.packages_before <= after
    brought = {package.partition(" @ ")[0].partition("==")[0] for package in after - installed.packages_before}
    assert brought == {"dagbump"}


@pytest.mark.airflow
def test_it_fits_into_airflows_constraints(installed: Installed, wheel: Path, tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(installed.packages_before), encoding="utf-8")
    with environments.clone_of(installed.release, tmp_path) as python:
        words = (f"apache-airflow=={installed.release}", str(wheel), "--constraint", str(constraints))
        environments.uv("pip", "install", "--python", str(python), *words)
        assert {package for package in freeze(python) if not package.startswith("dagbump")} == installed.packages_before


@pytest.mark.airflow
def test_the_command_line_does_its_work_with_airflows_configuration(installed: Installed) -> None:
    with psycopg.connect(server.libpq(installed.url), autocommit=True) as connection:
        fleet = Fleet(connection)
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d", "r")
        fleet.ti(run, new, "success")
        stale = fleet.ti(run, old)
        before = server.dump_schema(installed.url)

        installed.dagbump("upgrade")
        (previewed,) = json.loads(installed.dagbump("preview", "--json"))
        assert fleet.versions_of([stale]) == [old]
        (bumped,) = json.loads(installed.dagbump("bump", "--json"))
        assert fleet.versions_of([stale]) == [new]
        installed.dagbump("downgrade")

        row = {"dag_run_id": run, "dag_id": "d", "run_id": "r", "dag_version_id": str(new), "version_number": 2}
        stale_ones = {"stale": 1, "stale_by_state": {"no_status": 1}, "verdict": "bump", "versionless": 0}
        assert previewed == row | stale_ones | {"missing_tasks": None, "vanished_tasks": None}
        assert bumped == row | {"bumped": 1, "locked": 0, "needs_verify": False}
        assert server.dump_schema(installed.url) == before


@pytest.mark.airflow
@pytest.mark.parametrize("place", ["environment", "airflow.cfg", "secrets backend"])
def test_a_url_that_airflow_has_to_fetch_is_fetched_by_airflow(
    installed: Installed, tmp_path: Path, place: str
) -> None:
    secret = tmp_path / "secret"
    url = installed.url.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
    secret.write_text(f"{url}\n")
    variable = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
    if place == "environment":
        url_from = {f"{variable}_CMD": f"cat {secret}"}
    elif place == "airflow.cfg":
        (tmp_path / "airflow.cfg").write_text(f"[database]\nsql_alchemy_conn_cmd = cat {secret}\n")
        url_from = {"AIRFLOW_HOME": str(tmp_path)}
    else:
        (tmp_path / "backend.py").write_text(
            "from airflow.secrets.base_secrets import BaseSecretsBackend\n"
            "class Files(BaseSecretsBackend):\n"
            "    def get_config(self, key):\n"
            f"        return open({str(secret)!r}).read() if key == 'the_database' else None\n"
        )
        url_from = {
            f"{variable}_SECRET": "the_database",
            "AIRFLOW__SECRETS__BACKEND": "backend.Files",
            "PYTHONPATH": str(tmp_path),
        }

    installed.dagbump("upgrade", url_from=url_from)
    assert json.loads(installed.dagbump("preview", "--json", url_from=url_from)) == []
    installed.dagbump("downgrade", url_from=url_from)


@pytest.mark.airflow
def test_airflow_takes_the_url_that_the_script_for_tokens_prints(
    installed: Installed, postgres: Server, tmp_path: Path
) -> None:
    """docs/managed-services.md shows the script. Another program stands for `aws`."""
    token = "to%ken/a+b=c&d@x"  # noqa: S105  (made up: the letters that a URL has to quote)
    guide = (CHECKOUT / "docs" / "managed-services.md").read_text("utf-8")
    (shown,) = re.findall(r"^```sh\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    (driver,) = re.findall(r'echo "(.*?)://airflow_operator:\$quoted@HOST/', shown)
    url = installed.url.set(drivername=driver, username="dagbump_token", password="quoted")  # noqa: S106  (a role of this test)
    printed = url.render_as_string(hide_password=False).replace(":quoted@", ":$quoted@")
    for name, text in {
        "aws": f"#!/bin/sh\nprintf %s '{token}'\n",
        "database-url": re.sub(r'(?<=echo ").*(?=")', lambda _: printed, shown),
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    url_from = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD": str(tmp_path / "database-url"),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    with postgres.maintenance() as connection:
        connection.execute(f"CREATE ROLE dagbump_token LOGIN SUPERUSER PASSWORD '{token}'".encode())
    try:
        installed.dagbump("upgrade", url_from=url_from)
        assert json.loads(installed.dagbump("preview", "--json", url_from=url_from)) == []
        installed.dagbump("downgrade", url_from=url_from)
    finally:
        with postgres.maintenance() as connection:
            connection.execute("DROP ROLE dagbump_token")


@pytest.mark.airflow
def test_without_libpq_it_connects_through_airflows_psycopg2(installed: Installed) -> None:
    used = installed.script(
        """
import json
from dagbump import database
try:
    import psycopg
except ImportError:
    with database.connect(database.create_engine(database.find_url())) as connection:
        print(json.dumps(type(connection.connection.driver_connection).__module__))
"""
    )
    assert used == "psycopg2.extensions"


# The installer and the command line may import these. What runs inside Airflow may not.
FOR_OTHERS = ("alembic", "fastapi", "prometheus_client", "rich", "typer")
# Each try runs in a forked process, in which Airflow has been imported and dagbump has not.
IN_FORKS = f"""
import json, multiprocessing, sys, time

def measure(statement):
    for name in [*{FOR_OTHERS}, *(name for name in sys.modules if name.partition(".")[0] in {FOR_OTHERS})]:
        sys.modules[name] = None  # who imports it, fails
    before, began = set(sys.modules), time.process_time()
    exec(statement, {{}})
    milliseconds = (time.process_time() - began) * 1000
    packages = {{name.partition(".")[0] for name in set(sys.modules) - before}}
    return sorted(packages - sys.stdlib_module_names), milliseconds

def in_forks(statement, times):
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print(json.dumps(pool.map(measure, [statement] * times, chunksize=1)))

"""


@pytest.mark.airflow
@pytest.mark.parametrize(
    ("statement", "milliseconds_allowed"), [("import dagbump; dagbump.bump", 50), ("import dagbump.airflow_plugin", 20)]
)
def test_a_process_of_airflow_imports_nothing_else_and_that_in_no_time(
    installed: Installed, statement: str, milliseconds_allowed: float
) -> None:
    has_imported = "import airflow.listeners, airflow.plugins_manager, sqlalchemy.orm"
    tries = installed.script(f"{IN_FORKS}{has_imported}\nin_forks({statement!r}, times=5)")
    assert [loaded for loaded, _ in tries] == [["dagbump"]] * 5
    assert min(milliseconds for _, milliseconds in tries) <= milliseconds_allowed


@pytest.mark.airflow
def test_a_scheduler_with_the_plugin_on_needs_nothing_that_is_for_others(installed: Installed) -> None:
    statement = "import dagbump.airflow_plugin.patches"
    tries = installed.script(f"{IN_FORKS}import airflow.jobs.scheduler_job_runner\nin_forks({statement!r}, times=1)")
    assert [loaded for loaded, _ in tries] == [["dagbump"]]
