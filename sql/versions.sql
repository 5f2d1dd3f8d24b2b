-- dagbump.versions: shows how many versions each DAG has, and what keeps the old ones.
--
-- For a person who wants to know which DAG gets a version with every parse, and what
-- airflow db clean will be able to delete. Reads only: it locks nothing and runs on a
-- hot standby.
--
-- It reads task_instance once and counts by version. It reads the unfinished TIs of
-- examined runs by run. It never looks TIs up by version, because task_instance has no
-- index on dag_version_id up to Airflow 3.2.

CREATE OR REPLACE FUNCTION dagbump.versions(
    dag_ids text[] DEFAULT NULL
) RETURNS TABLE (
    dag_id text,
    versions integer,
    versions_last_day integer,
    version_number integer,
    created_at timestamptz,
    unreferenced integer,
    stale_only integer,
    running_runs_behind integer
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
-- Planned for each call, so that the plan has no condition on dag_ids if it is NULL, and the join methods fit the size.
SET search_path = @airflow_schema@, pg_temp
SET row_security = off
SET plan_cache_mode = force_custom_plan
-- A LATERAL look-up per run is a nested loop anyway. Without this setting, other joins could compare all rows with all.
SET enable_nestloop = off
SET jit = off
AS $versions$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := TRUE;
    chosen CONSTANT bigint[] := NULL;
BEGIN
    @include:require_tables@
    @include:check_dag_ids@

    -- A TI may refer to a version of another DAG, so the filter applies only to the rows of the answer.
    DECLARE
        asked CONSTANT text[] := dag_ids;
        dag_ids CONSTANT text[] := NULL;
    BEGIN
    RETURN QUERY
    WITH run AS MATERIALIZED (
        @include:judged_runs@
    ),

    held_by_run AS MATERIALIZED (
        -- LATERAL, so that each run is looked up by its index.
        SELECT run.dag_id, run.dag_run_id, tis.dag_version_id, tis.stale
        FROM run
        CROSS JOIN LATERAL (
            @include:stale_by_version@
        ) AS tis
    ),

    behind AS (
        SELECT held_by_run.dag_id, pg_catalog.count(DISTINCT held_by_run.dag_run_id) AS runs
        FROM held_by_run
        GROUP BY held_by_run.dag_id
    ),

    stale_on AS (
        SELECT held_by_run.dag_version_id, pg_catalog.sum(held_by_run.stale)::bigint AS tis
        FROM held_by_run
        GROUP BY held_by_run.dag_version_id
    ),

    all_on AS (
        SELECT ti.dag_version_id, pg_catalog.count(*) AS tis
        FROM ONLY @airflow_schema@.task_instance AS ti
        GROUP BY ti.dag_version_id
    ),

    version AS (
        SELECT
            version.id,
            version.dag_id::text AS dag_id,
            version.version_number,
            version.created_at,
            pg_catalog.row_number() OVER (PARTITION BY version.dag_id::text ORDER BY version.version_number DESC) = 1 AS is_latest
        FROM @airflow_schema@.dag_version AS version
        WHERE asked IS NULL OR version.dag_id::text = ANY (asked)
    ),

    dag AS (
        SELECT
            version.dag_id,
            pg_catalog.count(*)::integer AS versions,
            pg_catalog.count(*) FILTER (
                WHERE version.created_at > pg_catalog.now() - '24:00:00'::interval
            )::integer AS versions_last_day,
            pg_catalog.max(version.version_number) AS version_number,
            pg_catalog.max(version.created_at) FILTER (WHERE version.is_latest) AS created_at,
            pg_catalog.count(*) FILTER (WHERE NOT version.is_latest AND all_on.tis IS NULL)::integer AS unreferenced,
            pg_catalog.count(*) FILTER (WHERE NOT version.is_latest AND all_on.tis = stale_on.tis)::integer AS stale_only
        FROM version
        LEFT JOIN all_on ON all_on.dag_version_id = version.id
        LEFT JOIN stale_on ON stale_on.dag_version_id = version.id
        GROUP BY version.dag_id
    )

    SELECT
        dag.dag_id,
        dag.versions,
        dag.versions_last_day,
        dag.version_number,
        dag.created_at,
        dag.unreferenced,
        dag.stale_only,
        coalesce(behind.runs, 0)::integer
    FROM dag
    LEFT JOIN behind ON behind.dag_id = dag.dag_id
    ORDER BY
        coalesce(behind.runs, 0) DESC,
        dag.stale_only DESC,
        dag.versions_last_day DESC,
        dag.versions DESC,
        dag.dag_id COLLATE pg_catalog."C";
    END;
END
$versions$;

COMMENT ON FUNCTION dagbump.versions(text[]) IS
'Shows how many versions each DAG has, and what keeps the old ones from airflow db clean.

  SELECT * FROM dagbump.versions();
  SELECT * FROM dagbump.versions(''{etl,report}'');

dag_ids: NULL: every DAG; an empty array: none.

Answers one row per DAG that has a version. DAGs with running runs behind come first, then those with
many versions.
  versions             rows of dag_version
  versions_last_day    versions created in the last 24 hours. If a DAG gets one with every parse,
                       something in its file changes with every parse, for example now().
  version_number, created_at   of the latest version
  unreferenced         versions before the latest that no TI refers to: airflow db clean may delete them.
                       dag_run.created_dag_version_id does not keep a version. Past tries do not keep
                       one up to Airflow 3.3. From 3.4 on they are rows of task_instance and do.
  stale_only           versions before the latest that only stale TIs of examined runs refer to.
                       airflow db clean may delete them after bump has moved these TIs.
  running_runs_behind  examined runs that have stale TIs: SELECT dagbump.help(''bump'');
Other old versions are kept by finished TIs, until airflow db clean deletes these, and by TIs of runs
that bump does not examine. In Airflow 3.0, airflow db clean deletes such a version and its TIs. In 3.1
and 3.2, it fails if a TI refers to a version that it would delete.

It reads all of task_instance once, even with dag_ids, because a TI may refer to a version of another
DAG. It uses an index on dag_version_id if there is one (Airflow 3.3) and it suits. On a big database
this takes seconds, so do not call it in a loop. Reads only; runs on a hot standby.
Locks: none. Errors: 22023 if the array contains NULL or is an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.versions(text[]) FROM PUBLIC;
