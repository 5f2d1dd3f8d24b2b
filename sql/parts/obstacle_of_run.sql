-- Takes: run, dag (all NULL if there is no such row).
-- The reason why a running run is not examined, if that reason is in the run or its DAG; NULL otherwise.
-- obstacle_of_version has the other reasons. The two are the definition of "examined".
CASE
    WHEN @include:pinned@ THEN 'pinned'
    -- Both columns are nullable up to Airflow 3.1. Airflow examines a run only if they are false.
    WHEN dag.dag_id IS NOT NULL AND dag.is_paused IS NOT FALSE THEN 'paused'
    WHEN dag.dag_id IS NOT NULL AND dag.is_stale IS NOT FALSE THEN 'stale_dag'
    WHEN run.run_after > pg_catalog.now() THEN 'not_due'
END
