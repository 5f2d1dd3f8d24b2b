-- Takes: run (bundle_version).
-- True for a pinned run. Airflow tests the truth value of bundle_version, so '' counts as NULL.
coalesce(run.bundle_version::text, '') <> ''
