-- dagbump.preview: what dagbump.bump would do, and what in running runs is not as it should be.
--
-- For a person before the first bump. Reads only: locks nothing, runs on a hot
-- standby. Unlike bump it looks at every running run, examined or not, and at the
-- tasks that it should have: the sign by which Airflow and bump take a run for
-- verified can be there and the work not done.

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
    ids CONSTANT bigint[] := dag_run_ids;
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
        SELECT
            run.*,
            -- A pinned run keeps to its own version, for as long as that is known.
            CASE WHEN run.obstacle = 'pinned' THEN run.created_dag_version_id END AS pinned_version_id
        FROM (
            @include:judged_runs@
        ) AS run
        WHERE run.obstacle IS NOT NULL OR limited IS NULL OR run.dag_run_id = ANY (limited)
    ),

    scoped AS MATERIALIZED (
        SELECT
            run.dag_run_id,
            run.dag_id,
            run.run_id,
            run.run_type,
            run.logical_date,
            coalesce(run.pinned_version_id, run.dag_version_id) AS dag_version_id
        FROM judged AS run
    ),

    scope AS (
        @include:scope_of_runs@
    ),

    -- Each run is in both. FULL, because PostgreSQL has no nested loop for it, which would compare each with each.
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
                    WHERE @include:unfinished@
                    -- Where the DAG has no version at all, nothing can be on the latest.
                    AND (ti.dag_version_id = run.dag_version_id) IS NOT TRUE
                    AND (ti.dag_version_id = run.pinned_version_id) IS NOT TRUE
                ) AS stale,
                pg_catalog.count(*) FILTER (WHERE @include:unfinished@ AND ti.dag_version_id IS NULL) AS versionless,
                pg_catalog.bool_or(ti.dag_version_id = run.dag_version_id) AS on_latest
            FROM ONLY @airflow_schema@.task_instance AS ti
            WHERE @include:of_run@
            GROUP BY coalesce(ti.state::text, 'no_status')
        ) AS states
    ) AS tis
    CROSS JOIN LATERAL (
        SELECT
            (tis.on_latest IS TRUE OR @include:in_past_tries@)
            -- The safe form leaves it to Airflow as well where Airflow would move back what is moved.
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

Reads only; runs on a hot standby. Takes the arguments of dagbump.bump, whose page explains the words:
SELECT dagbump.help(''bump'');

Answers one row per running run that holds stale TIs, lacks a task, or that bump would answer:
  dag_version_id, version_number   the latest version of the DAG; NULL where it has none
  stale           unfinished TIs that are not on it; in a pinned run, nor on the run''s own version
  stale_by_state  the same by state, {"scheduled": 2, "no_status": 1}; no_status: state is NULL, as
                  Airflow''s UI says
  verdict         bump               bump moves them
                  missing_tasks      the run lacks a task, and Airflow takes it for verified: nothing in
                                     Airflow will create or restore the TI; bump moves what is stale
                                     besides
                  needs_verify       verify_integrity is due: the safe form leaves the run to Airflow; also
                                     where Airflow, up to 3.2, takes another version for the latest, and
                                     would move back what is moved: dagbump.check() names the DAG
                  pinned             dag_run.bundle_version is set: the run keeps its version
                  versionless        so it is, and TIs of it have no version at all: from Airflow 3.1
                                     on nothing will ever start them
                  paused, stale_dag  the DAG is paused, or no longer in any DAG file
                  not_due            run_after lies in the future
                  no_version         the DAG has no dag_version
                  no_serialized_dag  the latest version has no serialized_dag row
                  The first that applies: versionless, pinned, paused, stale_dag, not_due, no_version,
                  no_serialized_dag; then needs_verify, missing_tasks, bump.
  versionless     unfinished TIs whose dag_version_id is NULL
  missing_tasks   tasks of the latest version, in a pinned run of its own, that have no TI in the run but
                  removed ones, although Airflow would make or restore one:
                  SELECT dagbump.help(''verify_scope''); NULL where they cannot be read
  vanished_tasks  tasks of unfinished TIs that that version no longer has; NULL as above
Where verify_integrity is still due, it will create what is missing.
max_runs limits the examined runs (bump, missing_tasks, needs_verify); the others are shown in any case.
Errors: 22023 as in dagbump.bump. Locks: none.';

REVOKE ALL ON FUNCTION dagbump.preview(bigint[], text[], integer, boolean) FROM PUBLIC;
