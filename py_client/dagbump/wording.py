"""Texts for counts, messages and transactions that hold locks, for the command line, the plugin and the page."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from dagbump.results import Holder


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as ``1 run`` or ``1,200 runs``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def one_line(message: str) -> str:
    """Join the lines of a message and its hints, each of which is a sentence with or without a full stop."""
    return ". ".join(line.rstrip(".") for line in message.splitlines()) + "." * message.endswith(".")


def by_transaction(holders: Iterable[Holder]) -> list[list[Holder]]:
    """Group the holders by transaction, run and kind of the locked row; the order stays."""
    groups: dict[tuple[object, ...], list[Holder]] = {}
    for holder in holders:
        groups.setdefault((holder.pid, holder.gid, holder.dag_run_id, holder.held), []).append(holder)
    return list(groups.values())


def describe_holder(holder: Holder, now: datetime) -> str:
    """Describe a transaction so that a reader can find its session."""
    if holder.gid is not None:
        name = f"the prepared transaction {holder.gid!r}"
    elif holder.pid is not None:
        name = f"pid {holder.pid}"
    else:
        return "a transaction that cannot be found"
    known = [
        holder.state if holder.state and holder.gid is None else "",
        f"for {age(holder.xact_start, now)}" if holder.xact_start else "",
    ]
    told = _session(name, holder.usename, holder.application_name, holder.client_addr, *known)
    return f"{'' if holder.certain else 'probably '}{told}"


def how_to_end(holder: Holder) -> tuple[str, str]:
    """Return what to do about a transaction that does not end, and a statement for it; empty if it cannot be found."""
    if holder.gid is not None:
        gid = holder.gid.replace("'", "''")
        return "Whoever prepared it can end it, by COMMIT PREPARED, or with", f"ROLLBACK PREPARED '{gid}'"
    if holder.pid is None:
        return "", ""
    of_session = f"FROM pg_stat_activity WHERE pid = {holder.pid}"
    if holder.xact_start is None or not holder.certain:
        return "A DBA can see what it does:", f"SELECT * {of_session}"
    # The time is there, because the session may have ended meanwhile, and another may have its pid.
    return (
        "If it does not end by itself, a DBA can end its session:",
        f"SELECT pg_terminate_backend(pid) {of_session} AND xact_start = '{holder.xact_start.isoformat()}'",
    )


def describe_session(pid: int, usename: str | None, application_name: str | None, client_addr: str | None) -> str:
    """Describe a session; the arguments are columns of pg_stat_activity."""
    return _session(f"pid {pid}", usename, application_name, client_addr)


def _session(name: str, usename: str | None, application_name: str | None, client_addr: str | None, *more: str) -> str:
    known = [
        f"application {application_name!r}" if application_name else "",
        f"role {usename}" if usename else "",
        f"from {client_addr}" if client_addr else "",
        *more,
    ]
    told = ", ".join(filter(None, known))
    return f"{name} ({told})" if told else name


def age(since: datetime, now: datetime) -> str:
    """Return how long ago something began, in one unit."""
    seconds = max(0, int((now - since).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
