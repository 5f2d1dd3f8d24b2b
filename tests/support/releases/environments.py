"""Real Airflow releases, each in an environment of its own that uv makes on first use.

pins/airflow-RELEASE.in names its packages, and the .txt beside it their versions (ignored with DAGBUMP_NEWEST=1).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path

from dagbump.installation import shapes
from dagbump.installation.shapes import Shape
from packaging.version import Version
from sqlalchemy.engine import URL
from uv import find_uv_bin

from support.processes import CHECKOUT

DEFAULT_RELEASE = "3.3.2"
# The newest patch of each line: tests that take every release run on these.
RELEASES = ("3.0.6", "3.1.8", "3.2.2", "3.3.2")
# Pre-releases of the next line.
BETAS = ("3.4.0b2",)
# All that dagbump supports. A test compares the Makefile, the workflow and the documents with this list.
SUPPORTED = (*RELEASES, *BETAS)
# A release that dagbump refuses, of the last line before DAG versions.
AIRFLOW_2 = "2.11.2"
NEWEST = os.environ.get("DAGBUMP_NEWEST") == "1"
CACHE = CHECKOUT / ".cache"
PINS = CHECKOUT / "pins"


def release() -> str:
    """Return the Airflow release whose schema the tests run on."""
    return os.environ.get("DAGBUMP_AIRFLOW") or DEFAULT_RELEASE


def number() -> tuple[int, ...]:
    """Return the number of that release, without a pre-release suffix: (3, 4, 0) for 3.4.0b2."""
    return Version(release()).release


def shape() -> Shape:
    """Return the shape of that release's tables."""
    return shapes.of_key("tries_inside" if number() >= (3, 4) else "tries_apart")


@cache
def python_of(version: str) -> Path:
    """Return the interpreter of an environment with this release, drivers and statsd; make it where it is missing."""
    packages = PINS / f"airflow-{version}.in"
    # Environments of other commits, whose pins differ, stay beside it.
    content = packages.read_bytes() + packages.with_suffix(".txt").read_bytes()
    name = "newest" if NEWEST else sha256(content).hexdigest()[:8]
    environment = CACHE / f"airflow-{version}-{name}"
    python = environment / "bin" / "python"
    complete = environment / ".complete"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{environment.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may want it at once
        if NEWEST or not complete.exists():
            uv("venv", "--clear", "--python", "3.11", str(environment))
            install(version, python, "--requirement", str(packages))
            complete.touch()
    return python


def install(version: str, python: Path, *packages: str) -> None:
    """Install something beside a release."""
    pins = () if NEWEST else ("--constraint", str(PINS / f"airflow-{version}.txt"))
    uv("pip", "install", "--python", str(python), *pins, *packages)


def build_wheel(directory: Path) -> Path:
    """Build dagbump's wheel."""
    pins = () if NEWEST else ("--build-constraint", str(PINS / "development.txt"))
    uv("build", "--wheel", *pins, "--out-dir", str(directory), str(CHECKOUT))
    (wheel,) = directory.glob("*.whl")
    return wheel


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
    # pip and uv write replaced files anew, so the original is safe.
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
    airflow(version, url, home, "db", "migrate")


def airflow(version: str, url: URL, home: Path, *words: str) -> str:
    """Run a command of that release's `airflow` to its end, and return what it prints."""
    done = subprocess.run(
        [python_of(version), "-m", "airflow", *words],
        env=environment_for(url, home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"airflow {version} {' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout
