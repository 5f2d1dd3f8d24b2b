-- Takes: airflow_schema, tis.
SELECT
    15 AS place,
    'statistics' AS item,
    coalesce(found.findings, '') = '' AS ok,
    coalesce(nullif(found.findings, ''), 'autovacuum is on, and task_instance has statistics or is small') AS detail
FROM (
    SELECT (
        SELECT
            pg_catalog.concat_ws(
                ' ',
                CASE
                    WHEN pg_catalog.pg_is_in_recovery() THEN NULL
                    WHEN NOT (
                        pg_catalog.current_setting('autovacuum')::boolean AND pg_catalog.current_setting('track_counts')::boolean
                    )
                        THEN 'autovacuum is off on this server: no table is analyzed, and dead rows stay. Have an administrator run: '
                        'ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf();'
                    WHEN EXISTS (
                        SELECT FROM pg_catalog.pg_options_to_table(class.reloptions) AS option
                        WHERE option.option_name = 'autovacuum_enabled' AND NOT option.option_value::boolean
                    )
                        THEN pg_catalog.format(
                            'Autovacuum is off for task_instance. ALTER TABLE %I.task_instance RESET (autovacuum_enabled);', airflow_schema
                        )
                END,
                CASE
                    -- 100 pages. A smaller table is read just as fast without statistics.
                    WHEN pg_catalog.pg_relation_size(tis) >= 819200 AND NOT EXISTS (
                        SELECT FROM pg_catalog.pg_stats AS stats
                        WHERE stats.schemaname::text = airflow_schema AND stats.tablename::text = 'task_instance'
                    )
                        THEN pg_catalog.format(
                            'task_instance holds %s and has never been analyzed, or only when it was empty. ANALYZE %I.task_instance;',
                            pg_catalog.pg_size_pretty(pg_catalog.pg_relation_size(tis)), airflow_schema
                        )
                END
            )
        FROM pg_catalog.pg_class AS class
        WHERE class.oid = tis
    ) AS findings
) AS found
