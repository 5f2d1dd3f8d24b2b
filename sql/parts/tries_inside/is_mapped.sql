-- Takes: ti.
-- True if the TI makes verify_integrity look at map indexes: it is or was a TI of a mapped task. Such a TI has an
-- index, or is in a region other than the default one. verify_integrity moves it if its task is no longer mapped.
(ti.region_id = '00000000-0000-0000-0000-000000000000'::uuid AND ti.region_index < 0) IS NOT TRUE
