-- Takes: nothing.
-- parts/unfinished.sql, as an index says it.
coalesce(state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
