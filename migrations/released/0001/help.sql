-- dagbump.help: the manual, as lines that read well in psql: it is in the comments.

CREATE OR REPLACE FUNCTION dagbump.help(topic text DEFAULT NULL) RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $help$
BEGIN
    RETURN QUERY
    SELECT line.text
    FROM (
        -- The schema, then the first line of each function that is for users; or all of one.
        SELECT 0 AS place, ''::text AS name, pg_catalog.obj_description(namespace.oid, 'pg_namespace') AS comment
        FROM pg_catalog.pg_namespace AS namespace
        WHERE namespace.nspname::text = 'dagbump' AND topic IS NULL
        UNION ALL
        SELECT
            1,
            proc.proname::text,
            CASE
                WHEN topic IS NULL THEN
                    E'\nSELECT dagbump.help(''' || proc.proname::text || E''');\n    '
                    || pg_catalog.split_part(pg_catalog.obj_description(proc.oid, 'pg_proc'), E'\n', 1)
                ELSE CASE WHEN proc.prokind::text = 'p' THEN 'CALL ' ELSE '' END
                    || 'dagbump.' || proc.proname::text || E'(\n    '
                    -- Of a procedure's, PostgreSQL says IN since 14.
                    || pg_catalog.regexp_replace(
                        pg_catalog.replace(pg_catalog.pg_get_function_arguments(proc.oid), ', ', E',\n    '),
                        '(^|\n +)IN ', E'\\1', 'g'
                    ) || E'\n)\n\n'
                    || pg_catalog.obj_description(proc.oid, 'pg_proc')
            END
        FROM pg_catalog.pg_proc AS proc
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
        WHERE namespace.nspname::text = 'dagbump' AND (
            proc.proname::text = topic
            OR (topic IS NULL AND NOT pg_catalog.starts_with(pg_catalog.obj_description(proc.oid, 'pg_proc'), 'Internal'))
        )
    ) AS manual
    CROSS JOIN LATERAL pg_catalog.regexp_split_to_table(manual.comment, E'\n') WITH ORDINALITY AS line (text, number)
    ORDER BY manual.place, manual.name, line.number;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no help on %', topic
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT dagbump.help(); lists what there is.';
    END IF;
END
$help$;

COMMENT ON FUNCTION dagbump.help(text) IS
'Prints the manual: what there is, or all about one function.

  SELECT dagbump.help();
  SELECT dagbump.help(''bump'');

Answers lines of at most 105 characters, in order. Reads the catalogs only.
Errors: 22023 for a topic that there is not.';

REVOKE ALL ON FUNCTION dagbump.help(text) FROM PUBLIC;
