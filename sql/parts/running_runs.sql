-- Takes: chosen (bigint[]; NULL: all).
-- The running DAG runs with one of these ids.
SELECT
    @include:columns_of_run@
FROM @airflow_schema@.dag_run AS run
WHERE chosen IS NULL AND run.state::text = 'running'
UNION ALL
-- Only one of the two branches is executed. The second costs one look-up per id, not a scan of all running runs.
SELECT
    @include:columns_of_run@
FROM @airflow_schema@.dag_run AS run
WHERE run.id = ANY (chosen) AND run.state::text = 'running'
