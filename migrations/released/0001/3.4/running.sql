-- dagbump.running: how many DAG runs are running, and how many task instances (TIs) are unfinished in them.
--
-- For the page in Airflow's UI, whose first sentence is about all of them, also those of which preview has nothing to
-- tell. Reads only: locks nothing, runs on a hot standby.

CREATE OR REPLACE FUNCTION dagbump.running(
    dag_ids text[] DEFAULT NULL
) RETURNS TABLE (
    dag_runs integer,
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
AS $running$
#variable_conflict use_column
DECLARE
    ids CONSTANT bigint[] := NULL;
BEGIN
    -- Fails where a migration of Airflow has changed its tables under the function. The planner makes TRUE of it.
    IF NOT dagbump.tables_fit(@task_instance_literal@::regclass) THEN
        RETURN;
    END IF;
    -- Refuses a list that means nothing.
    IF pg_catalog.array_ndims(dag_ids) > 1 THEN
        RAISE EXCEPTION 'dag_ids must not be an array of arrays'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means every DAG.';
    ELSIF pg_catalog.array_position(dag_ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'dag_ids must not contain NULL'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL in place of the array means every DAG.';
    END IF;

    RETURN QUERY
    SELECT pg_catalog.count(*)::integer, coalesce(pg_catalog.sum(tis.unfinished), 0)::integer
    FROM (
        SELECT running.dag_id::text AS dag_id, running.run_id::text AS run_id
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
        WHERE dag_ids IS NULL OR running.dag_id::text = ANY (dag_ids)
    ) AS run
    CROSS JOIN LATERAL (
        SELECT pg_catalog.count(*) AS unfinished
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id
        AND ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
    ) AS tis;
END
$running$;

COMMENT ON FUNCTION dagbump.running(text[]) IS
'Internal: how many DAG runs are running, and how many of their task instances are unfinished.

For the page in Airflow''s UI. dag_ids: NULL: every DAG; an empty array: none. Answers one row. Looks at every
TI of the running runs. Reads only; runs on a hot standby. Locks: none. Errors: 22023 for a NULL inside
dag_ids and for an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.running(text[]) FROM PUBLIC;
