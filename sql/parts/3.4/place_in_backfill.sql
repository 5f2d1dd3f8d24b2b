-- Takes: nothing.
-- Airflow does not ask for it.
CROSS JOIN (SELECT NULL::integer AS sort_ordinal) AS backfill
