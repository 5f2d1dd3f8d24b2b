-- dagbump.versions_of_runs: counts the unfinished task instances (TIs) of running DAG runs by version.
--
-- For the page in Airflow's UI. Reads only: it locks nothing and runs on a hot standby.

CREATE OR REPLACE FUNCTION dagbump.versions_of_runs(
    dag_run_ids bigint[]
) RETURNS TABLE (
    dag_run_id bigint,
    version_number integer,
    task_instances integer
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
@include:settings@
AS $versions_of_runs$
#variable_conflict use_column
DECLARE
    chosen CONSTANT bigint[] := coalesce(dag_run_ids, '{}');
BEGIN
    @include:require_tables@
    @include:check_dag_run_ids@

    RETURN QUERY
    SELECT run.dag_run_id, version.version_number, tis.task_instances
    FROM (
        SELECT running.id::bigint AS dag_run_id, running.dag_id::text AS dag_id, running.run_id::text AS run_id
        FROM (
            @include:running_runs@
        ) AS running
    ) AS run
    CROSS JOIN LATERAL (
        SELECT ti.dag_version_id, pg_catalog.count(*)::integer AS task_instances
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE @include:of_run@
        AND @include:unfinished@
        GROUP BY ti.dag_version_id
    ) AS tis
    LEFT JOIN LATERAL (
        SELECT version.version_number
        FROM @airflow_schema@.dag_version AS version
        WHERE version.id = tis.dag_version_id
        OFFSET 0 -- keeps the planner from turning this look-up into a join
    ) AS version ON TRUE
    -- A TI may be on a version of another DAG with the same version_number.
    ORDER BY run.dag_run_id, version.version_number NULLS FIRST, tis.dag_version_id;
END
$versions_of_runs$;

COMMENT ON FUNCTION dagbump.versions_of_runs(bigint[]) IS
'Internal: counts the unfinished task instances of running DAG runs by version.

For the page in Airflow''s UI. dag_run_ids: dag_run.id; NULL and an empty array: none. Answers one row per
run and version:
  version_number  NULL: no version
  task_instances  how many unfinished ones
It reads every TI of these runs. Reads only; runs on a hot standby. Locks: none.
Errors: 22023 if dag_run_ids contains NULL or is an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.versions_of_runs(bigint[]) FROM PUBLIC;
