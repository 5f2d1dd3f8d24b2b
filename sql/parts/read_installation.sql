-- Takes: recorded (text), recorded_shape, recorded_functions.
-- Reads dagbump.installation. The table can be missing, because a restore may have left it out; or somebody has altered it.
IF NOT EXISTS (
    @include:altered_installation@
) THEN
    SELECT
        installed.airflow_shape,
        installed.functions,
        pg_catalog.format(
            'release %s, revision %s, for the Airflow %s in schema %I; upgraded at %s by %s',
            installed.release,
            installed.revision,
            CASE installed.airflow_shape
                WHEN @airflow_shape_literal@ THEN @airflow_releases_literal@ ELSE installed.airflow_shape
            END,
            installed.airflow_schema,
            installed.installed_at::timestamptz(0),
            installed.installed_by
        )
    INTO recorded_shape, recorded_functions, recorded
    FROM dagbump.installation AS installed;
END IF;
