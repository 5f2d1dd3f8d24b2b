-- Takes: required, airflow_schema.
SELECT
    6 AS place,
    'column types' AS item,
    found.findings IS NULL AS ok,
    coalesce(
        found.findings || '. Find out who changed them, and change them back; or run `dagbump upgrade`, with a release that '
        'knows them.',
        'as the functions take them'
    ) AS detail
FROM (
    SELECT
        pg_catalog.string_agg(
            pg_catalog.format('%s is %s, not %s', wanted.called, wanted.type, wanted.kind), '; ' ORDER BY wanted.called
        ) AS findings
    FROM (
        @include:columns@
    ) AS wanted
    WHERE NOT wanted.fits
) AS found
