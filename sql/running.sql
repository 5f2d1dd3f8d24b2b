-- dagbump.running: shows each running DAG run in one row: its verdict, and how much of it is stale.
--
-- For the page in Airflow's UI, which counts, sorts and cuts these rows, and calls preview only for the runs that it
-- shows. Reads only: it locks nothing and runs on a hot standby.
--
-- Preview compares each task of a version with each TI. This function first compares fingerprints, which are sums of
-- hashes. If a run has the fingerprint of its version, no task is missing and none has vanished. So the function
-- compares only the other runs task by task, and only if their verdict depends on the tasks.

CREATE OR REPLACE FUNCTION dagbump.running(
    dag_ids text[] DEFAULT NULL,
    search text DEFAULT NULL
) RETURNS TABLE (
    dag_run_id bigint,
    dag_id text,
    run_id text,
    version_number integer,
    pinned boolean,
    verdict text,
    unfinished integer,
    stale integer,
    stale_running integer,
    queued_versionless integer,
    missing_or_vanished integer,
    dag_found boolean,
    run_found boolean,
    task_found boolean,
    task_behind boolean
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
@include:settings@
AS $running$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := FALSE;
    chosen CONSTANT bigint[] := NULL;
    needle CONSTANT text := pg_catalog.lower(search);
BEGIN
    @include:require_tables@
    @include:check_dag_ids@

    RETURN QUERY
    WITH judged AS MATERIALIZED (
        @include:judged_runs@
    ),

    counted AS MATERIALIZED (
        SELECT
            run.*,
            tis.*,
            (tis.on_latest IS TRUE OR @include:in_past_tries@)
            -- As in preview: the safe form leaves the run to Airflow if Airflow would move the TIs back.
            AND (run.obstacle IS NOT NULL OR tis.stale = 0 OR NOT (@include:other_is_latest@)) AS verified
        FROM judged AS run
        CROSS JOIN LATERAL (
            SELECT
                pg_catalog.count(*) FILTER (WHERE ti.unfinished)::integer AS unfinished,
                pg_catalog.count(*) FILTER (WHERE ti.stale)::integer AS stale,
                pg_catalog.count(*) FILTER (WHERE ti.stale AND ti.state = 'running')::integer AS stale_running,
                pg_catalog.count(*) FILTER (WHERE ti.versionless)::integer AS versionless,
                pg_catalog.count(*) FILTER (WHERE ti.versionless AND ti.state = 'queued')::integer AS queued_versionless,
                pg_catalog.bool_or(ti.dag_version_id = run.dag_version_id) AS on_latest,
                -- DISTINCT, because a mapped task has many TIs.
                coalesce(
                    pg_catalog.sum(DISTINCT pg_catalog.hashtextextended(ti.task_id, 0::bigint)) FILTER (
                        WHERE ti.live AND ti.state <> 'removed'
                    ),
                    0::numeric
                ) AS fingerprint,
                coalesce(pg_catalog.bool_or(ti.found AND ti.live), FALSE) AS ti_found,
                coalesce(pg_catalog.bool_or(ti.found AND ti.stale), FALSE) AS stale_found
            FROM (
                SELECT
                    ti.task_id::text AS task_id,
                    coalesce(ti.state::text, '') AS state,
                    ti.dag_version_id,
                    @include:live_of_run@ AS live,
                    @include:unfinished@ AS unfinished,
                    @include:versionless@ AS versionless,
                    @include:stale@ AND (ti.dag_version_id = run.pinned_version_id) IS NOT TRUE AS stale,
                    -- The first condition saves lower(), which is half of the work, if there is no search.
                    needle IS NOT NULL AND pg_catalog.strpos(pg_catalog.lower(ti.task_id::text), needle) > 0 AS found
                FROM ONLY @airflow_schema@.task_instance AS ti
                WHERE @include:of_run@
            ) AS ti
        ) AS tis
    ),

    scoped AS MATERIALIZED (
        SELECT run.dag_run_id, run.dag_id, run.run_id, run.run_type, run.logical_date, runs.dag_version_id
        FROM (
            SELECT
                coalesce(run.pinned_version_id, run.dag_version_id) AS dag_version_id,
                pg_catalog.array_agg(run.dag_run_id) AS dag_run_ids,
                pg_catalog.array_agg(run.dag_id) AS dag_ids,
                pg_catalog.array_agg(run.run_id) AS run_ids,
                pg_catalog.array_agg(run.run_type) AS run_types,
                pg_catalog.array_agg(run.logical_date) AS logical_dates,
                pg_catalog.array_agg(run.fingerprint) AS fingerprints
            FROM counted AS run
            -- The verdict of an unverified run does not depend on its tasks.
            WHERE run.verified OR run.obstacle IS NOT NULL OR needle IS NOT NULL
            GROUP BY coalesce(run.pinned_version_id, run.dag_version_id)
        ) AS runs
        CROSS JOIN LATERAL dagbump.tasks_of_version(runs.dag_version_id) AS version
        CROSS JOIN LATERAL (
            SELECT coalesce(pg_catalog.sum(pg_catalog.hashtextextended(task.id, 0::bigint)), 0::numeric) AS fingerprint
            FROM pg_catalog.unnest(version.task_ids) AS task (id)
        ) AS expected
        -- unnest with several arrays is grammar, not a function call, so it needs no schema.
        CROSS JOIN LATERAL unnest(
            runs.dag_run_ids, runs.dag_ids, runs.run_ids, runs.run_types, runs.logical_dates, runs.fingerprints
        ) AS run (dag_run_id, dag_id, run_id, run_type, logical_date, fingerprint)
        WHERE version.task_ids IS NOT NULL AND run.fingerprint <> expected.fingerprint
    ),

    scope AS (
        @include:scope_of_runs@
    ),

    -- A FULL JOIN, because PostgreSQL has no nested loop for it. A nested loop would compare every run with every run.
    joined AS MATERIALIZED (
        SELECT run.*, coalesce(scope.missing_tasks, '{}') AS missing_tasks, coalesce(scope.vanished_tasks, '{}') AS vanished_tasks
        FROM counted AS run
        FULL JOIN scope ON scope.dag_run_id = run.dag_run_id
    )

    SELECT
        run.dag_run_id,
        run.dag_id,
        run.run_id,
        CASE WHEN run.obstacle = 'pinned' THEN own.version_number ELSE run.version_number END,
        coalesce(run.obstacle = 'pinned', FALSE),
        CASE
            WHEN run.stale = 0 AND pg_catalog.cardinality(run.missing_tasks) = 0 AND (run.obstacle IS NOT NULL OR run.verified)
                THEN NULL
            WHEN run.obstacle = 'pinned' AND run.versionless > 0 THEN 'versionless'
            WHEN run.obstacle IS NOT NULL THEN run.obstacle
            WHEN NOT run.verified THEN 'needs_verify'
            WHEN pg_catalog.cardinality(run.missing_tasks) > 0 THEN 'missing_tasks'
            ELSE 'bump'
        END,
        run.unfinished,
        run.stale,
        run.stale_running,
        run.queued_versionless,
        pg_catalog.cardinality(run.missing_tasks) + pg_catalog.cardinality(run.vanished_tasks),
        coalesce(pg_catalog.strpos(pg_catalog.lower(run.dag_id), needle) > 0, FALSE),
        coalesce(pg_catalog.strpos(pg_catalog.lower(run.run_id), needle) > 0, FALSE),
        run.ti_found OR task.found,
        run.stale_found OR task.found
    FROM joined AS run
    LEFT JOIN LATERAL (
        SELECT version.version_number
        FROM @airflow_schema@.dag_version AS version
        WHERE version.id = run.pinned_version_id
        OFFSET 0 -- keeps the planner from turning this look-up into a join
    ) AS own ON TRUE
    CROSS JOIN LATERAL (
        SELECT coalesce(pg_catalog.bool_or(pg_catalog.strpos(pg_catalog.lower(task.id), needle) > 0), FALSE) AS found
        FROM pg_catalog.unnest(pg_catalog.array_cat(run.missing_tasks, run.vanished_tasks)) AS task (id)
    ) AS task;
END
$running$;

COMMENT ON FUNCTION dagbump.running(text[], text) IS
'Internal: shows each running DAG run in one row: its verdict, and how much of it is stale.

For the page in Airflow''s UI. dag_ids: NULL: every DAG; an empty array: none. Answers one row per running
run, in no order:
  version_number       the latest version of the DAG; of a pinned run, its own version
  pinned               the run is pinned
  verdict              as in dagbump.preview; NULL if preview does not show the run
  unfinished, stale    how many TIs are unfinished; how many are stale, as in dagbump.preview
  stale_running        how many stale TIs are running
  queued_versionless   how many TIs without a version are queued
  missing_or_vanished  how many tasks are missing or have vanished. In an unverified run it is 0 if
                       search is NULL.
  dag_found, run_found, task_found
                       search is a part of the id of the DAG, of the run, of a task. It does not
                       distinguish upper and lower case.
  task_behind          such a task is stale, is missing or has vanished
It reads every TI of the running runs. Reads only; runs on a hot standby. Locks: none.
Errors: 22023 if dag_ids contains NULL or is an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.running(text[], text) FROM PUBLIC;
