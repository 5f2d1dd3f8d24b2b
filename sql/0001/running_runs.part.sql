-- The running DAG runs, one row each: the latest version of the DAG, and what, if anything, keeps the run from being
-- examined. A part of bump and of preview: the one place that says what "examined" and "latest" mean.
--
--   dag_version_id, version_number   the highest version_number of the DAG, whatever created_at says
--   obstacle   NULL for an examined run, else why it is not one: pinned, paused, stale_dag, not_due, no_version,
--              no_serialized_dag
--   place      1, 2, 3 and so on, in the order in which Airflow's scheduler takes runs
--              (DagRun.get_running_dag_runs_to_examine): backfill_dag_run.sort_ordinal, which is looked up only where
--              max_runs is given, last_scheduling_decision, run_after
--
-- Takes from the function around it: dag_run_ids, dag_ids; max_runs, which limits the examined runs; examined_only,
-- which leaves the others out. Reads no task instance; locks nothing.

WITH running AS (
    @include:running@
),

judged AS (
    SELECT
        run.id,
        run.dag_id,
        run.run_id,
        run.last_scheduling_decision,
        run.run_after,
        CASE
            -- Airflow tests bundle_version for truth: '' is as good as NULL.
            WHEN run.bundle_version::text <> '' THEN 'pinned'
            -- Both are nullable up to Airflow 3.1, which examines only runs where they are false.
            WHEN dag.dag_id IS NOT NULL AND dag.is_paused IS NOT FALSE THEN 'paused'
            WHEN dag.dag_id IS NOT NULL AND dag.is_stale IS NOT FALSE THEN 'stale_dag'
            WHEN run.run_after > pg_catalog.now() THEN 'not_due'
        END AS obstacle
    FROM running AS run
    LEFT JOIN @airflow_schema@.dag AS dag ON dag.dag_id::text = run.dag_id::text
    WHERE dag_ids IS NULL OR run.dag_id::text = ANY (dag_ids)
),

versioned AS (
    SELECT
        run.id,
        run.dag_id,
        run.run_id,
        run.last_scheduling_decision,
        run.run_after,
        latest.id AS dag_version_id,
        latest.version_number,
        CASE
            WHEN run.obstacle IS NOT NULL THEN run.obstacle
            WHEN latest.id IS NULL THEN 'no_version'
            WHEN serialized.dag_version_id IS NULL THEN 'no_serialized_dag'
        END AS obstacle
    FROM judged AS run
    LEFT JOIN LATERAL (
        SELECT version.id, version.version_number
        FROM @airflow_schema@.dag_version AS version
        WHERE version.dag_id::text = run.dag_id::text
        ORDER BY version.version_number DESC
        LIMIT 1
    ) AS latest ON TRUE
    -- Unique in dag_version_id. (An EXISTS might be hashed: read whole, for a few rows of it.)
    LEFT JOIN @airflow_schema@.serialized_dag AS serialized ON serialized.dag_version_id = latest.id
    WHERE run.obstacle IS NULL OR NOT examined_only
),

backfill AS (
    -- Only a limit asks for Airflow's order; without one this reads nothing.
    SELECT item.dag_run_id, pg_catalog.min(item.sort_ordinal) AS sort_ordinal
    FROM @airflow_schema@.backfill_dag_run AS item
    WHERE max_runs IS NOT NULL
    GROUP BY item.dag_run_id
),

placed AS (
    SELECT
        run.*,
        pg_catalog.row_number() OVER (
            PARTITION BY run.obstacle IS NULL
            ORDER BY
                backfill.sort_ordinal NULLS FIRST,
                run.last_scheduling_decision NULLS FIRST,
                run.run_after,
                run.id
        ) AS place
    FROM versioned AS run
    LEFT JOIN backfill ON backfill.dag_run_id = run.id
)

SELECT
    run.id::bigint AS dag_run_id,
    run.dag_id::text AS dag_id,
    run.run_id::text AS run_id,
    run.dag_version_id,
    run.version_number,
    run.obstacle,
    run.place
FROM placed AS run
WHERE CASE
    WHEN run.obstacle IS NOT NULL THEN NOT examined_only
    ELSE max_runs IS NULL OR run.place <= max_runs
END
