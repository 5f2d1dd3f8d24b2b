-- Takes: airflow_schema, tis.
SELECT
    8 AS place,
    'keys' AS item,
    found.findings IS NULL AS ok,
    coalesce(
        'Airflow''s own migrations create them. To create what is missing here: ' || found.findings,
        'all that the functions rely on'
    ) AS detail
FROM (
    SELECT pg_catalog.string_agg(lacking.statement, ' ') AS findings
    FROM (
        SELECT
            pg_catalog.format(
                'CREATE %sINDEX CONCURRENTLY ON %I.%I (%s);',
                CASE WHEN wanted.is_unique THEN 'UNIQUE ' ELSE '' END, airflow_schema, wanted.relation, wanted.columns
            ) AS statement
        FROM (
            VALUES
            ('dag', 'dag_id', TRUE),
            ('dag_run', 'id', TRUE),
            ('dag_run', 'dag_id, run_id', TRUE),
            ('dag_version', 'id', TRUE),
            ('dag_version', 'dag_id, version_number', TRUE),
            ('serialized_dag', 'dag_version_id', TRUE),
            ('task_instance', 'dag_id, run_id', FALSE),
            ('task_instance_history', 'dag_id, run_id', FALSE)
        ) AS wanted (relation, columns, is_unique)
        JOIN pg_catalog.pg_class AS class
            ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
        WHERE NOT EXISTS (
            SELECT FROM pg_catalog.pg_index AS index
            CROSS JOIN LATERAL (
                SELECT pg_catalog.string_agg(attribute.attname::text, ', ' ORDER BY key.place) AS columns
                FROM pg_catalog.unnest(index.indkey::smallint[]) WITH ORDINALITY AS key (attnum, place)
                JOIN pg_catalog.pg_attribute AS attribute
                    ON attribute.attrelid = index.indrelid AND attribute.attnum = key.attnum
                WHERE key.place <= index.indnkeyatts::bigint
            ) AS keys
            WHERE index.indrelid = class.oid AND index.indisvalid AND index.indpred IS NULL
            AND CASE
                WHEN wanted.is_unique THEN index.indisunique AND keys.columns = wanted.columns
                ELSE pg_catalog.starts_with(keys.columns || ',', wanted.columns || ',')
            END
        )
        UNION ALL
        SELECT
            pg_catalog.format(
                'ALTER TABLE %1$I.task_instance ADD FOREIGN KEY (dag_version_id) REFERENCES %1$I.dag_version (id) '
                'ON DELETE RESTRICT;', airflow_schema
            )
        WHERE tis IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_constraint AS con
            JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = con.conrelid AND attribute.attnum = con.conkey[1]
            WHERE con.conrelid = tis AND con.contype::text = 'f'
            AND con.confrelid = pg_catalog.to_regclass(pg_catalog.format('%I.dag_version', airflow_schema))::oid
            AND attribute.attname::text = 'dag_version_id' AND pg_catalog.cardinality(con.conkey) = 1
        )
    ) AS lacking
) AS found
