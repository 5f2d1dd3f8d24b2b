-- Takes: nothing.
-- parts/unfinished.sql, as the predicate of an index. Every name is qualified, because an index has no search_path.
coalesce(state::pg_catalog.text, '') OPERATOR(pg_catalog.<>) ALL (
    ARRAY['success', 'failed', 'skipped', 'upstream_failed', 'removed']::pg_catalog.text[]
)
