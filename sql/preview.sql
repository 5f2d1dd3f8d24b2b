-- dagbump.preview: shows what dagbump.bump would do, and which running runs lack a task.
--
-- For a person before the first bump. Reads only: it locks nothing and runs on a hot
-- standby. Unlike bump, it looks at every running run, examined or not, and it compares
-- the tasks of the latest version with the TIs of the run. For Airflow and bump, a run
-- is verified if the latest version is on one of its TIs or past tries, even if it
-- lacks a task.

CREATE OR REPLACE FUNCTION dagbump.preview(
    dag_run_ids bigint[] DEFAULT NULL,
    dag_ids text[] DEFAULT NULL,
    max_runs integer DEFAULT NULL,
    caller_verifies boolean DEFAULT FALSE
) RETURNS TABLE (
    dag_run_id bigint,
    dag_id text,
    run_id text,
    dag_version_id uuid,
    version_number integer,
    stale integer,
    stale_by_state jsonb,
    verdict text,
    versionless integer,
    missing_tasks text[],
    vanished_tasks text[]
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
@include:settings@
AS $preview$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := FALSE;
    chosen CONSTANT bigint[] := dag_run_ids;
    limited bigint[];
BEGIN
    @include:require_tables@
    @include:check_arguments@

    IF max_runs IS NOT NULL THEN
        limited := coalesce((
            @include:limited_runs@
        ), '{}');
    END IF;

    RETURN QUERY
    WITH judged AS MATERIALIZED (
        SELECT run.*
        FROM (
            @include:judged_runs@
        ) AS run
        WHERE run.obstacle IS NOT NULL OR limited IS NULL OR run.dag_run_id = ANY (limited)
    ),

    scoped AS MATERIALIZED (
        @include:scoped_runs@
    ),

    scope AS (
        @include:scope_of_runs@
    ),

    -- Both sides have every run. It is a FULL JOIN, because PostgreSQL has no nested loop for a FULL JOIN. A nested loop would
    -- compare every run with every run.
    joined AS MATERIALIZED (
        SELECT run.*, scope.missing_tasks, scope.vanished_tasks
        FROM judged AS run
        FULL JOIN scope ON scope.dag_run_id = run.dag_run_id
    )

    SELECT
        run.dag_run_id,
        run.dag_id,
        run.run_id,
        run.dag_version_id,
        run.version_number,
        tis.stale,
        tis.stale_by_state,
        CASE
            WHEN run.obstacle = 'pinned' AND tis.versionless > 0 THEN 'versionless'
            WHEN run.obstacle IS NOT NULL THEN run.obstacle
            WHEN verdict.verified AND verdict.lacks_task THEN 'missing_tasks'
            WHEN verdict.verified OR (preview.caller_verifies AND tis.stale > 0) THEN 'bump'
            ELSE 'needs_verify'
        END,
        tis.versionless,
        run.missing_tasks,
        run.vanished_tasks
    FROM joined AS run
    CROSS JOIN LATERAL (
        SELECT
            coalesce(pg_catalog.sum(states.stale), 0)::integer AS stale,
            coalesce(
                pg_catalog.jsonb_object_agg(states.state, states.stale) FILTER (WHERE states.stale > 0), '{}'
            ) AS stale_by_state,
            coalesce(pg_catalog.sum(states.versionless), 0)::integer AS versionless,
            pg_catalog.bool_or(states.on_latest) AS on_latest
        FROM (
            SELECT
                coalesce(ti.state::text, 'no_status') AS state,
                pg_catalog.count(*) FILTER (
                    WHERE @include:stale@
                    AND (ti.dag_version_id = run.pinned_version_id) IS NOT TRUE
                ) AS stale,
                pg_catalog.count(*) FILTER (WHERE @include:versionless@) AS versionless,
                pg_catalog.bool_or(ti.dag_version_id = run.dag_version_id) AS on_latest
            FROM ONLY @airflow_schema@.task_instance AS ti
            WHERE @include:of_run@
            GROUP BY coalesce(ti.state::text, 'no_status')
        ) AS states
    ) AS tis
    CROSS JOIN LATERAL (
        SELECT
            (tis.on_latest IS TRUE OR @include:in_past_tries@)
            -- The safe form also leaves the run to Airflow if Airflow would move the TIs back.
            AND (
                preview.caller_verifies OR run.obstacle IS NOT NULL OR tis.stale = 0 OR NOT (@include:other_is_latest@)
            ) AS verified,
            coalesce(pg_catalog.cardinality(run.missing_tasks), 0) > 0 AS lacks_task
    ) AS verdict
    WHERE tis.stale > 0 OR verdict.lacks_task OR (run.obstacle IS NULL AND NOT verdict.verified)
    ORDER BY
        run.obstacle COLLATE pg_catalog."C" NULLS FIRST,
        pg_catalog.array_position(limited, run.dag_run_id),
        run.last_scheduling_decision NULLS FIRST,
        run.run_after,
        run.dag_run_id;
END
$preview$;

COMMENT ON FUNCTION dagbump.preview(bigint[], text[], integer, boolean) IS
'Shows what dagbump.bump would do, what it leaves alone and why, and which runs lack a task.

  SELECT * FROM dagbump.preview();

Reads only; runs on a hot standby. It takes the first four arguments of dagbump.bump, and uses its words:
SELECT dagbump.help(''bump'');

Answers one row per running run that has stale TIs, lacks a task, or would be answered by bump:
  dag_version_id, version_number   the latest version of the DAG; NULL if it has none
  stale           unfinished TIs that are not on the latest version. In a pinned run, a TI on the
                  run''s own version is not stale.
  stale_by_state  the same by state, {"scheduled": 2, "no_status": 1}; no_status: state is NULL, as in
                  Airflow''s UI
  verdict         bump               bump moves the stale TIs
                  missing_tasks      the run lacks a task, and Airflow takes the run for verified, so it
                                     will not create or restore the TI. bump moves the stale TIs.
                  needs_verify       verify_integrity is due, and the safe form leaves the run to
                                     Airflow. The same if Airflow, up to 3.2, takes another version for
                                     the latest and would move the TIs back: dagbump.check() names the
                                     DAG.
                  pinned             dag_run.bundle_version is set: the run keeps its version
                  versionless        pinned, and some TIs have no version: from Airflow 3.1 on, Airflow
                                     never starts these
                  paused, stale_dag  the DAG is paused, or is in no DAG file any more
                  not_due            run_after is in the future
                  no_version         the DAG has no dag_version
                  no_serialized_dag  the latest version has no serialized_dag row
                  If several apply, the first of: versionless, pinned, paused, stale_dag, not_due,
                  no_version, no_serialized_dag, needs_verify, missing_tasks, bump.
  versionless     unfinished TIs whose dag_version_id is NULL
  missing_tasks   tasks of the latest version that have no TI in the run, or only removed ones, although
                  verify_integrity would create or restore one: SELECT dagbump.help(''verify_scope'');
                  In a pinned run, tasks of its own version. NULL if the tasks cannot be read.
  vanished_tasks  tasks that have unfinished TIs, but are not in this version; NULL as above
If verify_integrity is due, it will create what is missing.
max_runs limits only the runs with the verdict bump, missing_tasks or needs_verify.
Errors: 22023 as in dagbump.bump. Locks: none.';

REVOKE ALL ON FUNCTION dagbump.preview(bigint[], text[], integer, boolean) FROM PUBLIC;
