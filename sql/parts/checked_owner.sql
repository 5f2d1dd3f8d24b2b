-- Takes: required, airflow_schema, airflow_owner, owner.
SELECT
    11 AS place,
    'owner' AS item,
    found.findings IS NULL AND found.strange IS NULL AND (airflow_owner <> owner) IS NOT TRUE AS ok,
    CASE
        WHEN airflow_owner <> owner THEN pg_catalog.format(
            'Airflow''s tables belong to %1$s, and schema dagbump to %2$s. Find out who made these tables. If %1$s is to own them, '
            'make it own all: ALTER SCHEMA dagbump OWNER TO %1$I; and the same for each of its tables (ALTER TABLE) and functions '
            '(ALTER ROUTINE).',
            pg_catalog.pg_get_userbyid(airflow_owner), pg_catalog.pg_get_userbyid(owner)
        )
        WHEN found.strange IS NOT NULL THEN pg_catalog.format(
            'These are not tables of %1$s or of a superuser, and so nothing in the schema of Airflow''s tables is read: %2$s. Find out '
            'who made them. If they are right, make them tables that belong to %1$s.',
            pg_catalog.pg_get_userbyid(owner), found.strange
        )
        WHEN found.findings IS NOT NULL THEN found.findings || pg_catalog.format(
            '. Give back what is dagbump''s: ALTER ROUTINE ... OWNER TO %1$I; ALTER TABLE ... OWNER TO %1$I; drop or rename the '
            'rest.', pg_catalog.pg_get_userbyid(owner)
        )
        ELSE pg_catalog.format(
            'everything in schema dagbump belongs to %s, which also owns Airflow''s tables', pg_catalog.pg_get_userbyid(owner)
        )
    END AS detail
FROM (
    SELECT
        (
            @include:tables_of_strangers@
        ) AS strange,
        (
            SELECT pg_catalog.string_agg(foreign_object.finding, '; ')
            FROM (
                @include:foreign_objects@
            ) AS foreign_object
        ) AS findings
) AS found
