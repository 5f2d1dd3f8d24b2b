"""The Airflow plugin: the scheduler calls ``dagbump.bump`` once per loop, in its own transaction; and a page in the UI.

Airflow imports this package in each of its processes, and nothing happens there: no more is imported than `plugin`, and
the three small modules that it needs. With ``[dagbump] enabled = True``, `patches.turn_on` runs when the scheduler
starts; it looks whether Airflow (`compatibility`) and the database are as they have to be, and replaces four functions,
each where Airflow itself calls it:

    SchedulerJobRunner._schedule_all_dag_runs            begins a `Loop`: one bump for all its runs
    SchedulerJobRunner._verify_integrity_if_dag_changed  asks the loop, in place of two queries for each run
    DagRun.get_running_dag_runs_to_examine               no longer loads every task instance (Airflow 3.0 and 3.1)
    DagVersion.get_latest_version                        within a loop, answered from one query for all its runs

`scheduling` does a loop's work, `loop` holds what one loop knows and what it leaves to the next, `reporting` says it.
The page "DAG versions", in the API server, is `page`, which has nothing to do with the rest.

dagbump never stops a scheduler: what does not fit costs a warning, and Airflow's own code runs. That which is said of
Airflow here was read in, and is tested with, 3.0.6, 3.1.6, 3.2.2 and 3.3.2.
"""

from dagbump.airflow_plugin.plugin import DagbumpPlugin

__all__ = ["DagbumpPlugin"]
