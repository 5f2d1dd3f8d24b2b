-- Takes: ti, run (dag_version_id).
-- True for a stale TI: it is unfinished, and is not on that version. A TI without a version is stale, even if the DAG
-- has no version. That is why this is not IS DISTINCT FROM.
(ti.dag_version_id = run.dag_version_id) IS NOT TRUE
AND @include:unfinished@
