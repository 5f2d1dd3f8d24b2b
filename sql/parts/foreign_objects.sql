-- Takes: nothing.
-- One row for each thing in schema dagbump that dagbump may not have created. It reads only the catalogs and calls
-- nothing in that schema.
--
-- The owner of the schema must own everything in it.
--
-- A table must be plain. Refused are: triggers, rules, policies, defaults, checks (except on a bare column), index
-- expressions, types that are not in pg_catalog, parents and children. Code in them would run as the role that
-- reads or writes the table.
--
-- A function that users call must run as its owner. The default of an argument must not be an expression, because
-- that would run as the caller. Two functions run as the caller: the procedure repair, because PostgreSQL does not
-- let a SECURITY DEFINER procedure commit; and prune_history, which must not lend the owner's rights to anybody.

WITH relation AS (
    SELECT class.*, pg_catalog.format('dagbump.%I', class.relname) AS called, namespace.nspowner
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname::text = 'dagbump'
),

function AS (
    SELECT proc.*, pg_catalog.format('dagbump.%I', proc.proname) AS called, namespace.nspowner
    FROM pg_catalog.pg_proc AS proc
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
    WHERE namespace.nspname::text = 'dagbump'
)

SELECT relation.called || ' belongs to ' || pg_catalog.pg_get_userbyid(relation.relowner)::text AS finding
FROM relation
WHERE relation.relowner <> relation.nspowner
UNION ALL
SELECT relation.called || ' is not a table'
FROM relation
WHERE relation.relkind::text NOT IN ('r', 'i')
UNION ALL
SELECT relation.called || ' has a trigger'
FROM relation
JOIN pg_catalog.pg_trigger AS trigger ON trigger.tgrelid = relation.oid
UNION ALL
SELECT relation.called || ' has a rule'
FROM relation
JOIN pg_catalog.pg_rewrite AS rule ON rule.ev_class = relation.oid
UNION ALL
SELECT relation.called || ' has row-level security'
FROM relation
WHERE relation.relrowsecurity
UNION ALL
SELECT relation.called || ' inherits, or is inherited from'
FROM relation
JOIN pg_catalog.pg_inherits AS inherits ON relation.oid IN (inherits.inhrelid, inherits.inhparent)
UNION ALL
SELECT relation.called || ' has a default'
FROM relation
JOIN pg_catalog.pg_attrdef AS def ON def.adrelid = relation.oid
UNION ALL
SELECT relation.called || ' has a check'
FROM relation
JOIN pg_catalog.pg_constraint AS con ON con.conrelid = relation.oid AND con.contype::text = 'c'
-- A check that is a bare column calls nothing. Its name is quoted if quote_all_identifiers is on.
WHERE pg_catalog.replace(pg_catalog.pg_get_expr(con.conbin, con.conrelid), '"', '') <> 'one_row'
UNION ALL
SELECT relation.called || ' has an index on an expression'
FROM relation
JOIN pg_catalog.pg_index AS index ON index.indrelid = relation.oid
WHERE index.indexprs IS NOT NULL OR index.indpred IS NOT NULL
UNION ALL
SELECT relation.called || ' has a column whose type is not in pg_catalog'
FROM relation
JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = relation.oid AND attribute.attnum > 0
JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
WHERE type.typnamespace <> 'pg_catalog'::regnamespace::oid
UNION ALL
SELECT function.called || ' belongs to ' || pg_catalog.pg_get_userbyid(function.proowner)::text
FROM function
WHERE function.proowner <> function.nspowner
UNION ALL
SELECT function.called || ' has an argument whose default is an expression'
FROM function
WHERE pg_catalog.pg_get_expr(function.proargdefaults, 0::oid)
    !~ '^(NULL::["a-z ]+([[][]])?|true|false|[0-9]+)(, (NULL::["a-z ]+([[][]])?|true|false|[0-9]+))*$'
UNION ALL
SELECT function.called || ' has an argument, or a column of its answer, whose type is not in pg_catalog'
FROM function
CROSS JOIN LATERAL pg_catalog.unnest(
    -- array_append instead of ||, because an operator || of another role may be an exact match.
    pg_catalog.array_append(coalesce(function.proallargtypes, function.proargtypes::oid[]), function.prorettype)
) AS used (oid)
JOIN pg_catalog.pg_type AS type ON type.oid = used.oid
WHERE type.typnamespace <> 'pg_catalog'::regnamespace::oid
UNION ALL
SELECT function.called || ' does not run as its owner'
FROM function
WHERE function.proname::text IN (
    'bump', 'check', 'holders', 'preview', 'repair_batch', 'repairable', 'running', 'tasks_of_run', 'verify_scope',
    'versions', 'versions_by_day', 'versions_of_runs'
)
AND NOT function.prosecdef
ORDER BY 1
