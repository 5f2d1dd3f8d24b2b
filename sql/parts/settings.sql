-- Takes: nothing.
-- search_path: names mean Airflow's tables, whatever the caller's search_path is. row_security: a policy that
-- would hide rows raises an error. The other settings give one plan per connection for all arguments. It uses only
-- index look-ups, so it is the same with fresh, stale and no statistics.
SET search_path = @airflow_schema@, pg_temp
SET row_security = off
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
