-- Takes: required, airflow_schema.
SELECT
    7 AS place,
    'plain tables' AS item,
    found.not_plain IS NULL AND found.with_rules IS NULL AS ok,
    CASE
        WHEN found.not_plain IS NOT NULL
            THEN 'Not plain tables: ' || found.not_plain
            || '. dagbump works with the tables that `airflow db migrate` creates. Make them plain again, or remove dagbump.'
        WHEN found.with_rules IS NOT NULL
            THEN found.with_rules
            || '. The functions may see or write other rows than they should. Drop the rules; ALTER TABLE ... NO FORCE ROW LEVEL '
            'SECURITY, or give the owner of dagbump BYPASSRLS.'
        ELSE 'all of Airflow''s tables are plain'
    END AS detail
FROM (
    SELECT
        (
            @include:tables_not_plain@
        ) AS not_plain,
        (
            SELECT pg_catalog.string_agg(class.relname::text || why.finding, ', ' ORDER BY class.relname::text)
            FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
            JOIN pg_catalog.pg_class AS class
                ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
            CROSS JOIN LATERAL (
                SELECT ' has a rule' AS finding
                WHERE EXISTS (SELECT FROM pg_catalog.pg_rewrite AS rule WHERE rule.ev_class = class.oid)
                UNION ALL
                SELECT ' has policies that apply to its owner'
                WHERE pg_catalog.row_security_active(class.oid)
            ) AS why
        ) AS with_rules
) AS found
