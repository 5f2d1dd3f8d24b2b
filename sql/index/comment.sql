-- A separate file, because the CREATE must be the only statement in its message to the server.

COMMENT ON INDEX @airflow_schema@.dagbump_ti_unfinished IS
'Optional, created by dagbump: the unfinished task instances by run and version. With it, dagbump.bump
needs only two index probes per run to see that nothing is stale.
To remove it: dagbump downgrade index@base';
