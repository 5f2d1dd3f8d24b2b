"""What the reference says is what the code does: metrics, options, SQLSTATEs."""

from __future__ import annotations

import re

import pytest
from dagbump.airflow_metrics import Metric
from dagbump.airflow_settings import OPTIONS
from dagbump.errors import BY_SQLSTATE
from support.processes import CHECKOUT

from documentation import sqlstates

pytestmark = pytest.mark.once

SCHEDULER = (CHECKOUT / "docs" / "scheduler.md").read_text(encoding="utf-8")


def test_the_options_that_airflow_lists_are_those_that_the_guide_shows() -> None:
    shown = re.findall(r"^\| `(\w+)` \| `AIRFLOW__DAGBUMP__(\w+)` \| (\S+) \|", SCHEDULER, re.MULTILINE)
    assert shown == [(name, name.upper(), option["default"].removesuffix(".0")) for name, option in OPTIONS.items()]


def test_the_metrics_that_the_plugin_sends_are_those_that_the_guide_shows() -> None:
    shown = re.findall(r"^\| `(dagbump\.\w+)` \| (\w+) \| (.*) \|$", SCHEDULER, re.MULTILINE)
    assert shown == [(metric.stat, metric.kind, metric.meaning) for metric in Metric]


def test_a_metric_is_named_in_one_place() -> None:
    plugin = CHECKOUT / "py_client" / "dagbump" / "airflow_plugin"
    sent = "".join(path.read_text(encoding="utf-8") for path in plugin.glob("*.py"))
    assert {metric.name for metric in Metric} == set(re.findall(r"\bMetric\.([A-Z_]+)", sent))


def test_no_error_of_the_sql_is_overlooked() -> None:
    for path in sqlstates.SQL.rglob("*.sql"):
        text = path.read_text(encoding="utf-8")
        assert len(sqlstates.RAISE.findall(text)) == text.count("RAISE EXCEPTION"), path


def test_the_sqlstates_of_dagbumps_own_are_those_that_python_knows() -> None:
    ours = {state.code for state in sqlstates.raised() if state.code.startswith("DBU")}
    assert ours == {code for code in BY_SQLSTATE if code.startswith("DBU")}
