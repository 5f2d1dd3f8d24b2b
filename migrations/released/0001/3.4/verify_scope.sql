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
AS $verify_scope$
#variable_conflict use_column
DECLARE
    ids CONSTANT bigint[] := dag_run_ids;
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
    WITH scoped AS MATERIALIZED (
        SELECT
            run.id::bigint AS dag_run_id,
            run.dag_id::text AS dag_id,
            run.run_id::text AS run_id,
            run.run_type::text AS run_type,
            run.logical_date,
            latest.id AS dag_version_id
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
        ) AS run
        LEFT JOIN LATERAL (
            -- The latest version of its DAG: the highest version_number, whatever created_at says.
            SELECT version.id, version.version_number
            FROM @airflow_schema@.dag_version AS version
            WHERE version.dag_id::text = run.dag_id::text
            ORDER BY version.version_number DESC
            LIMIT 1
        ) AS latest ON TRUE
    ),

    scope AS (
        -- One row for each of these runs: what verify_integrity would find in it, were the DAG of that
        -- version.
        --
        -- Each version is unpacked once. Tasks and TIs meet in a GROUP BY, not in a join, in which wrong
        -- statistics could have each compared with each. The bits of a task of a run: 1 the version has
        -- it, 2 it is due in this run, 4 it has a TI that is not removed, 8 a removed one, 16 an unfinished
        -- one. Those of a run: 32 the version can be read, 64 it, or a TI, has something mapped.
        --
        -- A task without a TI is missing where it is due, because verify_integrity creates no other; one
        -- whose TIs are all removed, in any case, because dates do not keep it from restoring them. A
        -- removed TI beside one that is not is taken for a map index that is one too many.
        WITH versions AS MATERIALIZED (
            SELECT runs.dag_run_ids, runs.logical_dates, version.task_ids, version.start_dates, version.end_dates, version.has_mapped
            FROM (
                SELECT
                    run.dag_version_id,
                    pg_catalog.array_agg(run.dag_run_id) AS dag_run_ids,
                    -- In a backfill, the dates of tasks do not count.
                    pg_catalog.array_agg(CASE WHEN run.run_type <> 'backfill' THEN run.logical_date END) AS logical_dates
                FROM scoped AS run
                GROUP BY run.dag_version_id
            ) AS runs
            CROSS JOIN LATERAL dagbump.tasks_of_version(runs.dag_version_id) AS version
        ),

        pieces AS (
            SELECT
                run.dag_run_id,
                task.task_id COLLATE pg_catalog."C" AS task_id,
                CASE WHEN task.start_date > run.logical_date OR task.end_date < run.logical_date THEN 1 ELSE 3 END AS bits
            FROM versions AS version
            -- Of several arrays, unnest is syntax, and means that of pg_catalog: so it is the one name that is not qualified.
            CROSS JOIN LATERAL unnest(version.task_ids, version.start_dates, version.end_dates) AS task (task_id, start_date, end_date)
            CROSS JOIN LATERAL unnest(version.dag_run_ids, version.logical_dates) AS run (dag_run_id, logical_date)
            UNION ALL
            SELECT run.dag_run_id, ti.task_id, ti.bits
            FROM scoped AS run
            CROSS JOIN LATERAL (
                SELECT
                    ti.task_id::text COLLATE pg_catalog."C" AS task_id,
                    CASE WHEN ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed') THEN 20 WHEN ti.state::text = 'removed' THEN 8 ELSE 4 END
                    | CASE WHEN ti.region_id = '00000000-0000-0000-0000-000000000000'::uuid AND ti.region_index < 0 THEN 0 ELSE 64 END AS bits
                FROM ONLY @airflow_schema@.task_instance AS ti
                WHERE ti.dag_id::text = run.dag_id AND ti.run_id::text BETWEEN run.run_id AND run.run_id AND ti.working_set IS TRUE
                OFFSET 0 -- by run: not joined, which could go through all TIs for each run
            ) AS ti
            UNION ALL
            SELECT
                run.dag_run_id,
                NULL::text,
                CASE WHEN version.task_ids IS NULL THEN 0 WHEN version.has_mapped THEN 96 ELSE 32 END
            FROM versions AS version
            CROSS JOIN LATERAL pg_catalog.unnest(version.dag_run_ids) AS run (dag_run_id)
        ),

        found AS (
            SELECT piece.dag_run_id, piece.task_id, pg_catalog.bit_or(piece.bits) AS bits
            FROM pieces AS piece
            GROUP BY piece.dag_run_id, piece.task_id
            -- Of most tasks there is nothing to tell: the version has it, and it has a TI that was not removed.
            HAVING (pg_catalog.bit_or(piece.bits) & 77) <> 5
        )

        SELECT
            run.dag_run_id,
            CASE WHEN run.readable THEN coalesce(run.missing_tasks, '{}') END AS missing_tasks,
            CASE WHEN run.readable THEN coalesce(run.restored_tasks, '{}') END AS restored_tasks,
            CASE WHEN run.readable THEN coalesce(run.vanished_tasks, '{}') END AS vanished_tasks,
            CASE WHEN run.readable THEN run.has_mapped END AS has_mapped
        FROM (
            SELECT
                found.dag_run_id,
                pg_catalog.array_agg(found.task_id ORDER BY found.task_id) FILTER (
                    WHERE (found.bits & 5) = 1 AND (found.bits & 10) <> 0
                ) AS missing_tasks,
                pg_catalog.array_agg(found.task_id ORDER BY found.task_id) FILTER (WHERE (found.bits & 9) = 9) AS restored_tasks,
                pg_catalog.array_agg(found.task_id ORDER BY found.task_id) FILTER (WHERE (found.bits & 17) = 16) AS vanished_tasks,
                (pg_catalog.bit_or(found.bits) & 32) <> 0 AS readable,
                (pg_catalog.bit_or(found.bits) & 64) <> 0 AS has_mapped
            FROM found
            GROUP BY found.dag_run_id
        ) AS run
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
