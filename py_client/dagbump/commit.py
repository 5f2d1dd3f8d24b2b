"""The commit that this package was made from, because two commits may have the same release number."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

STAMP = Path(__file__).with_name("COMMIT")  # hatch_build.py writes it into sdist and wheel
_CHECKOUT = Path(__file__).resolve().parents[2]


def commit() -> str | None:
    """Return the abbreviated commit, with ``-dirty`` if files differed from it; None if it is not known."""
    if STAMP.exists():
        return STAMP.read_text("utf-8").strip()
    if (_CHECKOUT / ".git").exists():
        with suppress(OSError, subprocess.CalledProcessError):
            describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
            done = subprocess.run(  # noqa: S603  (the git of the PATH, as everywhere in a checkout)
                describe, cwd=_CHECKOUT, capture_output=True, text=True, check=True
            )
            return done.stdout.strip()
    return None
