"""The published files: the sdist, the wheel, and a wheel that is built from the sdist."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest
from dagbump.commit import commit
from support.processes import CHECKOUT

pytestmark = [pytest.mark.once, pytest.mark.slow]

# Where each file of the wheel comes from.
SOURCES = {"dagbump/migrations/": "migrations/", "dagbump/sql/": "sql/", "dagbump/": "py_client/dagbump/"}


def build(*arguments: str, into: Path, source: Path = CHECKOUT) -> Path:
    pins = CHECKOUT / "pins" / "development.txt"
    subprocess.run(
        [
            sys.executable, "-m", "uv", "build", "--quiet", "--build-constraint", str(pins), "--out-dir", str(into),
            *arguments, str(source),
        ],
        check=True,
    )  # fmt: skip
    return into


def contents(wheel: Path) -> dict[str, str]:
    """Return the checksum of each file, without RECORD, which lists them in the order in which they were packed."""
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith(".dist-info/RECORD")]
        return {name: sha256(archive.read(name)).hexdigest() for name in names}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it."""
    return build(into=tmp_path_factory.mktemp("published"))


def test_the_sdist_makes_the_wheel_that_the_checkout_makes(published: Path, tmp_path: Path) -> None:
    (from_sdist,) = published.glob("*.whl")
    (from_checkout,) = build("--wheel", into=tmp_path).glob("*.whl")
    assert from_sdist.name == from_checkout.name
    assert contents(from_sdist) == contents(from_checkout)


def test_the_wheel_holds_the_package_its_migrations_and_its_sql_and_nothing_else(published: Path) -> None:
    (wheel,) = published.glob("*.whl")
    packed = {name for name in contents(wheel) if ".dist-info/" not in name}
    packed.remove("dagbump/COMMIT")
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *SOURCES.values()],
        cwd=CHECKOUT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    expected = {
        inside + name.removeprefix(source)
        for inside, source in SOURCES.items()
        for name in tracked
        if name.startswith(source)
    }
    assert packed == expected


def test_both_name_the_commit(published: Path) -> None:
    (wheel,) = published.glob("*.whl")
    (sdist,) = published.glob("*.tar.gz")
    with ZipFile(wheel) as archive:
        assert archive.read("dagbump/COMMIT").decode().strip() == commit()
    with tarfile.open(sdist) as archive:
        (stamp,) = [name for name in archive.getnames() if name.endswith("py_client/dagbump/COMMIT")]
        assert stamp


def test_without_git_they_are_built_too(published: Path, tmp_path: Path) -> None:
    (sdist,) = published.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (checkout,) = tmp_path.iterdir()
    (checkout / "py_client" / "dagbump" / "COMMIT").unlink()  # as in an archive that GitHub makes of a commit
    (wheel,) = build("--wheel", into=tmp_path / "built", source=checkout).glob("*.whl")
    assert "dagbump/COMMIT" not in contents(wheel)


def test_the_sdist_holds_what_the_tests_and_the_site_need(published: Path) -> None:
    (sdist,) = published.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "mkdocs.yml", "LICENSE", "tests/conftest.py", "docs/index.md", "pins/development.txt"} <= names
    assert not [name for name in names if name.startswith((".ci", ".cache", ".venv", "dist"))]
