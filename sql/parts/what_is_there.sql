-- Takes: ti.
-- The state of a TI for verify_scope, in the bits of scope_of_runs.
CASE WHEN @include:unfinished@ THEN 20 WHEN ti.state::text = 'removed' THEN 8 ELSE 4 END
