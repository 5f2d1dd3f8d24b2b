"""Handles Ctrl-C and SIGTERM while a command works."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopping_with(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on the first Ctrl-C or SIGTERM; a second one ends the process at once."""
    before = {number: signal.getsignal(number) for number in _ENDING}

    def ask(*_: object) -> None:
        stop()
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)

    for number in _ENDING:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
