"""Switchovers and kills of the primary under two real schedulers, with the plugin and on stock Airflow.

DAGBUMP_FAILOVERS is the number of each. Without it, nothing runs, because one of each takes minutes on two cores. With
-s, the test prints what each of them cost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.failover import installed_cluster
from support.releases.failover import Trial, deployed_on
from support.replication import Cluster

OF_EACH = int(os.environ.get("DAGBUMP_FAILOVERS") or 0)
TRIALS = {"with dagbump": True, "stock": False}

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(not OF_EACH, reason="takes minutes; DAGBUMP_FAILOVERS asks for it"),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with installed_cluster(tmp_path) as servers:
        yield servers


@pytest.mark.parametrize("dagbump", TRIALS.values(), ids=TRIALS)
def test_nothing_goes_wrong_and_both_schedulers_come_back(cluster: Cluster, tmp_path: Path, *, dagbump: bool) -> None:
    with deployed_on(cluster, tmp_path) as trial_with:
        trial: Trial = trial_with(dagbump=dagbump)
        with trial.under_way():
            for _ in range(OF_EACH):
                trial.change("switchover", cluster.switch_over)
                trial.change("kill", cluster.fail_over)
            trial.settle()
            figures = trial.figures()
        print("", *trial.changes, figures, sep="\n")
        for scheduler in trial.schedulers:
            print(scheduler.name, *scheduler.logged("dagbump"), *scheduler.logged("Exception when executing"), sep="\n")
    assert [figures[name] for name in ("went backwards", "moved after their end", "missing tasks")] == [0, 0, 0]
    assert [change for change in trial.changes if change.kind == "switchover" and change.lost] == []
    if dagbump:
        assert figures["stale"] == 0
