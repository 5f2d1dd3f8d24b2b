-- Takes: nothing.
-- One digest for each function and procedure in schema dagbump. It covers the body, and everything that decides as
-- which role and with which settings the function runs.
SELECT
    pg_catalog.format(
        '%s(%s)',
        proc.proname,
        (
            SELECT pg_catalog.string_agg(type.typname::text, ', ' ORDER BY argument.place)
            FROM pg_catalog.unnest(proc.proargtypes::oid[]) WITH ORDINALITY AS argument (type, place)
            INNER JOIN pg_catalog.pg_type AS type ON argument.type = type.oid
        )
    ) AS called,
    pg_catalog.encode(
        pg_catalog.sha256(
            pg_catalog.convert_to(
                pg_catalog.concat_ws(
                    '|',
                    language.lanname,
                    proc.prokind,
                    proc.prosecdef,
                    proc.provolatile,
                    proc.proretset,
                    proc.proisstrict,
                    proc.proparallel,
                    proc.prorettype,
                    pg_catalog.array_to_string(proc.proargnames, ','),
                    pg_catalog.array_to_string(proc.proconfig, ','),
                    -- Types in it are quoted if quote_all_identifiers is on.
                    pg_catalog.replace(pg_catalog.pg_get_expr(proc.proargdefaults, 0::oid), '"', ''),
                    proc.prosrc
                ),
                pg_catalog.getdatabaseencoding()
            )
        ),
        'hex'
    ) AS digest
FROM pg_catalog.pg_proc AS proc
INNER JOIN pg_catalog.pg_language AS language ON proc.prolang = language.oid
INNER JOIN pg_catalog.pg_namespace AS namespace ON proc.pronamespace = namespace.oid
WHERE namespace.nspname::text = 'dagbump'
