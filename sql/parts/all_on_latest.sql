-- Takes: run (dag_id, run_id), latest (id).
-- True if the run has a latest version and all its unfinished TIs are on it. The run is then verified, too.
-- It reads two TIs by the optional index, however many there are: those with the lowest and the highest version
-- (NULL counts as the highest). If both are on the latest version, so are all TIs between them. Only the optional
-- index has this order. Airflow 3.3 and later also have an index on dag_version_id alone, but with that one the
-- query would read the TIs of all runs.
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
