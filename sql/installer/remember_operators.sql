-- Remembers the operators until the end of the transaction. restore_grants.sql grants them the objects
-- that the upgrade adds.

DO $remember_operators$
BEGIN
    PERFORM pg_catalog.set_config(
        'dagbump.operators',
        (
            SELECT coalesce(pg_catalog.jsonb_agg(operator.name), '[]')::text
            FROM (
                @include:operators@
            ) AS operator
        ),
        TRUE
    );
END
$remember_operators$;
