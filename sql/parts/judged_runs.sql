-- Takes: ids, dag_ids, examined_only.
-- The running DAG runs, one row each, with the latest version of the DAG and the reason why a run is not examined.
-- The definition of "examined" is here. limited_runs repeats it, because it has to stop at a limit; a test compares
-- the two.
--
--   obstacle   NULL for an examined run, otherwise the reason: pinned, paused, stale_dag, not_due, no_version,
--              no_serialized_dag. With examined_only, these runs are left out.
SELECT
    run.id::bigint AS dag_run_id,
    run.dag_id::text AS dag_id,
    run.run_id::text AS run_id,
    run.run_type::text AS run_type,
    run.logical_date,
    run.created_dag_version_id,
    run.last_scheduling_decision,
    run.run_after,
    latest.id AS dag_version_id,
    latest.version_number,
    CASE
        WHEN run.obstacle IS NOT NULL THEN run.obstacle
        WHEN latest.id IS NULL THEN 'no_version'
        WHEN serialized.dag_version_id IS NULL THEN 'no_serialized_dag'
    END AS obstacle
FROM (
    SELECT
        running.*,
        CASE
            -- Airflow tests the truth value of bundle_version, so '' counts as NULL.
            WHEN running.bundle_version::text <> '' THEN 'pinned'
            -- Both columns are nullable up to Airflow 3.1. Airflow examines a run only if they are false.
            WHEN dag.dag_id IS NOT NULL AND dag.is_paused IS NOT FALSE THEN 'paused'
            WHEN dag.dag_id IS NOT NULL AND dag.is_stale IS NOT FALSE THEN 'stale_dag'
            WHEN running.run_after > pg_catalog.now() THEN 'not_due'
        END AS obstacle
    FROM (
        @include:running_runs@
    ) AS running
    LEFT JOIN LATERAL (
        SELECT dag.dag_id, dag.is_paused, dag.is_stale
        FROM @airflow_schema@.dag AS dag
        WHERE dag.dag_id::text = running.dag_id::text
        OFFSET 0 -- keeps the planner from turning this look-up per run into a join
    ) AS dag ON TRUE
    WHERE dag_ids IS NULL OR running.dag_id::text = ANY (dag_ids)
) AS run
LEFT JOIN LATERAL (
    @include:latest_version@
) AS latest ON TRUE
LEFT JOIN LATERAL (
    SELECT serialized.dag_version_id -- it is unique
    FROM @airflow_schema@.serialized_dag AS serialized
    WHERE serialized.dag_version_id = latest.id
    OFFSET 0 -- as above
) AS serialized ON TRUE
WHERE NOT examined_only OR (run.obstacle IS NULL AND serialized.dag_version_id IS NOT NULL)
