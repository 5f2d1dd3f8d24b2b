"""The Airflow plugin: one call of ``dagbump.bump`` per scheduler loop, in its transaction, and a page in Airflow's UI.

Airflow imports this package in each of its processes. That import does nothing and loads only `plugin` and the three
small modules that it needs. With ``[dagbump] enabled = True``, `patches.turn_on` runs when the scheduler starts. It
checks Airflow (`compatibility`) and the database, and then replaces three functions:

    SchedulerJobRunner._schedule_all_dag_runs            begins a `Loop` with one bump for all its runs
    SchedulerJobRunner._verify_integrity_if_dag_changed  asks the loop, instead of sending two queries per run
    DagRun.get_running_dag_runs_to_examine               no longer loads all task instances (Airflow 3.0 and 3.1)

`scheduling` does the work of a loop. `loop` holds what a loop knows and what later loops have to know. `reporting`
writes to Airflow's log and Stats. `page` is the page "Dag versions" in the API server; it is independent of the rest.

dagbump never stops a scheduler. If something does not fit, it logs a warning and Airflow's own code runs. The
statements about Airflow in this package were read in, and are tested with, 3.0.6, 3.1.6, 3.2.2 and 3.3.2.
"""

from dagbump.airflow_plugin.plugin import DagbumpPlugin

__all__ = ["DagbumpPlugin"]
