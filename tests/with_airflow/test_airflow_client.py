"""The Python client under the Python of an Airflow release, with the SQLAlchemy and the drivers that are beside it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import dagbump
import pytest
from sqlalchemy.engine import URL
from support.fleet import Fleet
from support.releases import environments

pytestmark = [pytest.mark.airflow, pytest.mark.pair]

# Reads the URL from stdin, so that no list of processes shows it.
SCRIPT = """
import asyncio, json, sys
import dagbump
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

def rows(previews, result):
    return {"stale": [row.stale for row in previews], "bumped": [row.bumped for row in result.runs]}

def call(level, url):
    engine = sa.create_engine(url)
    if level == "Connection":
        with engine.begin() as connection:
            return rows(dagbump.preview(connection), dagbump.bump(connection))
    with Session(engine) as session:
        called = rows(dagbump.preview(session), dagbump.bump(session))
        session.commit()
        return called

async def acall(url):
    engine = create_async_engine(url)
    async with AsyncSession(engine) as session:
        called = rows((), await dagbump.abump(session))
        await session.commit()
    await engine.dispose()
    return called

level, url = sys.argv[1], sys.stdin.read()
print(json.dumps(asyncio.run(acall(url)) if level == "AsyncSession" else call(level, url)))
"""


@pytest.mark.parametrize(
    ("driver", "level"), [("psycopg2", "Connection"), ("psycopg2", "Session"), ("asyncpg", "AsyncSession")]
)
def test_previews_and_bumps(fleet: Fleet, database: URL, driver: str, level: str) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    fleet.ti(run, new, "success")
    stale = [fleet.ti(run, version, state) for version, state in ((old, "scheduled"), (old, None), (None, None))]

    done = subprocess.run(
        [environments.python_of(environments.release()), "-c", SCRIPT, level],
        input=database.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False),
        env={**os.environ, "PYTHONPATH": str(Path(dagbump.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"stale": [] if level == "AsyncSession" else [3], "bumped": [3]}
    assert fleet.versions_of(stale) == [new] * 3
