"""``dagbump``, and ``python -m dagbump``."""

import os
import signal
import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["run"]:
        # While modules are imported, nothing has been done yet, so the signals that end the loop later exit with 0 now.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
    from dagbump.command_line.app import app

    app(prog_name="dagbump")


if __name__ == "__main__":
    main()
