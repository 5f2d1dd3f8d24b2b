-- Takes: required, airflow_schema, owner.
SELECT
    12 AS place,
    'owner''s rights' AS item,
    found.findings = '' AS ok,
    CASE
        WHEN found.findings = ''
            THEN pg_catalog.format('%s may do what the functions do', pg_catalog.pg_get_userbyid(owner))
        ELSE 'The functions run as the owner, and lack rights. Have the owner of the tables, or a superuser, run: ' || found.findings
    END AS detail
FROM (
    SELECT
        pg_catalog.concat_ws(
            ' ',
            (
                @include:rights_missing@
            ),
            -- The owner can REVOKE its own rights, and REASSIGN OWNED or a restore can remove them.
            (
                SELECT pg_catalog.string_agg(statement.text, ' ' ORDER BY statement.text)
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
                ) AS statement
            )
        ) AS findings
) AS found
