-- Takes: ids, dag_ids, max_runs.
-- The ids of the first max_runs examined runs, in the order of Airflow's scheduler
-- (DagRun.get_running_dag_runs_to_examine): sort_ordinal of the backfill (up to Airflow 3.3),
-- last_scheduling_decision, run_after.
--
-- The runs are sorted first and looked up afterwards, so that the look-ups end with the limit. A run can
-- be in several backfills of its DAG. If its backfill_id is NULL, it is in none.
SELECT pg_catalog.array_agg(examined.id::bigint)
FROM (
    SELECT run.id
    FROM (
        SELECT running.*, backfill.sort_ordinal
        FROM (
            @include:running_runs@
        ) AS running
        LEFT JOIN LATERAL (
            SELECT pg_catalog.min(item.sort_ordinal) AS sort_ordinal
            FROM @airflow_schema@.backfill AS backfill
            JOIN @airflow_schema@.backfill_dag_run AS item
                ON item.backfill_id = backfill.id AND item.dag_run_id = running.id
            WHERE backfill.dag_id::text = running.dag_id::text
        ) AS backfill ON running.backfill_id IS NOT NULL
        WHERE coalesce(running.bundle_version::text, '') = ''
        AND running.run_after <= pg_catalog.now()
        AND (dag_ids IS NULL OR running.dag_id::text = ANY (dag_ids))
        ORDER BY
            backfill.sort_ordinal NULLS FIRST, running.last_scheduling_decision NULLS FIRST, running.run_after, running.id
        OFFSET 0
    ) AS run
    LEFT JOIN @airflow_schema@.dag AS dag ON dag.dag_id::text = run.dag_id::text
    CROSS JOIN LATERAL (
        @include:latest_version@
    ) AS latest
    JOIN @airflow_schema@.serialized_dag AS serialized ON serialized.dag_version_id = latest.id
    WHERE dag.dag_id IS NULL OR (dag.is_paused IS FALSE AND dag.is_stale IS FALSE)
    ORDER BY run.sort_ordinal NULLS FIRST, run.last_scheduling_decision NULLS FIRST, run.run_after, run.id
    LIMIT max_runs
) AS examined
