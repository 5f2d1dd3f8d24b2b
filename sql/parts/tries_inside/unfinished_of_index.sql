-- Takes: nothing.
-- parts/tries_inside/unfinished.sql, as an index says it: in full, because no search path can be pinned for it.
working_set IS TRUE AND coalesce(state::pg_catalog.text, '') OPERATOR(pg_catalog.<>) ALL (
    ARRAY['success', 'failed', 'skipped', 'upstream_failed', 'removed']::pg_catalog.text[]
)
