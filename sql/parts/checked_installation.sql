-- Takes: recorded.
SELECT
    2 AS place,
    'installation' AS item,
    recorded IS NOT NULL AND installation.has_key AS ok,
    CASE
        WHEN recorded IS NULL
            THEN 'dagbump.installation is empty or missing, as after a partial restore, or altered. Run `dagbump upgrade`, which '
            'writes it.'
        WHEN NOT installation.has_key
            THEN 'The table dagbump.installation has no key that limits it to one row. Run `dagbump upgrade`, which adds it.'
        ELSE recorded
    END AS detail
FROM (
    SELECT @include:installation_has_key@ AS has_key
) AS installation
