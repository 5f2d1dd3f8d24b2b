-- Takes: nothing.
-- The place of a run in its backfill. NULL, because Airflow does not sort by it.
NULL::integer
