-- dagbump.versions_by_day: counts the versions that each DAG got, day by day.
--
-- For the page in Airflow's UI. It shows which DAG gets a version with every parse. It reads only dag_version. It locks nothing and runs on a hot standby.

CREATE OR REPLACE FUNCTION dagbump.versions_by_day(
    dag_ids text[] DEFAULT NULL,
    days integer DEFAULT 14
) RETURNS TABLE (
    dag_id text,
    versions integer,
    by_day integer[]
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
-- Planned for each call, so that the plan has no condition on dag_ids if it is NULL, and the join methods fit the size.
SET search_path = @airflow_schema@, pg_temp
SET row_security = off
SET plan_cache_mode = force_custom_plan
SET jit = off
AS $versions_by_day$
#variable_conflict use_column
BEGIN
    @include:require_tables@
    @include:check_dag_ids@
    IF days IS NULL OR days NOT BETWEEN 1 AND 366 THEN
        RAISE EXCEPTION 'days must be between 1 and 366, not %', coalesce(days::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    RETURN QUERY
    WITH counted AS (
        SELECT age.dag_id, age.days, pg_catalog.count(*) AS versions
        FROM (
            SELECT
                version.dag_id::text AS dag_id,
                -- The server's clock may have been set back: a version of tomorrow counts as one of today.
                greatest(
                    0, pg_catalog.floor(pg_catalog.date_part('epoch', pg_catalog.now() - version.created_at) / 86400::double precision)
                )::integer AS days
            FROM @airflow_schema@.dag_version AS version
            WHERE dag_ids IS NULL OR version.dag_id::text = ANY (dag_ids)
        ) AS age
        GROUP BY age.dag_id, age.days
    ),

    filled AS (
        SELECT counted.dag_id, counted.days, counted.versions
        FROM counted
        UNION ALL
        SELECT dag.dag_id, age.days, 0
        FROM (SELECT DISTINCT counted.dag_id FROM counted) AS dag
        CROSS JOIN pg_catalog.generate_series(0, versions_by_day.days - 1) AS age (days)
    ),

    day AS (
        SELECT filled.dag_id, filled.days, pg_catalog.sum(filled.versions)::integer AS versions
        FROM filled
        GROUP BY filled.dag_id, filled.days
    ),

    dag AS (
        SELECT
            day.dag_id,
            pg_catalog.sum(day.versions)::integer AS versions,
            pg_catalog.array_agg(day.versions ORDER BY day.days DESC) FILTER (WHERE day.days < versions_by_day.days) AS by_day
        FROM day
        GROUP BY day.dag_id
    )

    SELECT dag.dag_id, dag.versions, dag.by_day
    FROM dag
    ORDER BY
        (SELECT pg_catalog.sum(one.versions) FROM pg_catalog.unnest(dag.by_day) AS one (versions)) DESC,
        dag.versions DESC,
        dag.dag_id COLLATE pg_catalog."C";
END
$versions_by_day$;

COMMENT ON FUNCTION dagbump.versions_by_day(text[], integer) IS
'Internal: counts the versions that each DAG got on each of the last days.

For the page in Airflow''s UI. A day is 24 hours, and the last one ends now.
  dag_ids  NULL: every DAG; an empty array: none
  days     how many days, 1 to 366
Answers one row per DAG that has a version. DAGs with the most versions in these days come first.
  versions  all its rows of dag_version
  by_day    how many of them were created on each day, the oldest day first
It reads only dag_version; runs on a hot standby. Locks: none.
Errors: 22023 if dag_ids contains NULL or is an array of arrays, or if days is out of range.';

REVOKE ALL ON FUNCTION dagbump.versions_by_day(text[], integer) FROM PUBLIC;
