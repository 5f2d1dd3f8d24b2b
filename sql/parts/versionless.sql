-- Takes: ti.
-- True for an unfinished TI that has no version.
@include:unfinished@
AND ti.dag_version_id IS NULL
