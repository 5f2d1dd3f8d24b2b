-- dagbump.versions: how many versions each DAG has, and what keeps the old ones.
--
-- For a person who wants to know which DAG makes a version with every parse, and
-- what airflow db clean will be able to delete. Reads only: locks nothing, runs on
-- a hot standby.
--
-- Reads task_instance once, counting by version, and the unfinished TIs of the
-- examined runs by their index. Never looks a version up: up to Airflow 3.2,
-- task_instance has no index on dag_version_id.

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
-- Planned for each call, so that without dag_ids there is no condition on them, with any method that suits the size.
SET search_path = @airflow_schema@, pg_temp
SET row_security = off
SET plan_cache_mode = force_custom_plan
-- What is to be looked up by run is LATERAL, and still is; nothing else may be compared each with each.
SET enable_nestloop = off
SET jit = off
AS $versions$
#variable_conflict use_column
DECLARE
    examined_only CONSTANT boolean := TRUE;
    ids CONSTANT bigint[] := NULL;
BEGIN
    @include:require_tables@
    @include:check_dag_ids@

    -- A TI may refer to a version of another DAG, so the filter chooses the rows of the answer only.
    DECLARE
        asked CONSTANT text[] := dag_ids;
        dag_ids CONSTANT text[] := NULL;
    BEGIN
    RETURN QUERY
    WITH run AS MATERIALIZED (
        @include:judged_runs@
    ),

    held_by_run AS MATERIALIZED (
        -- By run, so that each is looked up by its index.
        SELECT run.dag_id, run.dag_run_id, tis.dag_version_id, tis.stale
        FROM run
        CROSS JOIN LATERAL (
            SELECT ti.dag_version_id, pg_catalog.count(*) AS stale
            FROM ONLY @airflow_schema@.task_instance AS ti
            WHERE @include:of_run@
            AND @include:unfinished@
            AND ti.dag_version_id IS DISTINCT FROM run.dag_version_id
            GROUP BY ti.dag_version_id
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

Answers one row per DAG that has a version, first those with running runs behind, then those with many
versions:
  versions             rows of dag_version
  versions_last_day    those created in the last 24 hours. A DAG that makes one with every parse has
                       something in its file that changes with every parse, a now() for one.
  version_number, created_at   of the latest
  unreferenced         versions before the latest that no TI refers to: airflow db clean may delete them.
                       dag_run.created_dag_version_id keeps none. Past tries keep none up to Airflow 3.3; from
                       3.4 on they are rows of task_instance, and keep theirs.
  stale_only           versions before the latest that no TI refers to but stale ones of examined runs:
                       once bump has moved those, airflow db clean may delete them
  running_runs_behind  examined runs that hold stale TIs: SELECT dagbump.help(''bump'');
What keeps the others: finished TIs, until they are cleaned themselves, and those of runs that bump does
not examine.

Reads all of task_instance once, by its index on dag_version_id where there is one and it suits (Airflow
3.3), also where dag_ids names some: a TI may refer to a version of another DAG. On a big database that takes seconds: not for a
loop. Reads only; runs on a hot standby. Locks: none. Errors: 22023 for a NULL inside the array
and for an array of arrays.';

REVOKE ALL ON FUNCTION dagbump.versions(text[]) FROM PUBLIC;
