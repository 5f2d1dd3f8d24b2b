"""Real Airflow releases, each in an environment of its own that uv makes on first use."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL
from uv import find_uv_bin

DEFAULT_RELEASE = "3.3.2"
RELEASES = ("3.0.6", "3.1.6", "3.2.2", "3.3.2")
CACHE = Path(__file__).parents[3] / ".cache"


def release() -> str:
    """Return the Airflow release whose schema the tests run on."""
    return os.environ.get("DAGBUMP_AIRFLOW") or DEFAULT_RELEASE


def python_of(version: str) -> Path:
    """Return the interpreter of an environment with this release, drivers and statsd; make it where it is missing."""
    environment = CACHE / f"airflow-{version}"
    python = environment / "bin" / "python"
    complete = environment / ".complete"
    packages = (f"apache-airflow-core=={version}", "psycopg2-binary", "asyncpg", "statsd")
    if not complete.exists() or complete.read_text("utf-8") != str(packages):
        uv("venv", "--clear", "--python", "3.11", str(environment))
        uv("pip", "install", "--python", str(python), *packages)
        complete.write_text(str(packages), "utf-8")
    return python


@contextmanager
def clone_of(version: str, directory: Path) -> Iterator[Path]:
    """Lend the interpreter of a copy of that environment, for a test that installs something into it."""
    environment = directory / f"airflow-{version}"
    shutil.copytree(python_of(version).parents[1], environment, symlinks=True, copy_function=_link_or_copy)
    try:
        yield environment / "bin" / "python"
    finally:
        shutil.rmtree(environment)


def _link_or_copy(source: str, target: str) -> None:
    # What pip and uv replace they write anew: the original is safe.
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def uv(*arguments: str) -> str:
    done = subprocess.run([find_uv_bin(), "--quiet", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"uv {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def environment_for(url: URL, home: Path) -> dict[str, str]:
    """Return the environment variables under which that Airflow uses this database, and nothing else of the machine."""
    foreign = ("AIRFLOW", "DAGBUMP", "PG", "PSYCOPG", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url.set(drivername="postgresql+psycopg2").render_as_string(
            hide_password=False
        ),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }


def migrate(version: str, url: URL, home: Path) -> None:
    """Run `airflow db migrate` of that release against the database."""
    done = subprocess.run(
        [python_of(version), "-m", "airflow", "db", "migrate"],
        env=environment_for(url, home),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"airflow {version} db migrate failed:\n{done.stdout}\n{done.stderr}")
