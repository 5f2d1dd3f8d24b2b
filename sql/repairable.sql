-- dagbump.repairable: lists the runs that a repair goes through, and how much there is to do in each.
--
-- dagbump.repair and the command line call it once, at the start of a repair. It writes
-- and locks nothing. It reads every TI of the running runs, at most twice.

CREATE OR REPLACE FUNCTION dagbump.repairable(dag_ids text[] DEFAULT NULL) RETURNS TABLE (
    dag_run_id bigint,
    task_instances integer,
    needs_verify boolean
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
@include:settings@
AS $repairable$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := TRUE;
    by_index CONSTANT boolean := FALSE;
    report_all CONSTANT boolean := FALSE;
    chosen CONSTANT bigint[] := NULL;
    limited CONSTANT bigint[] := NULL;
BEGIN
    @include:require_tables@
    @include:check_dag_ids@

    RETURN QUERY
    SELECT run.dag_run_id, tis.stale, NOT run.verified
    FROM (
        @include:repairable_runs@
    ) AS run
    CROSS JOIN LATERAL (
        SELECT pg_catalog.count(*)::integer AS stale
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE @include:of_run@
        AND @include:stale@
        AND (NOT run.pinned OR ti.dag_version_id IS NULL)
    ) AS tis
    ORDER BY run.dag_run_id;
END
$repairable$;

COMMENT ON FUNCTION dagbump.repairable(text[]) IS
'Internal: the DAG runs that a repair goes through, and how many task instances it has to move.

For dagbump.repair and the command line. Answers one row per examined run that has stale task instances
or is unverified, and one per pinned run that has versionless ones and whose own version still exists,
ordered by dag_run_id:
  task_instances  how many have to be moved
  needs_verify    verify_integrity is due: a repair leaves the run to Airflow
Locks: none. Errors: 22023 if dag_ids contains NULL or is an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.repairable(text[]) FROM PUBLIC;
