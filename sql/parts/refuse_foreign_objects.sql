-- Takes: findings, owner.
-- Raises an error if schema dagbump does not belong to that role, or contains something that dagbump did not create.
IF EXISTS (
    SELECT FROM pg_catalog.pg_namespace AS namespace
    WHERE namespace.nspname::text = 'dagbump' AND namespace.nspowner <> owner
) THEN
    RAISE EXCEPTION 'there is a schema dagbump that does not belong to %, the owner of Airflow''s tables, but to %',
        pg_catalog.pg_get_userbyid(owner),
        (
            SELECT pg_catalog.pg_get_userbyid(namespace.nspowner)
            FROM pg_catalog.pg_namespace AS namespace
            WHERE namespace.nspname::text = 'dagbump'
        )
        USING ERRCODE = 'DBU03',
        HINT = 'Nothing in it was read. Find out who created it, and why. If it is a dagbump whose owner was changed, change it '
        'back with ALTER SCHEMA, ALTER TABLE and ALTER ROUTINE, each with OWNER TO. Otherwise rename or drop it.';
END IF;

SELECT pg_catalog.string_agg(foreign_object.finding, '; ') INTO findings
FROM (
    @include:foreign_objects@
) AS foreign_object;
IF findings IS NOT NULL THEN
    RAISE EXCEPTION 'schema dagbump contains objects that dagbump did not create: %', findings
        USING ERRCODE = 'DBU03', HINT = 'Nothing in it was read. Find out who created it, and why; then drop or rename it.';
END IF;
