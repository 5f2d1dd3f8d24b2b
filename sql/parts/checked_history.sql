-- Takes: nothing.
SELECT
    4 AS place,
    'history' AS item,
    history.altered IS NULL AND history.has_key AS ok,
    CASE
        WHEN pg_catalog.to_regclass('dagbump.history') IS NULL
            THEN 'The table dagbump.history is missing, and without it nothing is moved. Run `dagbump upgrade`, which makes it.'
        WHEN history.altered IS NOT NULL
            THEN 'The table dagbump.history has been altered, and so nothing is moved: ' || history.altered
            || '. Run `dagbump upgrade`, which repairs it and keeps its rows.'
        WHEN NOT history.has_key
            THEN 'The table dagbump.history has no primary key: with a publication FOR ALL TABLES, prune_history fails. '
            'Run `dagbump upgrade`, which adds it.'
        ELSE 'the table is as shipped'
    END AS detail
FROM (
    SELECT
        (
            SELECT pg_catalog.string_agg(altered.attname, ', ' ORDER BY altered.attname)
            FROM (
                @include:altered_history@
            ) AS altered
        ) AS altered,
        EXISTS (
            SELECT FROM pg_catalog.pg_constraint AS con
            WHERE con.conrelid = pg_catalog.to_regclass('dagbump.history')::oid AND @include:is_key_of_history@
        ) AS has_key
) AS history
