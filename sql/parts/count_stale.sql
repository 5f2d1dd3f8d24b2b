-- Takes: run, stale, older.
-- Counts the stale TIs of the run and collects the versions that they are on. A TI on a version that is higher than
-- the latest of the run is left out.
SELECT
    coalesce(pg_catalog.sum(held.stale), 0)::integer,
    coalesce(pg_catalog.array_agg(held.dag_version_id) FILTER (WHERE held.dag_version_id IS NOT NULL), '{}')
INTO stale, older
FROM (
    @include:stale_by_version@
) AS held
LEFT JOIN @airflow_schema@.dag_version AS version ON version.id = held.dag_version_id
WHERE (version.dag_id::text = run.dag_id AND version.version_number > run.version_number) IS NOT TRUE;
