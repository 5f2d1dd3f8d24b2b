-- dagbump.help: prints the manual. The manual is the COMMENTs of the functions.

CREATE OR REPLACE FUNCTION dagbump.help(topic text DEFAULT NULL) RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $help$
BEGIN
    RETURN QUERY
    SELECT line.text
    FROM (
        -- With a topic, everything about that function. Without one, the schema, then the first line of each function that is not
        -- internal.
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
                    -- From PostgreSQL 14 on, the arguments of a procedure begin with IN.
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
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT dagbump.help(); lists the topics.';
    END IF;
END
$help$;

COMMENT ON FUNCTION dagbump.help(text) IS
'Prints the manual: a list of the functions, or all about one of them.

  SELECT dagbump.help();
  SELECT dagbump.help(''bump'');

Answers lines of at most 105 characters, in order. It reads only the catalogs.
Errors: 22023 if there is no such topic.';

REVOKE ALL ON FUNCTION dagbump.help(text) FROM PUBLIC;
