-- Takes: chosen, dag_ids, examined_only.
-- The running DAG runs, one row each, with the latest version of the DAG and the reason why a run is not examined.
--
--   obstacle   NULL for an examined run, otherwise the reason: pinned, paused, stale_dag, not_due, no_version,
--              no_serialized_dag. With examined_only, these runs are left out.
--   pinned_version_id
--              the version that a pinned run keeps; NULL for other runs, and if Airflow has not recorded it
SELECT judged.*, CASE WHEN judged.obstacle = 'pinned' THEN judged.created_dag_version_id END AS pinned_version_id
FROM (
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
        coalesce(
            @include:obstacle_of_run@,
            @include:obstacle_of_version@
        ) AS obstacle
    FROM (
        @include:running_runs@
    ) AS run
    @include:dag_and_latest_version@
    WHERE dag_ids IS NULL OR run.dag_id::text = ANY (dag_ids)
) AS judged
WHERE NOT examined_only OR judged.obstacle IS NULL
