-- Takes: required, airflow_schema, tis, recorded_shape.
SELECT
    5 AS place,
    'airflow tables' AS item,
    found.missing IS NULL AND coalesce(recorded_shape, '') = @airflow_shape_literal@ AS ok,
    CASE
        WHEN found.missing IS NULL AND coalesce(recorded_shape, '') = @airflow_shape_literal@
            THEN pg_catalog.format('in schema %I, as in Airflow %s', airflow_schema, @airflow_releases_literal@)
        WHEN tis IS NULL THEN pg_catalog.format(
            'There is no task_instance in schema %I: Airflow''s tables have been moved, renamed or dropped. '
            'Run `dagbump upgrade --airflow-schema NAME`, with the schema where they are now.', airflow_schema
        )
        WHEN found.missing IS NULL THEN pg_catalog.format(
            'They are as in Airflow %s, and the record says %s. Run `dagbump upgrade`.',
            @airflow_releases_literal@, coalesce(recorded_shape, 'nothing')
        )
        ELSE pg_catalog.format(
            'Airflow''s tables have changed since dagbump was installed for those of Airflow %s; missing: %s. '
            'Run `dagbump upgrade`, with a release that knows this Airflow.', @airflow_releases_literal@, found.missing
        )
    END AS detail
FROM (
    SELECT pg_catalog.string_agg(wanted.called, ', ' ORDER BY wanted.called) AS missing
    FROM (
        @include:columns@
    ) AS wanted
    WHERE wanted.type IS NULL
) AS found
