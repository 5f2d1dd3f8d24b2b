-- Takes: nothing.
-- The DAGs with running runs for which Airflow takes another version for the latest; NULL if there are none.
SELECT pg_catalog.string_agg(run.dag_id, ', ' ORDER BY run.dag_id)
FROM (
    SELECT run.dag_id, latest.id AS dag_version_id
    FROM (
        SELECT DISTINCT running.dag_id::text AS dag_id
        FROM @airflow_schema@.dag_run AS running
        WHERE running.state::text = 'running'
    ) AS run
    CROSS JOIN LATERAL (
        @include:latest_version@
    ) AS latest
) AS run
WHERE @include:other_is_latest@
