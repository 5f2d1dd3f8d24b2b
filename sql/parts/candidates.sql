-- Takes: chosen, dag_ids.
-- For the steady loop with the optional index: the ids of the runs that may have something to do. It does not
-- check whether a run is examined. The next query does.
SELECT pg_catalog.array_agg(run.id::bigint)
FROM (
    @include:running_runs@
) AS run
CROSS JOIN LATERAL (
    @include:latest_version@
) AS latest
WHERE (dag_ids IS NULL OR run.dag_id::text = ANY (dag_ids)) AND (@include:all_on_latest@) IS NOT TRUE
