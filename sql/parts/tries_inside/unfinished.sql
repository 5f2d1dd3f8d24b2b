-- Takes: ti.
-- True for an unfinished TI: a past try is none, whatever state it was left in. To the letter the predicate of the
-- optional index, and NULL means no status.
ti.working_set IS TRUE AND coalesce(ti.state::text, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
