r"""Renders the living SQL into what is shipped: ``make freeze``.

``sql/NAME.sql`` is what dagbump is now, edited in place; ``sql/parts/`` is what several of them share. Databases are
upgraded with the copies under ``migrations/``, in which every part is put in, so that each reads whole, there and in
psql's ``\sf``:

    sql/NAME.sql            migrations/released/REVISION/NAME.sql    what a revision brings
    sql/index/NAME.sql      migrations/released/index_0001/NAME.sql  the optional index
    sql/installer/NAME.sql  migrations/installer/NAME.sql            what an upgrade does besides; always the newest

A copy is written into the newest revision where the newest one that there is says something else. Once a revision is
released (``python sql/freeze.py --release``), migrations/released/SHA256SUMS holds it fast, and its files never change
again: what comes after goes into another revision.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from textwrap import indent

HERE = Path(__file__).parent
SHIPPED = HERE.parent / "migrations"
INDEX_REVISION = "index_0001"

SUMS = "SHA256SUMS"

_INCLUDE = re.compile(r"@include:(?P<name>\w+)@")
_ALONE = re.compile(r"^(?P<indent> *)@include:(?P<name>\w+)@$")
_TAKES = re.compile(r"\A-- Takes: .*\n")  # for the reader of the part, who does not see the function around it
_HEADER = re.compile(r"\A(--.*\n)+")


def render(path: Path) -> str:
    """Return a file with its parts, and theirs, put in.

    A part alone on its line keeps the comment at its head; one inside a line is put in without it.
    """
    return "\n".join(_with_parts(line) for line in path.read_text("utf-8").split("\n"))


def _with_parts(line: str) -> str:
    alone = _ALONE.match(line)
    if alone:
        return indent(_part(alone["name"]), alone["indent"])
    spaces = line[: len(line) - len(line.lstrip())]

    def put_in(include: re.Match[str]) -> str:
        return indent(_HEADER.sub("", _part(include["name"])), spaces).lstrip()

    return _INCLUDE.sub(put_in, line)


def _part(name: str) -> str:
    return _TAKES.sub("", render(HERE / "parts" / f"{name}.sql").strip())


def rendered() -> dict[str, str]:
    """Return the text of every object that a revision of the main branch can bring, by name."""
    return {path.stem: render(path) for path in sorted(HERE.glob("*.sql"))}


def newest_released() -> dict[str, Path]:
    """Return the newest copy of each object, by name."""
    revisions = sorted(path for path in (SHIPPED / "released").iterdir() if path.name != INDEX_REVISION)
    return {path.stem: path for revision in revisions for path in sorted(revision.glob("*.sql"))}


def stale(revision: str | None = None) -> list[tuple[Path, str]]:
    """Return each copy that does not say what its source says, with what it should say."""
    released = newest_released()
    into = SHIPPED / "released" / (revision or newest_revision())
    texts = {
        into / f"{name}.sql": text
        for name, text in rendered().items()
        if name not in released or released[name].read_text("utf-8") != text
    }
    for directory, target in (("index", f"released/{INDEX_REVISION}"), ("installer", "installer")):
        texts |= {SHIPPED / target / path.name: render(path) for path in sorted((HERE / directory).glob("*.sql"))}
    return [(path, text) for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]


def sums() -> dict[str, str]:
    """Return the SHA-256 of each file of a released revision, by its path below migrations/released/."""
    path = SHIPPED / "released" / SUMS
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def digest(name: str) -> str:
    """Return the SHA-256 that a file below migrations/released/ has."""
    return hashlib.sha256((SHIPPED / "released" / name).read_bytes()).hexdigest()


def release() -> None:
    """Hold fast what the newest revision, and that of the index, say now."""
    names = [
        path.relative_to(SHIPPED / "released").as_posix()
        for revision in (newest_revision(), INDEX_REVISION)
        for path in sorted((SHIPPED / "released" / revision).glob("*.sql"))
    ]
    held = sums() | {name: digest(name) for name in names}
    lines = (f"{held[name]}  {name}\n" for name in sorted(held))
    (SHIPPED / "released" / SUMS).write_text("".join(lines), "utf-8")


def newest_revision() -> str:
    """Return the newest revision of the main branch, into which what has changed goes."""
    return max((SHIPPED / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")).name.split("_")[0]


def main() -> None:
    """Write what has changed; with --release, hold it fast."""
    held = sums()
    for path, text in stale():
        if path.is_relative_to(SHIPPED / "released") and any(name.startswith(f"{path.parent.name}/") for name in held):
            sys.exit(f"{path.relative_to(HERE.parent)}: revision {path.parent.name} is released; add another one first")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        print(path.relative_to(HERE.parent))
    if "--release" in sys.argv[1:]:
        release()


if __name__ == "__main__":
    main()
