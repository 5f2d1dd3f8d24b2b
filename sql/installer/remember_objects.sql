-- Remembers what is in schema dagbump until the end of the transaction. The owner's default privileges (ALTER DEFAULT
-- PRIVILEGES) may grant rights on new objects. restore_grants.sql takes these rights back.

DO $remember_objects$
BEGIN
    PERFORM pg_catalog.set_config(
        'dagbump.objects',
        (
            SELECT coalesce(pg_catalog.jsonb_agg(object.oid::text), '[]')::text
            FROM (
                @include:objects_of_schema@
            ) AS object
        ),
        TRUE
    );
END
$remember_objects$;
