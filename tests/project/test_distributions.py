"""What a user installs: the wheel, and the sdist that builds the same one."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest
from support.processes import CHECKOUT
from support.releases import environments

pytestmark = [pytest.mark.once, pytest.mark.slow]

# Where each part of the wheel comes from.
SOURCES = {
    CHECKOUT / "py_client" / "dagbump": "dagbump",
    CHECKOUT / "migrations": "dagbump/migrations",
    CHECKOUT / "sql": "dagbump/sql",
}


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources() -> dict[str, bytes]:
    return {
        f"{target}/{path.relative_to(directory).as_posix()}": path.read_bytes()
        for directory, target in SOURCES.items()
        for path in directory.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def test_the_wheel_has_the_package_the_sql_and_the_migrations_and_nothing_else(tmp_path: Path) -> None:
    carried = contents(environments.build_wheel(tmp_path))
    assert {name: text for name, text in carried.items() if ".dist-info/" not in name} == sources()
    assert sum(map(len, carried.values())) < 1_000_000


def test_the_sdist_builds_the_same_wheel(tmp_path: Path) -> None:
    environments.uv("build", "--sdist", "--out-dir", str(tmp_path), str(CHECKOUT))
    (sdist,) = tmp_path.glob("*.tar.gz")
    environments.uv("build", "--wheel", "--out-dir", str(tmp_path / "from sdist"), str(sdist))
    (from_sdist,) = (tmp_path / "from sdist").glob("*.whl")
    assert contents(from_sdist) == contents(environments.build_wheel(tmp_path))
