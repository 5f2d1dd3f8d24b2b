-- Takes: ti.
-- True for an unfinished TI. NULL means no status. The text must be the predicate of the optional index, because the
-- planner uses the index only if the predicate follows from the condition.
coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
