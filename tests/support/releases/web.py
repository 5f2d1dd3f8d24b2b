"""An Airflow release's API server with its web UI, and with dagbump's wheel installed, on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from support.releases import environments
from support.releases.deployment import Deployed, configure, free_port, listens
from support.reverse_proxy import reverse_proxy
from support.server import Server

# Users of the simple auth manager, by role. The password of each is the user's name.
SIMPLE_USERS = ("admin", "user", "viewer")
# A user of the FAB auth manager also needs the right to see the page that Airflow shows after a login.
_FAB_BASICS = (("can_read", "Website"), ("menu_access", "DAGs"), ("can_read", "DAG Runs"), ("can_read", "Plugins"))
FAB_USERS: Mapping[str, object] = {
    "admin": "Admin",
    "editor_of_one": (
        *_FAB_BASICS,
        ("can_read", "DAG:etl.orders"),
        ("can_edit", "DAG:etl.orders"),
        ("can_read", "DAG:reports.daily"),
        ("can_edit", "DAG Runs"),
    ),
    "reader_of_one": (*_FAB_BASICS, ("can_read", "DAG:etl.orders")),
    "reader_without_runs": (("can_read", "Website"), ("can_read", "DAG:etl.orders")),
}
_INSIDE_AIRFLOW = Path(__file__).parents[1] / "inside_airflow"
_FAB_MANAGER = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"


@dataclass
class Web:
    """A running API server.

    Attributes:
        url: of Airflow's UI, without a slash at its end.
        python: the interpreter of its environment.
        variables: the environment variables under which it runs.
        home: its AIRFLOW_HOME.
    """

    url: str
    python: Path
    variables: Mapping[str, str]
    home: Path

    def run(self, script: str, stdin: str = "") -> str:
        """Run Python in its environment, and return what it prints."""
        return _run([str(self.python), "-c", script], self.variables, stdin)


@contextmanager
def serving(postgres: Server, template: str, directory: Path, **options: Any) -> Iterator[tuple[Web, URL]]:
    """Run the API server of the tests' release on a database of its own; options are those of `web_server`."""
    with (
        postgres.temporary_database(template) as url,
        web_server(environments.release(), url, directory, **options) as web,
    ):
        yield web, url


@contextmanager
def web_server(
    release: str,
    url: URL,
    directory: Path,
    *,
    fab: bool = False,
    slow: bool = False,
    path: str = "",
    proxied: bool = False,
    workers: int = 1,
    enabled: bool = True,
    database: Mapping[str, str] | None = None,
) -> Iterator[Web]:
    """Run `airflow api-server` on a database that the release has migrated.

    Args:
        release: which.
        url: the database.
        directory: an empty one.
        fab: with the FAB auth manager and its users; else the simple one.
        slow: the simple one takes its time, and counts the questions in a file (inside_airflow/slow_auth_manager.py).
        path: where its UI is on its host; empty, or "/team/airflow" as behind a proxy.
        proxied: behind a reverse proxy.
        workers: how many processes serve.
        enabled: the scheduler's part of the plugin is.
        database: Airflow's settings of that name.
    """
    home = directory / "home"
    home.mkdir()
    port = free_port()
    seen_port = free_port() if proxied else port
    base_url = f"http://127.0.0.1:{seen_port}{path}"
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({name: name for name in SIMPLE_USERS}), "utf-8")
    core = {
        "simple_auth_manager_all_admins": "False",
        "simple_auth_manager_users": ",".join(f"{name}:{name}" for name in SIMPLE_USERS),
        "simple_auth_manager_passwords_file": str(passwords),
    }
    if fab:
        core["auth_manager"] = _FAB_MANAGER
    if slow:
        core["auth_manager"] = "slow_auth_manager.SlowAuthManager"
        (home / "config").mkdir()  # from there, Airflow imports
        shutil.copy(_INSIDE_AIRFLOW / "slow_auth_manager.py", home / "config")
    configure(
        home,
        port,
        core=core,
        database=database or {},
        api={"base_url": base_url},
        api_auth={"jwt_issuer": "the tests"},  # without one, Airflow 3.0 signs what newer PyJWT refuses
        dagbump={"enabled": str(enabled)},
        fab={"config_file": str(home / "webserver_config.py")},  # its default Airflow finds only once it serves
    )
    environment = f"{release}-fab" if fab else release
    with environments.clone_of(environment, directory) as python:
        environments.install(environment, python, str(environments.build_wheel(directory)))
        deployed = Deployed(python, url, home)
        variables = environments.environment_for(url, home)
        if fab:
            _run([str(python), "-m", "airflow", "fab-db", "migrate"], variables)
            _run([str(python), str(_INSIDE_AIRFLOW / "fab_users.py")], variables, json.dumps(FAB_USERS))
        arguments = ("--host", "127.0.0.1", "--port", str(port), "--workers", str(workers))
        proxy = reverse_proxy(seen_port, port) if proxied else nullcontext()
        with proxy, deployed.component("api-server", *arguments):
            deployed.until(lambda: listens(port), "the API server listens")
            yield Web(base_url, python, variables, home)


def _run(command: list[str], variables: Mapping[str, str], stdin: str = "") -> str:
    done = subprocess.run(command, env=dict(variables), input=stdin, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{done.stdout}\n{done.stderr}"
    return done.stdout
