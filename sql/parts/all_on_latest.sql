-- Takes: run (dag_id, run_id), latest (id).
-- True where all unfinished TIs of that run are on its latest version, and there is one; so the run is verified, too. Reads
-- two TIs by the optional index, however many there are: those with the lowest and the highest version (NULL counts as the
-- highest). Where both are on the latest, so are all between them. The order is one that only this index has: Airflow 3.3
-- and later have another one, on dag_version_id alone, which would lead through the TIs of all runs.
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
