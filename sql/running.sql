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
@include:settings@
AS $running$
#variable_conflict use_column
DECLARE
    ids CONSTANT bigint[] := NULL;
BEGIN
    @include:require_tables@
    @include:check_dag_ids@

    RETURN QUERY
    SELECT pg_catalog.count(*)::integer, coalesce(pg_catalog.sum(tis.unfinished), 0)::integer
    FROM (
        SELECT running.dag_id::text AS dag_id, running.run_id::text AS run_id
        FROM (
            @include:running_runs@
        ) AS running
        WHERE dag_ids IS NULL OR running.dag_id::text = ANY (dag_ids)
    ) AS run
    CROSS JOIN LATERAL (
        SELECT pg_catalog.count(*) AS unfinished
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE @include:of_run@
        AND @include:unfinished@
    ) AS tis;
END
$running$;

COMMENT ON FUNCTION dagbump.running(text[]) IS
'Internal: how many DAG runs are running, and how many of their task instances are unfinished.

For the page in Airflow''s UI. dag_ids: NULL: every DAG; an empty array: none. Answers one row. Looks at every
TI of the running runs. Reads only; runs on a hot standby. Locks: none. Errors: 22023 for a NULL inside
dag_ids and for an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.running(text[]) FROM PUBLIC;
