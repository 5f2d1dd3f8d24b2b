-- Takes: nothing.
-- parts/3.4/unfinished.sql, as an index says it.
working_set IS TRUE AND coalesce(state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
