-- Remembers what is in schema dagbump until the end of the transaction. restore_grants.sql takes from the objects that
-- are new what the owner's default privileges (ALTER DEFAULT PRIVILEGES) have granted on them.

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
