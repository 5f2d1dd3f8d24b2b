"""What Ctrl-C and SIGTERM do to a command that has work under way."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopping_with(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first such signal ask for an end; a second one ends the process on the spot."""
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
