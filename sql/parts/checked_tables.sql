-- Takes: item, ok, detail, findings, missing, required, airflow_schema, tis, recorded_shape.
SELECT
    pg_catalog.string_agg(wanted.called, ', ' ORDER BY wanted.called) FILTER (WHERE wanted.type IS NULL),
    pg_catalog.string_agg(
        pg_catalog.format('%s is %s, not %s', wanted.called, wanted.type, wanted.kind), '; ' ORDER BY wanted.called
    ) FILTER (WHERE NOT wanted.fits)
INTO missing, findings
FROM (
    @include:columns@
) AS wanted;

item := 'airflow tables';
ok := missing IS NULL AND coalesce(recorded_shape, '') = @airflow_shape_literal@;
detail := CASE
    WHEN ok THEN pg_catalog.format('in schema %I, as in Airflow %s', airflow_schema, @airflow_releases_literal@)
    WHEN tis IS NULL THEN pg_catalog.format(
        'There is no task_instance in schema %I: Airflow''s tables have been moved, renamed or dropped. '
        'Run `dagbump upgrade --airflow-schema NAME`, with the schema where they are now.', airflow_schema
    )
    WHEN missing IS NULL THEN pg_catalog.format(
        'They are as in Airflow %s, and the record says %s. Run `dagbump upgrade`.',
        @airflow_releases_literal@, coalesce(recorded_shape, 'nothing')
    )
    ELSE pg_catalog.format(
        'Airflow''s tables have changed since dagbump was installed for those of Airflow %s; missing: %s. '
        'Run `dagbump upgrade`, with a release that knows this Airflow.', @airflow_releases_literal@, missing
    )
END;
RETURN NEXT;

item := 'column types';
ok := findings IS NULL;
detail := coalesce(
    findings || '. Look who has changed them, and change them back; or run `dagbump upgrade`, with a release that knows them.',
    'as the functions take them'
);
RETURN NEXT;

item := 'plain tables';
@include:tables_not_plain@
advice := 'dagbump serves the tables that `airflow db migrate` makes: make them plain again, or remove dagbump.';
IF findings IS NULL THEN
    SELECT pg_catalog.string_agg(class.relname::text || why.finding, ', ' ORDER BY class.relname::text) INTO findings
    FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
    JOIN pg_catalog.pg_class AS class
        ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
    CROSS JOIN LATERAL (
        SELECT ' has a rule' AS finding
        WHERE EXISTS (SELECT FROM pg_catalog.pg_rewrite AS rule WHERE rule.ev_class = class.oid)
        UNION ALL
        SELECT ' has policies that apply to its owner'
        WHERE pg_catalog.row_security_active(class.oid)
    ) AS why;
    advice := 'The functions may see or write other rows than they should. Drop the rules; ALTER TABLE … NO FORCE ROW LEVEL '
        'SECURITY, or give the owner of dagbump BYPASSRLS.';
END IF;
ok := findings IS NULL;
detail := CASE WHEN ok THEN 'all of them' ELSE 'not so: ' || findings || '. ' || advice END;
RETURN NEXT;
