"""Copies the SQL of the newest revision for its release: ``make release-sql``.

Each object that has changed since the revision before is copied, with its parts put in, into
``migrations/released/REVISION/``. Where a shape of Airflow's tables makes it read otherwise, a second copy goes into a
folder with the key of that shape. SHA256SUMS lists the copies: none of them changes again, because databases are
downgraded with them. Later changes go into another revision. Copies for a new shape may be added.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from dagbump.installation import shapes, sql_files
from dagbump.installation.sql_files import MIGRATIONS, RELEASED, SOURCES

INDEX_REVISION = "index_0001"
SUMS = "SHA256SUMS"


def newest_revision() -> str:
    """Return the newest revision of the main branch."""
    return max((MIGRATIONS / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")).name.split("_")[0]


def copies(revision: str) -> dict[str, str]:
    """Return the text of each copy that a revision, and the optional index, need; by its path below released/.

    The copy of an object that has not changed since an earlier revision is in the folder of that one.
    """
    earlier = sorted(path.name for path in RELEASED.glob("[0-9]*") if path.name < revision)
    before = sql_files.objects(earlier[-1]) if earlier else {}
    brought = {
        path: before[name].parent.name if name in before and _is_as(before[name], path) else revision
        for name, path in sql_files.objects().items()
    }
    brought |= dict.fromkeys((SOURCES / "index").glob("*.sql"), INDEX_REVISION)
    return {
        f"{into}/{folder}{path.name}": text
        for path, into in sorted(brought.items())
        for folder, text in _by_folder(path).items()
    }


def _is_as(released: Path, path: Path) -> bool:
    """Return whether a file equals its released copy, for each shape that was known then."""
    texts = _by_folder(path).items()
    return _by_folder(released) == {
        folder: text for folder, text in texts if not _is_for_a_new_shape(f"REVISION/{folder}{path.name}")
    }


def _by_folder(path: Path) -> dict[str, str]:
    """Return the text of a file by folder. A shape has a folder of its own if its text differs."""
    texts: dict[str, str] = {}
    for shape in shapes.SHAPES:
        text = sql_files.compose(path, shape)
        if text not in [*texts.values()][-1:]:
            texts[f"{shape.key}/" if texts else ""] = text
    return texts


def changed() -> list[str]:
    """Return the released copies that have changed, or whose sources have changed, and missing copies."""
    wanted = copies(newest_revision())
    differ = [
        name
        for name, recorded in sums().items()
        if {digest(_read(name)), digest(wanted[name]) if name in wanted else recorded} != {recorded}
    ]
    # An object that has changed since a revision that did not bring it, or that is new.
    return differ + [name for name in _lacking(wanted) if not _is_for_a_new_shape(name)]


def missing() -> list[str]:
    """Return the copies that a released revision lacks for a new shape."""
    return [name for name in _lacking(copies(newest_revision())) if _is_for_a_new_shape(name)]


def _lacking(wanted: Iterable[str]) -> list[str]:
    """Return the copies of released revisions that are wanted, and not there."""
    released = {name.split("/")[0] for name in sums()}
    return [name for name in wanted if name.split("/")[0] in released and name not in sums()]


def _is_for_a_new_shape(name: str) -> bool:
    known = {folders[0] for _, *folders, _ in (each.split("/") for each in sums()) if folders}
    _, *folders, _ = name.split("/")
    return bool(folders) and folders[0] not in known


def _read(name: str) -> str:
    path = RELEASED / name
    return path.read_text("utf-8") if path.exists() else ""


def sums() -> dict[str, str]:
    """Return the SHA-256 of each released copy, by its path below migrations/released/."""
    path = RELEASED / SUMS
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {name: recorded for recorded, name in (line.split("  ") for line in lines)}


def digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    """Write the copies of the newest revision."""
    if names := changed():
        sys.exit(f"revision {newest_revision()} is released, and has changed; add a revision: {', '.join(names)}")
    held = sums()
    for name, text in copies(newest_revision()).items():
        path = RELEASED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        held[name] = digest(text)
    (RELEASED / SUMS).write_text("".join(f"{held[name]}  {name}\n" for name in sorted(held)), "utf-8")


if __name__ == "__main__":
    main()
