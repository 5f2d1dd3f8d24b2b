-- Takes: out_of_order (text), order_is_known.
SELECT
    14 AS place,
    'version order' AS item,
    out_of_order IS NULL AS ok,
    CASE
        WHEN NOT order_is_known THEN 'cannot be checked before the items above are mended'
        WHEN out_of_order IS NULL THEN 'in the DAGs of running runs, Airflow takes the same version for the latest as dagbump'
        ELSE 'Up to 3.2, Airflow takes the newest created_at for the latest version of a DAG; dagbump takes the highest '
            'version_number. These differ for: ' || out_of_order || '. So the safe form of bump and `dagbump run` leave stale runs '
            'of these DAGs alone, because a scheduler without the plugin would move back what they move. Set the clocks of all '
            'DAG processors right, then put the versions in order: docs/stuck-runs.md has the statement. Or upgrade Airflow to '
            '3.3.'
    END AS detail
