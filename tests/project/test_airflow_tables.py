"""The tables that the suite and the demo work on are those that a real Airflow makes."""

from __future__ import annotations

import pytest
from dagbump.demo.fleet import TABLES
from support import airflow_tables
from support.releases import environments

pytestmark = pytest.mark.airflow


@pytest.mark.skipif(environments.release() != airflow_tables.RELEASE, reason="the files are of another release")
def test_the_files_hold_what_airflow_makes() -> None:
    with airflow_tables.of_airflow() as url:
        assert airflow_tables.FILE.read_text("utf-8") == airflow_tables.all_of(url)
        assert TABLES.read_text("utf-8") == airflow_tables.of_the_demo(url)
