"""Switchovers and kills of the primary, under schedulers' loops, writers and `dagbump run`.

DAGBUMP_FAILOVERS is the number of each, two by default. With -s, the test prints what each of them cost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.failover import Trial, installed_cluster
from support.replication import Cluster

pytestmark = [pytest.mark.once, pytest.mark.slow]

OF_EACH = int(os.environ.get("DAGBUMP_FAILOVERS") or 2)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with installed_cluster(tmp_path) as servers:
        yield servers


def test_nothing_goes_wrong_and_everybody_comes_back(cluster: Cluster) -> None:
    trial = Trial(cluster)
    with trial.under_way():
        for number in range(OF_EACH):
            trial.change("switchover", cluster.switch_over)
            trial.change("kill", cluster.fail_over)
            assert trial.wrong_updates() == [], number
        trial.settle()
        print("", *trial.changes, sep="\n")
        print({loop.name: (len(loop.successes), len(loop.failures)) for loop in [*trial.loops, *trial.writers]})
    assert trial.wrong() == []
    assert [change for change in trial.changes if change.kind == "switchover" and change.lost] == []
    assert max(change.failed_loops for change in trial.changes) <= 1
