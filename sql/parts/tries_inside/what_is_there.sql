-- Takes: ti.
-- What verify_scope makes of a TI, in the bits of scope_of_runs. One with an index, or in another region than that which all
-- others share, is or was that of a mapped task: verify_integrity moves it where its task is mapped no longer.
CASE WHEN @include:unfinished@ THEN 20 WHEN ti.state::text = 'removed' THEN 8 ELSE 4 END
| CASE WHEN ti.region_id = '00000000-0000-0000-0000-000000000000'::uuid AND ti.region_index < 0 THEN 0 ELSE 64 END
