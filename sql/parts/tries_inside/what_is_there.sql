-- Takes: ti.
-- The state of a TI for verify_scope, in the bits of scope_of_runs. A TI with an index, or in a region other than the
-- default one, is or was a TI of a mapped task. verify_integrity moves it if its task is no longer mapped.
CASE WHEN @include:unfinished@ THEN 20 WHEN ti.state::text = 'removed' THEN 8 ELSE 4 END
| CASE WHEN ti.region_id = '00000000-0000-0000-0000-000000000000'::uuid AND ti.region_index < 0 THEN 0 ELSE 64 END
