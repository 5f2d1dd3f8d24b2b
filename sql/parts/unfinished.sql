-- Takes: ti.
-- True for an unfinished TI. To the letter the predicate of the optional index, and NULL means no
-- status.
coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
