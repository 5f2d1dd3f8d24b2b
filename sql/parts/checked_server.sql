-- Takes: nothing.
SELECT
    1 AS place,
    'server' AS item,
    server.known AS ok,
    'PostgreSQL ' || pg_catalog.current_setting('server_version')
    || CASE
        WHEN pg_catalog.pg_is_in_recovery() THEN ', a hot standby: preview and check work here; bump needs the primary' ELSE ''
    END
    || CASE WHEN server.known THEN '' ELSE '; dagbump works with 13 to 18. Look for a release of dagbump that knows this one.' END
    AS detail
FROM (
    SELECT pg_catalog.current_setting('server_version_num')::integer BETWEEN 130000 AND 189999 AS known
) AS server
