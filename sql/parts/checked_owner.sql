-- Takes: item, ok, detail, findings, missing, required, airflow_schema, airflow_owner, owner.
item := 'owner';
SELECT pg_catalog.string_agg(foreign_object.finding, '; ') INTO findings
FROM (
    @include:foreign_objects@
) AS foreign_object;
ok := findings IS NULL AND (airflow_owner <> owner) IS NOT TRUE;
detail := CASE
    WHEN airflow_owner <> owner THEN pg_catalog.format(
        'Airflow''s tables belong to %1$s, and schema dagbump to %2$s. Make them the same: ALTER SCHEMA dagbump OWNER TO %1$I; '
        'and the same for each of its tables (ALTER TABLE) and functions (ALTER ROUTINE).',
        pg_catalog.pg_get_userbyid(airflow_owner), pg_catalog.pg_get_userbyid(owner)
    )
    WHEN findings IS NOT NULL THEN findings || pg_catalog.format(
        '. Give back what is dagbump''s: ALTER ROUTINE … OWNER TO %1$I; ALTER TABLE … OWNER TO %1$I; drop or rename the '
        'rest.', pg_catalog.pg_get_userbyid(owner)
    )
    ELSE pg_catalog.format(
        'all in schema dagbump belongs to %s, as Airflow''s tables do', pg_catalog.pg_get_userbyid(owner)
    )
END;
RETURN NEXT;

item := 'owner''s rights';
@include:rights_missing@
-- The owner can REVOKE its own rights, and REASSIGN OWNED or a restore can remove them.
SELECT pg_catalog.string_agg(statement.text, ' ' ORDER BY statement.text) INTO missing
FROM (
    SELECT pg_catalog.format('GRANT USAGE ON SCHEMA dagbump TO %I;', pg_catalog.pg_get_userbyid(owner)) AS text
    WHERE NOT pg_catalog.has_schema_privilege(owner, 'dagbump'::regnamespace::oid, 'USAGE')
    UNION ALL
    SELECT
        pg_catalog.format(
            'GRANT EXECUTE ON ROUTINE %s TO %I;', proc.oid::regprocedure, pg_catalog.pg_get_userbyid(owner)
        )
    FROM pg_catalog.pg_proc AS proc
    WHERE proc.pronamespace = 'dagbump'::regnamespace::oid
    AND NOT pg_catalog.has_function_privilege(owner, proc.oid, 'EXECUTE')
    UNION ALL
    SELECT pg_catalog.format('GRANT %s ON TABLE dagbump.history TO %I;', privilege.name, pg_catalog.pg_get_userbyid(owner))
    FROM (VALUES ('SELECT'), ('INSERT'), ('DELETE')) AS privilege (name)
    WHERE NOT pg_catalog.has_table_privilege(owner, pg_catalog.to_regclass('dagbump.history')::oid, privilege.name)
) AS statement;
findings := nullif(pg_catalog.concat_ws(' ', findings, missing), '');
ok := findings IS NULL;
detail := coalesce(
    'The functions run as the owner, and lack rights. Have the owner of the tables, or a superuser, run: ' || findings,
    pg_catalog.format('%s may do what the functions do', pg_catalog.pg_get_userbyid(owner))
);
RETURN NEXT;
