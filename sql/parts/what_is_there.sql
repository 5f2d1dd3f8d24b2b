-- Takes: ti.
-- What verify_scope makes of a TI, in the bits of scope_of_runs.
CASE WHEN @include:unfinished@ THEN 20 WHEN ti.state::text = 'removed' THEN 8 ELSE 4 END
