r"""Renders the living SQL into what is shipped: ``make freeze``.

``sql/NAME.sql`` is what dagbump is now, edited in place; ``sql/parts/`` is what several of them share. Databases are
upgraded with the copies under ``migrations/``, in which every part is put in, so that each reads whole, there and in
psql's ``\sf``:

    sql/NAME.sql            migrations/released/REVISION/NAME.sql    what a revision brings
    sql/index/NAME.sql      migrations/released/index_0001/NAME.sql  the optional index
    sql/installer/NAME.sql  migrations/installer/NAME.sql            what an upgrade does besides; always the newest

Airflow's tables have changed their shape once, in 3.4. What is different there is a part of the same name in
``sql/parts/3.4/``. Where that makes a copy read otherwise, there is a second one, in a folder ``3.4`` beside the first.

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
SHAPES = ("3.4",)  # of Airflow's tables, besides the first, which has no folder

SUMS = "SHA256SUMS"

_INCLUDE = re.compile(r"@include:(?P<name>\w+)@")
_ALONE = re.compile(r"^(?P<indent> *)@include:(?P<name>\w+)@$")
_TAKES = re.compile(r"\A-- Takes: .*\n")  # for the reader of the part, who does not see the function around it
_HEADER = re.compile(r"\A(--.*\n)+")


def render(path: Path, shape: str = "") -> str:
    """Return a file with its parts, and theirs, put in: those of a shape of Airflow's tables, where it has its own.

    A part alone on its line keeps the comment at its head; one inside a line is put in without it.
    """
    return "\n".join(_with_parts(line, shape) for line in path.read_text("utf-8").split("\n"))


def _with_parts(line: str, shape: str) -> str:
    alone = _ALONE.match(line)
    if alone:
        return indent(_part(alone["name"], shape), alone["indent"])
    spaces = line[: len(line) - len(line.lstrip())]

    def put_in(include: re.Match[str]) -> str:
        return indent(_HEADER.sub("", _part(include["name"], shape)), spaces).lstrip()

    return _INCLUDE.sub(put_in, line)


def _part(name: str, shape: str) -> str:
    candidates = (HERE / "parts" / shape / f"{name}.sql", HERE / "parts" / f"{name}.sql")
    return _TAKES.sub("", render(next(path for path in candidates if path.exists()), shape).strip())


def copies(directory: Path) -> dict[str, dict[str, str]]:
    """Return the copies of each file of a directory, by its name: their texts by their paths, as "3.4/bump.sql"."""
    return {path.stem: _copies_of(path) for path in sorted(directory.glob("*.sql"))}


def _copies_of(path: Path) -> dict[str, str]:
    first = render(path)
    others = {f"{shape}/{path.name}": render(path, shape) for shape in SHAPES}
    return {path.name: first} | {name: text for name, text in others.items() if text != first}


def newest_released() -> dict[str, Path]:
    """Return the revision that holds the newest copies of each object, by the name of the object."""
    revisions = sorted(path for path in (SHIPPED / "released").iterdir() if path.name != INDEX_REVISION)
    return {path.stem: revision for revision in revisions for path in sorted(revision.glob("*.sql"))}


def stale(revision: str | None = None) -> list[tuple[Path, str | None]]:
    """Return each copy that is not as its source says, with what it should say; None: it should not be there."""
    released = newest_released()
    into = SHIPPED / "released" / (revision or newest_revision())
    findings = [
        finding
        for name, texts in copies(HERE).items()
        if name not in released or _differing(name, texts, released[name])
        for finding in _differing(name, texts, into)
    ]
    for directory, target in (("index", f"released/{INDEX_REVISION}"), ("installer", "installer")):
        for name, texts in copies(HERE / directory).items():
            findings += _differing(name, texts, SHIPPED / target)
    return findings


def _differing(name: str, texts: dict[str, str], directory: Path) -> list[tuple[Path, str | None]]:
    there = [path for path in (directory / f"{name}.sql", *directory.glob(f"*/{name}.sql")) if path.exists()]
    wanted = {directory / path: text for path, text in texts.items()}
    differing: list[tuple[Path, str | None]] = [
        (path, text) for path, text in wanted.items() if path not in there or path.read_text("utf-8") != text
    ]
    return differing + [(path, None) for path in there if path not in wanted]


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
        for path in sorted((SHIPPED / "released" / revision).rglob("*.sql"))
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
        revision = path.relative_to(SHIPPED).parts[1]
        if path.is_relative_to(SHIPPED / "released") and any(name.startswith(f"{revision}/") for name in held):
            sys.exit(f"{path.relative_to(HERE.parent)}: revision {revision} is released; add another one first")
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        print(path.relative_to(HERE.parent))
    if "--release" in sys.argv[1:]:
        release()


if __name__ == "__main__":
    main()
