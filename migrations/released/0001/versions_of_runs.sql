-- dagbump.versions_of_runs: which versions the unfinished task instances (TIs) of running DAG runs are on.
--
-- For the page in Airflow's UI. Reads only: locks nothing, runs on a hot standby.

CREATE OR REPLACE FUNCTION dagbump.versions_of_runs(
    dag_run_ids bigint[]
) RETURNS TABLE (
    dag_run_id bigint,
    version_number integer,
    task_instances integer
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
-- Names mean Airflow's tables, whatever the caller's path; a policy that would hide rows of them is
-- an error; and the plan is made once per connection, for any argument, of index look-ups only, so
-- that it is the same with fresh, stale and no statistics.
SET search_path = @airflow_schema@, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $versions_of_runs$
#variable_conflict use_column
DECLARE
    ids CONSTANT bigint[] := coalesce(dag_run_ids, '{}');
BEGIN
    -- Fails where a migration of Airflow has changed its tables under the function. The planner makes TRUE of it.
    IF NOT dagbump.tables_fit(@task_instance_literal@::regclass) THEN
        RETURN;
    END IF;
    -- Refuses a list that means nothing.
    IF pg_catalog.array_ndims(dag_run_ids) > 1 THEN
        RAISE EXCEPTION 'dag_run_ids must not be an array of arrays'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Each element is the id of a DAG run.';
    ELSIF pg_catalog.array_position(dag_run_ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'dag_run_ids must not contain NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Each element is the id of a DAG run.';
    END IF;

    RETURN QUERY
    SELECT run.dag_run_id, version.version_number, tis.task_instances
    FROM (
        SELECT running.id::bigint AS dag_run_id, running.dag_id::text AS dag_id, running.run_id::text AS run_id
        FROM (
            -- The running DAG runs among them.
            SELECT
                run.id,
                run.dag_id,
                run.run_id,
                run.run_type,
                run.logical_date,
                run.bundle_version,
                run.created_dag_version_id,
                run.last_scheduling_decision,
                run.run_after,
                run.backfill_id
            FROM @airflow_schema@.dag_run AS run
            WHERE ids IS NULL AND run.state::text = 'running'
            UNION ALL
            -- Of these two the executor runs one: a list of ids costs a look-up each, not a pass over all running runs.
            SELECT
                run.id,
                run.dag_id,
                run.run_id,
                run.run_type,
                run.logical_date,
                run.bundle_version,
                run.created_dag_version_id,
                run.last_scheduling_decision,
                run.run_after,
                run.backfill_id
            FROM @airflow_schema@.dag_run AS run
            WHERE run.id = ANY (ids) AND run.state::text = 'running'
        ) AS running
    ) AS run
    CROSS JOIN LATERAL (
        SELECT ti.dag_version_id, pg_catalog.count(*)::integer AS task_instances
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
        AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
        GROUP BY ti.dag_version_id
    ) AS tis
    LEFT JOIN LATERAL (
        SELECT version.version_number
        FROM @airflow_schema@.dag_version AS version
        WHERE version.id = tis.dag_version_id
        OFFSET 0 -- by version: not joined, which could go through all of them for each run
    ) AS version ON TRUE
    -- A TI may be on a version of another DAG, of the same number.
    ORDER BY run.dag_run_id, version.version_number NULLS FIRST, tis.dag_version_id;
END
$versions_of_runs$;

COMMENT ON FUNCTION dagbump.versions_of_runs(bigint[]) IS
'Internal: which versions the unfinished task instances of running DAG runs are on.

For the page in Airflow''s UI. dag_run_ids: dag_run.id; NULL and an empty array: none. Answers one row per run and
version:
  version_number  NULL: on no version
  task_instances  how many unfinished ones
Looks at every TI of these runs. Reads only; runs on a hot standby. Locks: none. Errors: 22023 for a NULL
inside dag_run_ids and for an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.versions_of_runs(bigint[]) FROM PUBLIC;
