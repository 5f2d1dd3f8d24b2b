-- Remembers, until the end of the transaction, who is an operator: restore_grants.sql gives them what the upgrade brings.

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
