-- dagbump.preview: what dagbump.bump would do, and why it leaves the other stale task instances (TIs) alone.
--
-- For a person before the first bump. Reads only: locks nothing, runs on a hot
-- standby. Unlike bump it looks at every running run, examined or not.

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
    verdict text
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
    @include:check_arguments@

    IF max_runs IS NOT NULL THEN
        limited := coalesce((
            @include:limited_runs@
        ), '{}');
    END IF;

    RETURN QUERY
    SELECT
        run.dag_run_id,
        run.dag_id,
        run.run_id,
        run.dag_version_id,
        run.version_number,
        tis.stale,
        tis.stale_by_state,
        CASE
            WHEN run.obstacle IS NOT NULL THEN run.obstacle
            WHEN verdict.verified OR (preview.caller_verifies AND tis.stale > 0) THEN 'bump'
            ELSE 'needs_verify'
        END
    FROM (
        @include:judged_runs@
    ) AS run
    CROSS JOIN LATERAL (
        SELECT
            coalesce(pg_catalog.sum(states.stale), 0)::integer AS stale,
            coalesce(
                pg_catalog.jsonb_object_agg(states.state, states.stale) FILTER (WHERE states.stale > 0), '{}'
            ) AS stale_by_state,
            pg_catalog.bool_or(states.on_latest) AS on_latest
        FROM (
            SELECT
                coalesce(ti.state::text, 'no_status') AS state,
                pg_catalog.count(*) FILTER (
                    WHERE @include:unfinished@
                    -- Where the DAG has no version at all, nothing can be on the latest.
                    AND (ti.dag_version_id = run.dag_version_id) IS NOT TRUE
                ) AS stale,
                pg_catalog.bool_or(ti.dag_version_id = run.dag_version_id) AS on_latest
            FROM ONLY @airflow_schema@.task_instance AS ti
            WHERE @include:of_run@
            GROUP BY coalesce(ti.state::text, 'no_status')
        ) AS states
    ) AS tis
    CROSS JOIN LATERAL (
        SELECT tis.on_latest IS TRUE OR @include:in_past_tries@ AS verified
    ) AS verdict
    WHERE (tis.stale > 0 OR (run.obstacle IS NULL AND NOT verdict.verified))
    AND (run.obstacle IS NOT NULL OR limited IS NULL OR run.dag_run_id = ANY (limited))
    ORDER BY
        run.obstacle COLLATE pg_catalog."C" NULLS FIRST,
        pg_catalog.array_position(limited, run.dag_run_id),
        run.last_scheduling_decision NULLS FIRST,
        run.run_after,
        run.dag_run_id;
END
$preview$;

COMMENT ON FUNCTION dagbump.preview(bigint[], text[], integer, boolean) IS
'Shows what dagbump.bump would do, and which stale task instances it leaves alone and why.

  SELECT * FROM dagbump.preview();

Reads only; runs on a hot standby. Takes the arguments of dagbump.bump, whose page explains the words:
SELECT dagbump.help(''bump'');

Answers one row per running run that holds stale TIs or that bump would answer:
  dag_version_id, version_number   the latest version of the DAG; NULL where it has none
  stale           unfinished TIs that are not on it
  stale_by_state  the same by state, {"scheduled": 2, "no_status": 1}; no_status: state is NULL, as
                  Airflow''s UI says
  verdict         bump               bump moves them
                  needs_verify       verify_integrity is due: the safe form leaves the run to Airflow
                  pinned             dag_run.bundle_version is set: the run keeps its version
                  paused, stale_dag  the DAG is paused, or no longer in any DAG file
                  not_due            run_after lies in the future
                  no_version         the DAG has no dag_version
                  no_serialized_dag  the latest version has no serialized_dag row
                  The first that applies: pinned, paused, stale_dag, not_due, no_version,
                  no_serialized_dag.
max_runs limits the examined runs (bump, needs_verify); the others are shown in any case.
Errors: 22023 as in dagbump.bump. Locks: none.';

REVOKE ALL ON FUNCTION dagbump.preview(bigint[], text[], integer, boolean) FROM PUBLIC;
