"""Processes are killed, a disk is full, a network is cut: nothing is left half-done, and the next call does the
rest.
"""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump.embedded_postgres import embedded_postgres
from support import proof, server
from support.faults import (
    Network,
    Patient,
    backend_of_victim,
    exhausted_locks,
    fill,
    is_cut_off,
    over,
    set_timeout,
    small_disk,
)
from support.processes import DAGBUMP, command, running
from support.server import libpq
from support.waits import until

pytestmark = [pytest.mark.once, pytest.mark.slow]

Connection = psycopg.Connection[Any]

KILLS = 200 if proof.LONG else 10
UPGRADE, UPGRADE_INDEX = ("upgrade",), ("upgrade", "--with-index")
BUMP, REPAIR = "SELECT count(*) FROM dagbump.bump()", "CALL dagbump.repair(batch_size => 25)"
REPAIR_COMMAND = ("repair", "--yes", "--batch-size", "25")


@pytest.fixture(scope="module")
def patient() -> Iterator[Patient]:
    with server.embedded() as postgres:
        yield Patient(postgres, "faults")


KILLED = ("server", "backend", "client")
FIRST_MESSAGE = 5  # the session is there


def kill(patient: Patient, killed: str, process: subprocess.Popen[bytes], observer: Connection) -> bool:
    """Send SIGKILL to the server, to the victim's backend or to the victim. Return whether it was still there."""
    backend = backend_of_victim(observer)
    if backend is None:
        return False
    if killed == "server":
        os.kill(patient.postgres.postmaster_pid(), signal.SIGKILL)
        patient.start_again()
    elif killed == "client":
        process.kill()
    else:
        try:
            os.kill(backend, signal.SIGKILL)
        except ProcessLookupError:
            return False
        until(lambda: is_cut_off(observer), lambda: "the server ends all sessions, to recover")
    return True


def record_kills(counted: Mapping[str, int]) -> None:
    """Keep how many there were; one that left something half-done would have ended the test."""
    proof.record("Kills", 'make prove ARGS="-k kill"', counted)


@pytest.fixture
def network(patient: Patient) -> Iterator[Network]:
    with Network(patient.url) as network:
        yield network


class TestKills:
    """SIGKILL at a random moment between the first sign of a session and the time that the work takes unhurt."""

    WORK = ("bump", "repair", "dagbump repair", "dagbump upgrade", "build of the index")

    def words(self, patient: Patient, work: str) -> tuple[str, ...]:
        return {
            "bump": patient.psql(BUMP),
            "repair": patient.psql(REPAIR),
            "dagbump repair": (*DAGBUMP, *REPAIR_COMMAND),
            "dagbump upgrade": (*DAGBUMP, *UPGRADE),
            "build of the index": (*DAGBUMP, *UPGRADE_INDEX),
        }[work]

    @contextmanager
    def working(self, patient: Patient, work: str) -> Iterator[tuple[subprocess.Popen[bytes], Connection]]:
        """Begin the work; the body runs from the first sign of its session on, with a connection that looks at it."""
        patient.make_stale()
        with patient.connected() as observer:
            if work == "build of the index":
                observer.execute("DROP INDEX IF EXISTS dagbump_ti_unfinished")
            with patient.victim(*self.words(patient, work)) as process:
                until(lambda: backend_of_victim(observer) or process.poll() is not None, lambda: "it has a session")
                yield process, observer

    def duration(self, patient: Patient, work: str) -> float:
        """Return how long the work has a session, if nobody kills it."""
        with self.working(patient, work) as (process, observer):
            began = time.monotonic()
            until(lambda: backend_of_victim(observer) is None, lambda: "its session has ended", patience=60)
            seconds = time.monotonic() - began
            assert process.wait(60) == 0
        return seconds

    def killed_after(self, patient: Patient, work: str, killed: str, delay: float) -> bool:
        """Do the work, and kill it after so many seconds. Return whether it was still running then."""
        with self.working(patient, work) as (process, observer):
            with suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            if not kill(patient, killed, process, observer):
                return False
            process.wait(60)
        with patient.connected() as observer:
            until(lambda: backend_of_victim(observer) is None, lambda: "its session is gone")
        return True

    def resumes(self, patient: Patient, work: str) -> None:
        """Find nothing half-done; do the same work again, and the rest."""
        patient.is_whole()
        with patient.victim(*self.words(patient, work)) as process:
            assert process.wait(60) == 0
        patient.is_finished()

    @pytest.mark.proof
    def test_random_kills(self, patient: Patient) -> None:
        """If the work ends before the kill, the test starts it again and kills it sooner."""
        chance = random.Random(KILLS)  # noqa: S311  (no secret)
        durations = {work: self.duration(patient, work) for work in self.WORK}
        cases = [(work, killed) for work in self.WORK for killed in KILLED]
        hit: Counter[str] = Counter()
        for number in range(KILLS):
            if number % len(cases) == 0:
                chance.shuffle(cases)
            work, killed = cases[number % len(cases)]
            delay = chance.uniform(0, durations[work])
            try:
                while not self.killed_after(patient, work, killed, delay):
                    delay /= 2
                self.resumes(patient, work)
            except (AssertionError, psycopg.Error) as error:
                raise AssertionError(f"{killed} killed in {work} after {delay:.3f} s, kill {number}") from error
            hit.update((f"of the {killed}", f"in {work}"))
        record_kills({"at random": KILLS, **{f"at random, {what}": count for what, count in sorted(hit.items())}})


class TestKillsAtEachMessage:
    """SIGKILL while a message between a command and the server is on its way: one message after the other."""

    STEP = 1 if proof.LONG else 100

    def kill_at(
        self, patient: Patient, network: Network, words: tuple[str, ...], message: int, killed: str
    ) -> int | None:
        """Begin a command, and kill at that message. Return how many were killed, or None if it has fewer messages."""
        kills = 0
        network.hold(message)
        url = over(network, patient.url)
        with patient.connected() as observer, patient.victim(*DAGBUMP, *words, url=url) as process:
            until(lambda: network.held.is_set() or process.poll() is not None, lambda: "it is held, or has ended")
            if network.held.is_set():
                kills += kill(patient, killed, process, observer)
            network.deliver()
            process.wait(60)
        return kills if network.held.is_set() else None

    @pytest.mark.proof
    @pytest.mark.parametrize(
        ("work", "words"),
        [
            ("dagbump repair", REPAIR_COMMAND),
            ("dagbump upgrade", UPGRADE),
            ("dagbump upgrade --with-index", UPGRADE_INDEX),
        ],
    )
    def test_kill_at_each_message(self, patient: Patient, network: Network, work: str, words: tuple[str, ...]) -> None:
        kills = 0
        for message in range(FIRST_MESSAGE, 1000, self.STEP):
            if words != REPAIR_COMMAND:
                patient.uninstall()
            patient.make_stale()
            hit = self.kill_at(patient, network, words, message, KILLED[kills % len(KILLED)])
            if hit is None:
                break
            patient.is_whole()
            assert patient.dagbump(*words).returncode == 0
            patient.is_finished()
            kills += hit
        assert kills > 0
        record_kills({f"at each message of {work}": kills})


class TestTimeouts:
    """statement_timeout ends the work at one stage after the other."""

    def sweep(self, patient: Patient, work: Callable[[int], bool], factor: float) -> int:
        """Give the work more time at each try, until it is done. Return how often it was cancelled.

        It is given one millisecond more in the long form, else so many times as much, but at least one more.
        """
        milliseconds, cancelled = 1, 0
        while not work(milliseconds):
            patient.is_whole()
            milliseconds = milliseconds + 1 if proof.LONG else math.ceil(milliseconds * factor)
            cancelled += 1
            assert milliseconds < 60_000, "it is never done"
        patient.is_finished()
        return cancelled

    @pytest.mark.parametrize("statement", [BUMP, "SELECT count(*) FROM dagbump.bump(caller_verifies => true)", REPAIR])
    def test_in_the_database(self, patient: Patient, statement: str) -> None:
        def work(milliseconds: int) -> bool:
            with patient.connected() as connection:
                set_timeout(connection, milliseconds)
                try:
                    connection.execute(statement.encode())
                except psycopg.errors.QueryCanceled:
                    return False
            return True

        patient.make_stale()
        assert self.sweep(patient, work, 1.1) > 0

    @pytest.mark.parametrize("words", [REPAIR_COMMAND, UPGRADE, UPGRADE_INDEX])
    def test_of_a_command(self, patient: Patient, words: tuple[str, ...]) -> None:
        def work(milliseconds: int) -> bool:
            done = patient.dagbump(*words, PGOPTIONS=f"-c statement_timeout={milliseconds}")
            # 3: not even the session could be prepared in time.
            assert done.returncode in ((3,) if "cannot connect" in done.stderr else (0, 1)), done.stderr
            assert "Traceback" not in done.stderr
            return done.returncode == 0

        patient.make_stale()
        self.sweep(patient, work, 2)


class TestExhausted:
    COMMANDS = (("check",), ("preview",), ("bump",), REPAIR_COMMAND, UPGRADE)

    def test_connections(self, patient: Patient) -> None:
        """Every command says so, and exits as if the database were not there."""
        patient.make_stale()
        with ExitStack() as stack:
            with suppress(psycopg.OperationalError):
                while True:
                    stack.enter_context(closing(psycopg.connect(libpq(patient.url))))
            for words in self.COMMANDS:
                done = patient.dagbump(*words)
                assert (done.returncode, "too many clients" in done.stderr) == (3, True), done.stderr
                assert "Traceback" not in done.stderr
        patient.is_finished()

    @pytest.mark.parametrize("statement", [BUMP, REPAIR])
    def test_memory_for_locks(self, patient: Patient, statement: str) -> None:
        """At each try there is memory for one more lock. A call that needs more locks fails, and writes nothing."""
        patient.make_stale()
        refused, done = 0, False
        with patient.connected() as other, patient.connected() as caller:
            while not done:
                with exhausted_locks(other, leave=refused):
                    try:
                        caller.execute(statement.encode())
                        done = True
                    except psycopg.errors.OutOfMemory as error:
                        refused += 1
                        hint = error.diag.message_hint
                assert refused < 500
                patient.is_whole()
        assert refused > 0
        assert hint is not None
        assert "max_locks_per_transaction" in hint
        patient.is_finished()

    def test_memory_for_locks_of_a_new_session(self, patient: Patient) -> None:
        """Every command says so, and exits as if the database were not there."""
        patient.make_stale()
        with patient.connected() as other, exhausted_locks(other, leave=0):
            for words in self.COMMANDS:
                done = patient.dagbump(*words)
                assert (done.returncode, "out of shared memory" in done.stderr) == (3, True), done.stderr
                assert "Traceback" not in done.stderr
        patient.is_finished()


class TestNetwork:
    def test_cut_after_each_message(self, patient: Patient, network: Network) -> None:
        """A bump and its COMMIT, in the client's own process; whether it was committed, only the database knows."""
        patient.make_stale()
        url = libpq(over(network, patient.url))
        for messages in range(1, 200):
            network.chunks, network.cut_after = 0, messages
            try:
                with psycopg.connect(url, connect_timeout=5) as connection:
                    dagbump.bump(connection)
            except (psycopg.OperationalError, dagbump.DagbumpError):
                patient.is_whole()
            else:
                break
        assert messages > 5
        patient.is_finished()

    def test_cut_in_a_repair(self, patient: Patient, network: Network) -> None:
        """The network is cut later at each try, until the repair ends. Committed batches are not repeated."""
        patient.make_stale()
        url = libpq(over(network, patient.url))
        for messages in range(2, 1000, 2 if proof.LONG else 12):
            network.chunks, network.cut_after = 0, messages
            done = command(*DAGBUMP, *REPAIR_COMMAND, DAGBUMP_URL=url)
            patient.is_whole()
            assert "Traceback" not in done.stderr
            if done.returncode == 0:
                break
            assert done.returncode in (1, 3), done.stderr
        patient.is_finished()

    def test_slow(self, patient: Patient, network: Network) -> None:
        patient.make_stale()
        network.delay = 0.03
        done = command(*DAGBUMP, *REPAIR_COMMAND, DAGBUMP_URL=libpq(over(network, patient.url)))
        assert done.returncode == 0, done.stderr
        patient.is_finished()

    def test_a_loop_that_was_cut_off_goes_on(self, patient: Patient, network: Network) -> None:
        words = (*DAGBUMP, "run", "--interval", "0.1")
        with running(*words, DAGBUMP_URL=libpq(over(network, patient.url))) as loop:
            for _ in range(3):
                patient.make_stale()
                patient.until_moved()
                network.cut()
            loop.process.terminate()
            assert loop.finish(timeout=5) == 0
        patient.is_finished()

    def test_a_loop_ends_when_told_at_each_message(self, patient: Patient, network: Network) -> None:
        """While it connects, looks at the database, takes the lock, bumps, makes a preview, and waits."""
        words = (*DAGBUMP, "run", "--interval", "30", "--metrics-port", "0", "--metrics-address", "127.0.0.1")
        url = libpq(over(network, patient.url))
        sessions = b"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dagbump'"
        messages = 0
        with patient.connected() as observer:
            for message in range(1, 1000, 1 if proof.LONG else 17):
                patient.make_stale()
                network.hold(message)
                with running(*words, DAGBUMP_URL=url) as loop:
                    until(lambda: network.held.is_set() or loop.count("bumped"), lambda: "it is held, or has bumped")
                    began = time.monotonic()
                    loop.process.terminate()
                    assert loop.finish(timeout=5) == 0
                    assert time.monotonic() - began < 1.0, message
                    assert loop.count("Traceback") == 0
                network.cut()
                network.deliver()
                until(lambda: observer.execute(sessions).fetchone() == (0,), lambda: "its sessions have ended")
                patient.is_whole()
                if not network.held.is_set():
                    break
                messages = message
        assert messages > 30

    def test_a_loop_behind_a_silent_network_ends_when_told(self, patient: Patient, network: Network) -> None:
        words = (*DAGBUMP, "run", "--interval", "0.1")
        with running(*words, DAGBUMP_URL=libpq(over(network, patient.url))) as loop:
            patient.make_stale()
            patient.until_moved()
            with network.silent():
                passed = network.chunks
                until(lambda: network.chunks > passed, lambda: "it waits for an answer")
                loop.process.terminate()
                assert loop.finish(timeout=5) == 0
        patient.is_finished()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
@pytest.mark.parametrize("leave", [0, 1_000_000])
def test_a_full_disk(leave: int) -> None:
    """Data or WAL finds no room, and the server fails a statement, or ends; with room again, all goes on."""
    with small_disk(megabytes=200) as disk, embedded_postgres(disk) as postgres:
        patient = Patient(postgres, "full")
        patient.make_stale()
        filler = fill(disk, leave=leave)
        with pytest.raises(psycopg.Error):
            patient.move_for_ever(REPAIR)
        done = patient.dagbump(*REPAIR_COMMAND)
        assert done.returncode in (0, 1, 3)
        assert "Traceback" not in done.stderr
        filler.unlink()
        patient.start_again()
        patient.is_whole()
        patient.make_stale()
        assert patient.dagbump(*REPAIR_COMMAND).returncode == 0
        patient.is_finished()
