-- dagbump.verify_scope: shows what Airflow's verify_integrity would find in some runs, without running it.
--
-- Airflow verifies a run only while the latest version is on none of its task instances
-- (TIs) and none of their past tries. That version can be on a TI although the run was
-- not verified: its new tasks then never run. It can also be on no TI although there is
-- nothing to do. This function compares the tasks of the version with the TIs of the
-- run. Reads only.

CREATE OR REPLACE FUNCTION dagbump.verify_scope(dag_run_ids bigint[]) RETURNS TABLE (
    dag_run_id bigint,
    missing_tasks text[],
    restored_tasks text[],
    vanished_tasks text[],
    has_mapped boolean
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
@include:settings@
AS $verify_scope$
#variable_conflict use_column
DECLARE
    chosen CONSTANT bigint[] := dag_run_ids;
BEGIN
    @include:require_tables@
    @include:check_dag_run_ids@

    RETURN QUERY
    WITH scoped AS MATERIALIZED (
        SELECT
            run.id::bigint AS dag_run_id,
            run.dag_id::text AS dag_id,
            run.run_id::text AS run_id,
            run.run_type::text AS run_type,
            run.logical_date,
            latest.id AS dag_version_id
        FROM (
            @include:running_runs@
        ) AS run
        LEFT JOIN LATERAL (
            @include:latest_version@
        ) AS latest ON TRUE
    ),

    scope AS (
        @include:scope_of_runs@
    )

    SELECT scope.dag_run_id, scope.missing_tasks, scope.restored_tasks, scope.vanished_tasks, scope.has_mapped
    FROM scope
    ORDER BY scope.dag_run_id;
END
$verify_scope$;

COMMENT ON FUNCTION dagbump.verify_scope(bigint[]) IS
'Shows what Airflow''s verify_integrity would find in running DAG runs, without running it.

  SELECT * FROM dagbump.verify_scope(''{17,18}'');      dag_run.id; NULL: every running run

Airflow verifies a run for a new version only while that version is on none of its task instances (TIs)
and none of their past tries. The version can be on a TI although the run was not verified: after a task
was cleared "on the latest version", a TI was deleted, verify_integrity failed, or a version was
rewritten in place. The new tasks then never run in that run. This function compares the tasks of the
latest version, as Airflow serialized them, with the TIs of the run.
SELECT dagbump.help(''bump''); explains the other words.

Answers one row for each of these runs that is running:
  missing_tasks   tasks of the latest version that have no TI in the run, or only removed ones. None of
                  their TIs will run before verify_integrity creates or restores them. A task without any
                  TI is left out if verify_integrity would not create one, because the run''s logical date
                  is outside the start_date and end_date of the task or the DAG. These dates do not count
                  for a backfill, or for a run without a logical date.
  restored_tasks  tasks of removed TIs that the latest version has, including those in missing_tasks:
                  verify_integrity restores these TIs. For a mapped task it restores those whose index
                  fits. If other TIs of the task are not removed, a removed TI usually has a
                  surplus index, and stays removed.
  vanished_tasks  tasks that have unfinished TIs, but are not in the latest version
  has_mapped      the latest version has a mapped task or a mapped task group, or, from Airflow 3.4 on, a
                  TI of the run has a map index. verify_integrity then also compares the indexes of the
                  TIs with what they are mapped over. This function does not.
All are NULL if the tasks of the latest version cannot be read: it has no serialized_dag row; Airflow
compresses its serialized DAGs; this release of dagbump does not know the format; or the DAG has a loop
(Airflow 3.4), because which of its tasks have TIs then depends on the progress of the loop.

It reads each version once, even if many runs share it. Locks: none; runs on a hot standby.
Errors: 22023 if the array contains NULL or is an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.verify_scope(bigint[]) FROM PUBLIC;
