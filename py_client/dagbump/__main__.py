"""``dagbump``, and ``python -m dagbump``."""

import os
import signal
import sys

_ENDED_BY_CTRL_C = 128 + signal.SIGINT


def main() -> None:
    """Run the command line."""
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell's background job does not
    # While modules are imported, nothing has been done yet, so a signal may end the process at once.
    if sys.argv[1:2] == ["run"]:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
    elif listens:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_ENDED_BY_CTRL_C))
    from dagbump.command_line.app import app

    try:
        if listens and sys.argv[1:2] != ["run"]:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        app(prog_name="dagbump")
    except KeyboardInterrupt:
        sys.exit(_ENDED_BY_CTRL_C)


if __name__ == "__main__":
    main()
