-- Takes: running.
-- A run can be in several backfills of its DAG, and is in none where its backfill_id is NULL.
LEFT JOIN LATERAL (
    SELECT pg_catalog.min(item.sort_ordinal) AS sort_ordinal
    FROM @airflow_schema@.backfill AS backfill
    JOIN @airflow_schema@.backfill_dag_run AS item
        ON item.backfill_id = backfill.id AND item.dag_run_id = running.id
    WHERE backfill.dag_id::text = running.dag_id::text
) AS backfill ON running.backfill_id IS NOT NULL
