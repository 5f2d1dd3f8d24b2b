-- Apart from the CREATE, which has to be sent alone.

COMMENT ON INDEX @airflow_schema@.dagbump_ti_unfinished IS
'dagbump''s, optional: the unfinished task instances by run and version. With it, dagbump.bump finds out by two index
probes per run that nothing is stale. Remove it with: dagbump downgrade index@base';
