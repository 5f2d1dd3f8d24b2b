-- dagbump.verify_scope: what Airflow's verify_integrity would find in some runs, read from the database alone.
--
-- Airflow decides by a sign whether a run is to be verified: the latest version
-- is on none of its task instances (TIs) and past tries. The sign can be there
-- and the work not done, so that new tasks never run; and it can be missing
-- where there is nothing to do. This is the truth behind it. Reads only.

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
    ids CONSTANT bigint[] := dag_run_ids;
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
and past tries. That sign can be there and the work not done: after a task was cleared "on the latest
version", a TI was deleted, verify_integrity failed, or a version was rewritten in place. The new tasks
then never run in that run. Here is the truth: the tasks of the latest version, as Airflow serialized
them, beside the TIs of the run. SELECT dagbump.help(''bump''); explains the other words.

Answers one row for each of these runs that is running:
  missing_tasks   tasks of the latest version that have no TI in the run but removed ones: nothing of them
                  will run before verify_integrity makes or restores a TI. A task that has none at all
                  is left out where verify_integrity would make none, because its start_date or end_date,
                  or its DAG''s, rules out the logical date of the run, unless that is a backfill''s or has
                  none
  restored_tasks  all tasks of removed TIs that the latest version has (again), those in missing_tasks
                  too: verify_integrity restores the TIs. Of a mapped task it restores those whose index
                  fits; one beside TIs that are not removed is most often an index too many, and stays
  vanished_tasks  tasks of unfinished TIs that the latest version no longer has
  has_mapped      the latest version has a mapped task or a mapped task group: verify_integrity also
                  compares the indexes of their TIs with what they are mapped over, which is not done here. From
                  Airflow 3.4 on also where a TI of the run has such an index
All are NULL where the tasks of the latest version cannot be read: it has no serialized_dag row, Airflow
compresses its serialized DAGs, or they are in a format that this release of dagbump does not know, or
have a loop (Airflow 3.4), in which it depends on how far it is which tasks have TIs.

Reads each version once, however many runs share it. Locks: none; runs on a hot standby.
Errors: 22023 for a NULL inside the array and for an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.verify_scope(bigint[]) FROM PUBLIC;
