-- Takes: ids, dag_ids.
-- For the steady loop, where the optional index is there: the ids of the runs that may have
-- something to do. Judges neither DAG nor run: that is for the query that follows.
SELECT pg_catalog.array_agg(run.id::bigint)
FROM (
    @include:running_runs@
) AS run
CROSS JOIN LATERAL (
    @include:latest_version@
) AS latest
WHERE (dag_ids IS NULL OR run.dag_id::text = ANY (dag_ids)) AND (@include:all_on_latest@) IS NOT TRUE
