-- Takes: running (id, dag_id, backfill_id).
-- The place of a run in its backfill, for scheduler_order. A run can be in several backfills of its DAG. If its
-- backfill_id is NULL, it is in none.
CASE
    WHEN running.backfill_id IS NOT NULL THEN (
        SELECT pg_catalog.min(item.sort_ordinal)
        FROM @airflow_schema@.backfill AS backfill
        JOIN @airflow_schema@.backfill_dag_run AS item
            ON item.backfill_id = backfill.id AND item.dag_run_id = running.id
        WHERE backfill.dag_id::text = running.dag_id::text
    )
END
