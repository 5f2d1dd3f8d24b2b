-- Takes: ids, dag_ids.
-- For the steady loop, where the optional index is there: the ids of the runs that may have
-- something to do. Two TIs of each run are looked at, however many there are, the unfinished ones
-- with the lowest and the highest version (NULL counts as the highest). Where both are on the
-- latest, so are all between them, and the run is verified. Judges neither DAG nor run: that is
-- for the query that follows. In an order that only this index has: from Airflow 3.3 on there is
-- one on dag_version_id alone, which would lead through the TIs of all runs.
SELECT pg_catalog.array_agg(run.id::bigint)
FROM (
    @include:running_runs@
) AS run
CROSS JOIN LATERAL (
    @include:latest_version@
) AS latest
WHERE (dag_ids IS NULL OR run.dag_id::text = ANY (dag_ids)) AND (
    (
        SELECT ti.dag_version_id = latest.id
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE @include:of_run_by_index@
        AND @include:unfinished@
        ORDER BY ti.run_id::text COLLATE pg_catalog."C" ASC, ti.dag_version_id ASC NULLS LAST
        LIMIT 1
    ) AND (
        SELECT ti.dag_version_id = latest.id
        FROM ONLY @airflow_schema@.task_instance AS ti
        WHERE @include:of_run_by_index@
        AND @include:unfinished@
        ORDER BY ti.run_id::text COLLATE pg_catalog."C" DESC, ti.dag_version_id DESC NULLS FIRST
        LIMIT 1
    )
) IS NOT TRUE
