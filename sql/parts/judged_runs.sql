-- Takes: ids, dag_ids, examined_only.
-- The running DAG runs, one row each: the latest version of the DAG, and what, if anything, keeps
-- the run from being examined. The one place that says what "examined" means (limited_runs, which
-- stops at a limit, is held to it by a test).
--
--   obstacle   NULL for an examined run, else why it is not one: pinned, paused, stale_dag, not_due, no_version,
--              no_serialized_dag; with examined_only, the others are left out
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
            -- Airflow tests bundle_version for truth: '' is as good as NULL.
            WHEN running.bundle_version::text <> '' THEN 'pinned'
            -- Both are nullable up to Airflow 3.1, which examines only runs where they are false.
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
        OFFSET 0 -- by run: not joined, which could go through all DAGs for each run
    ) AS dag ON TRUE
    WHERE dag_ids IS NULL OR running.dag_id::text = ANY (dag_ids)
) AS run
LEFT JOIN LATERAL (
    @include:latest_version@
) AS latest ON TRUE
LEFT JOIN LATERAL (
    SELECT serialized.dag_version_id -- which is unique
    FROM @airflow_schema@.serialized_dag AS serialized
    WHERE serialized.dag_version_id = latest.id
    OFFSET 0 -- so here
) AS serialized ON TRUE
WHERE NOT examined_only OR (run.obstacle IS NULL AND serialized.dag_version_id IS NOT NULL)
