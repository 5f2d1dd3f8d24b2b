-- Takes: chosen, dag_ids, limited, examined_only (true), by_index, report_all (false).
-- The running runs with TIs that may be moved outside a scheduler, and the version that these go to. They are
-- the examined runs that are due (with verified = false for those left to Airflow), and the pinned runs that have
-- versionless TIs and whose own version still exists.
SELECT
    run.dag_run_id,
    run.dag_id,
    run.run_id,
    run.dag_version_id,
    run.version_number,
    FALSE AS pinned,
    run.verified AND NOT (run.any_stale AND @include:other_is_latest@) AS verified
FROM (
    @include:due_runs@
) AS run
UNION ALL
SELECT
    run.dag_run_id,
    run.dag_id,
    run.run_id,
    own.id,
    own.version_number,
    TRUE,
    TRUE
FROM (
    SELECT
        run.id::bigint AS dag_run_id,
        run.dag_id::text AS dag_id,
        run.run_id::text AS run_id,
        run.created_dag_version_id
    FROM (
        @include:running_runs@
    ) AS run
    WHERE @include:pinned@
    AND (dag_ids IS NULL OR run.dag_id::text = ANY (dag_ids))
) AS run
JOIN @airflow_schema@.dag_version AS own ON own.id = run.created_dag_version_id AND own.dag_id::text = run.dag_id
WHERE EXISTS (
    SELECT FROM ONLY @airflow_schema@.task_instance AS ti
    WHERE @include:of_run@
    AND @include:versionless@
    OFFSET 0 -- keeps the planner from hashing the whole table
)
