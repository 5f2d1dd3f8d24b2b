-- Takes: airflow_schema.
SELECT
    9 AS place,
    'optional index' AS item,
    found.oid IS NULL OR (found.ours AND found.fits AND (found.valid OR found.building)) AS ok,
    CASE
        WHEN found.oid IS NULL
            THEN 'not there. A loop in which nothing changed reads every task instance of the examined runs; with the index it '
            'reads two of each run. `dagbump upgrade --with-index` builds it, without blocking anybody.'
        WHEN NOT found.ours THEN pg_catalog.format(
            'Something in schema %I is named dagbump_ti_unfinished and is not the optional index. Find out what it is, and '
            'drop or rename it.', airflow_schema
        )
        WHEN NOT found.fits THEN 'Airflow''s tables have changed since it was built: it also holds past tries. '
            'Run `dagbump upgrade`, which builds it anew.'
        WHEN found.building THEN 'being built right now; until it is done, nothing uses it'
        WHEN found.valid THEN 'there, and valid: ' || pg_catalog.pg_size_pretty(pg_catalog.pg_relation_size(found.oid))
        WHEN pg_catalog.pg_is_in_recovery()
            THEN 'not valid: being built on the primary, or a build there was cut off; dagbump.check() there says which'
        ELSE 'A build of it was cut off: nothing uses it, and every write pays for it. Run `dagbump upgrade --with-index`, '
            'which builds it anew.'
    END AS detail
FROM (VALUES (TRUE)) AS always (there)
LEFT JOIN (
    SELECT
        class.oid,
        @include:defines_optional_index@ AS ours,
        @include:optional_index_fits@ AS fits,
        index.indisvalid AND NOT index.indcheckxmin AS valid,
        -- PostgreSQL shows only the pid of a build by another role. So look for the table lock of that process, which
        -- everybody can see.
        NOT index.indisvalid AND EXISTS (
            SELECT FROM pg_catalog.pg_stat_progress_create_index AS build
            JOIN pg_catalog.pg_locks AS lock ON lock.pid = build.pid
            WHERE coalesce(build.index_relid, class.oid) = class.oid
            AND lock.relation = tis.oid AND lock.mode = 'ShareUpdateExclusiveLock' AND lock.granted
            AND build.datname::text = pg_catalog.current_database()::text
        ) AS building
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    LEFT JOIN pg_catalog.pg_index AS index ON index.indexrelid = class.oid
    LEFT JOIN pg_catalog.pg_class AS tis ON tis.oid = index.indrelid
    WHERE class.relname::text = 'dagbump_ti_unfinished' AND namespace.nspname::text = airflow_schema
) AS found ON TRUE
