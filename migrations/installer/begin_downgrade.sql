-- Refuses a schema dagbump that is not ours, and goes on as its owner. Airflow's tables may be gone: that is no obstacle.
--
-- Runs first in every downgrade, online and in the script of --sql alike, and reads catalogs only. Errors:
--   DBU03  a schema dagbump that is somebody else's, or holds what is
--   DBU04  dagbump serves another Airflow in this database
--   25006  a read-only transaction
--   42501  a role that may not act as its owner

DO $begin_downgrade$
DECLARE
    schema_owner CONSTANT oid := (SELECT namespace.nspowner FROM pg_catalog.pg_namespace AS namespace WHERE namespace.nspname::text = 'dagbump');
    owner CONSTANT oid := coalesce((
        SELECT class.relowner
        FROM pg_catalog.pg_class AS class
        WHERE class.oid = pg_catalog.to_regclass(@task_instance_literal@)::oid
    ), schema_owner);
    airflow_schema CONSTANT text := @airflow_schema_literal@;
    served CONSTANT text := (
        SELECT namespace.nspname::text
        FROM pg_catalog.pg_proc AS proc
        JOIN pg_catalog.pg_namespace AS own ON own.oid = proc.pronamespace AND own.nspname::text = 'dagbump'
        CROSS JOIN LATERAL pg_catalog.unnest(proc.proconfig) AS config (setting)
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname::text = CASE
            WHEN config.setting ~ '^search_path=.*, "?pg_temp"?$' THEN (
                pg_catalog.parse_ident(pg_catalog.substring(config.setting, '^search_path=(.*), "?pg_temp"?$'))
            )[1]
        END
        WHERE proc.proname::text = 'bump'
    );
    -- From PostgreSQL 16 on, membership alone does not let one SET ROLE.
    may_become CONSTANT text := CASE
        WHEN pg_catalog.current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER'
    END;
    findings text;
BEGIN
    IF schema_owner IS NULL THEN
        RETURN;
    END IF;
    -- Refuses to begin what PostgreSQL would end with an error that says nothing of the way out.
    IF pg_catalog.current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'this transaction is read-only, and nothing can be written in it'
            USING ERRCODE = 'read_only_sql_transaction',
            HINT = 'It is so on a hot standby, and where default_transaction_read_only is on, for the server, the database or '
            'the role. For one session: PGOPTIONS="-c default_transaction_read_only=off".';
    END IF;
    -- Refuses a schema dagbump that is not that role's, and what is in it that is not ours.
    IF EXISTS (
        SELECT FROM pg_catalog.pg_namespace AS namespace
        WHERE namespace.nspname::text = 'dagbump' AND namespace.nspowner <> owner
    ) THEN
        RAISE EXCEPTION 'there is a schema dagbump that does not belong to %, the owner of Airflow''s tables, but to %',
            pg_catalog.pg_get_userbyid(owner),
            (
                SELECT pg_catalog.pg_get_userbyid(namespace.nspowner)
                FROM pg_catalog.pg_namespace AS namespace
                WHERE namespace.nspname::text = 'dagbump'
            )
            USING ERRCODE = 'DBU03',
            HINT = 'Nothing in it was read. Look who made it and why; if it is a dagbump that changed hands, give it back with '
            'ALTER SCHEMA, ALTER TABLE and ALTER ROUTINE, each with OWNER TO; else rename or drop it.';
    END IF;

    SELECT pg_catalog.string_agg(foreign_object.finding, '; ') INTO findings
    FROM (
        -- One row for each thing in schema dagbump that may not be ours. Reads the catalogs only; calls nothing in that schema.
        --
        -- The owner of the schema has to own everything in it.
        --
        -- A table has to be plain. These are refused, because code in them would run as whoever reads or writes the table:
        -- triggers, rules, policies, defaults, checks (except on a bare column), index expressions, types that are not in
        -- pg_catalog, parents and children.
        --
        -- A function that is called from outside has to run as its owner. No argument may have an expression as its default,
        -- because that would run as the caller. Two run as the caller: the procedure repair, because PostgreSQL lets no
        -- procedure commit that runs as its owner; and prune_history, so that it lends nobody the owner's rights.

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
        -- One that is a column and nothing else calls nothing. (It is quoted, where quote_all_identifiers is on.)
        WHERE pg_catalog.replace(pg_catalog.pg_get_expr(con.conbin, con.conrelid), '"', '') <> 'one_row'
        UNION ALL
        SELECT relation.called || ' has an index on an expression'
        FROM relation
        JOIN pg_catalog.pg_index AS index ON index.indrelid = relation.oid
        WHERE index.indexprs IS NOT NULL OR index.indpred IS NOT NULL
        UNION ALL
        SELECT relation.called || ' has a column of a type of somebody''s own'
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
        SELECT function.called || ' has an argument, or a column of its answer, of a type of somebody''s own'
        FROM function
        CROSS JOIN LATERAL pg_catalog.unnest(
            -- Not by ||, for which somebody's operator may be an exact match.
            pg_catalog.array_append(coalesce(function.proallargtypes, function.proargtypes::oid[]), function.prorettype)
        ) AS used (oid)
        JOIN pg_catalog.pg_type AS type ON type.oid = used.oid
        WHERE type.typnamespace <> 'pg_catalog'::regnamespace::oid
        UNION ALL
        SELECT function.called || ' does not run as its owner'
        FROM function
        WHERE function.proname::text IN (
            'bump', 'check', 'holders', 'preview', 'repair_batch', 'repairable', 'running', 'verify_scope', 'versions',
            'versions_by_day', 'versions_of_runs'
        )
        AND NOT function.prosecdef
        ORDER BY 1
    ) AS foreign_object;
    IF findings IS NOT NULL THEN
        RAISE EXCEPTION 'in schema dagbump is what dagbump has not put there: %', findings
            USING ERRCODE = 'DBU03', HINT = 'Nothing in it was read. Look who made it and why, and drop or rename it.';
    END IF;
    IF served <> airflow_schema
        AND pg_catalog.to_regclass(pg_catalog.quote_ident(served) || '.task_instance') IS NOT NULL THEN
        RAISE EXCEPTION 'dagbump is installed in this database for the Airflow in schema "%", not for that in "%"',
            served, airflow_schema
            USING ERRCODE = 'DBU04',
            HINT = 'One database has one dagbump, for one Airflow; name its schema with --airflow-schema. To change over: '
            'dagbump downgrade, and then dagbump upgrade, with the schema of each.';
    END IF;
    IF NOT pg_catalog.pg_has_role(owner, may_become) THEN
        RAISE EXCEPTION 'dagbump belongs to %, and this role, %, may not act as that one',
            pg_catalog.pg_get_userbyid(owner), CURRENT_USER
            USING ERRCODE = 'insufficient_privilege', HINT = pg_catalog.format('Connect as %I', pg_catalog.pg_get_userbyid(owner)) || CASE
                WHEN EXISTS (SELECT FROM pg_catalog.pg_roles AS role WHERE role.oid = owner AND role.rolsuper) THEN '.'
                ELSE pg_catalog.format(
                    ', or have that role, or a superuser, run: GRANT %I TO %I;', pg_catalog.pg_get_userbyid(owner), CURRENT_USER
                )
            END;
    END IF;
    IF CURRENT_USER <> pg_catalog.pg_get_userbyid(owner) THEN
        EXECUTE pg_catalog.format('SET LOCAL ROLE %I', pg_catalog.pg_get_userbyid(owner));
    END IF;
END
$begin_downgrade$;
