-- dagbump.running: counts the running DAG runs and the unfinished task instances (TIs) in them.
--
-- For the page in Airflow's UI, which begins with these totals. They include runs that preview does not
-- show. Reads only: it locks nothing and runs on a hot standby.

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
    chosen CONSTANT bigint[] := NULL;
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
'Internal: counts the running DAG runs and their unfinished task instances.

For the page in Airflow''s UI. dag_ids: NULL: every DAG; an empty array: none. Answers one row. It reads
every TI of the running runs. Reads only; runs on a hot standby. Locks: none.
Errors: 22023 if dag_ids contains NULL or is an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.running(text[]) FROM PUBLIC;
