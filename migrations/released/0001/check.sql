-- dagbump.check: is everything as the functions need it, and if not, what is to be done?
--
-- For a DBA, first of all. Reads only: the catalogs, dagbump.installation, and up to Airflow 3.2 the versions of the DAGs that
-- have running runs. Locks nothing, and runs on a hot standby.

CREATE OR REPLACE FUNCTION dagbump.check() RETURNS TABLE (
    item text,
    ok boolean,
    detail text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = @airflow_schema@, pg_temp
AS $check$
#variable_conflict use_column
DECLARE
    required CONSTANT jsonb := '{
        "backfill": {"id": "integer", "dag_id": "text"},
        "backfill_dag_run": {"backfill_id": "integer", "dag_run_id": "integer", "sort_ordinal": "integer"},
        "dag": {"dag_id": "text", "is_paused": "boolean", "is_stale": "boolean"},
        "dag_run": {
            "id": "integer", "dag_id": "text", "run_id": "text", "run_type": "text", "logical_date": "timestamptz",
            "state": "text", "bundle_version": "text", "created_dag_version_id": "uuid", "run_after": "timestamptz",
            "last_scheduling_decision": "timestamptz", "backfill_id": "integer"
        },
        "dag_version": {"id": "uuid", "dag_id": "text", "version_number": "integer", "created_at": "timestamptz"},
        "serialized_dag": {"dag_version_id": "uuid", "data": "json"},
        "task_instance": {
            "dag_id": "text", "run_id": "text", "task_id": "text", "map_index": "integer", "state": "text",
            "dag_version_id": "uuid", "updated_at": "timestamptz"
        },
        "task_instance_history": {"dag_id": "text", "run_id": "text", "dag_version_id": "uuid"}
    }'::jsonb;
    airflow_schema CONSTANT text := @airflow_schema_literal@;
    tis CONSTANT oid := pg_catalog.to_regclass(@task_instance_literal@)::oid;
    airflow_owner CONSTANT oid := (
        SELECT class.relowner
        FROM pg_catalog.pg_class AS class
        WHERE class.oid = pg_catalog.to_regclass(@task_instance_literal@)::oid
    );
    owner CONSTANT oid := (SELECT namespace.nspowner FROM pg_catalog.pg_namespace AS namespace WHERE namespace.nspname::text = 'dagbump');
    recorded_shape text;
    recorded_functions jsonb;
    missing text;
    findings text;
    advice text;
    to_public boolean;
BEGIN
    item := 'server';
    ok := pg_catalog.current_setting('server_version_num')::integer BETWEEN 130000 AND 189999;
    detail := 'PostgreSQL ' || pg_catalog.current_setting('server_version')
        || CASE
            WHEN pg_catalog.pg_is_in_recovery() THEN ', a hot standby: preview and check work here; bump needs the primary' ELSE ''
        END
        || CASE WHEN ok THEN '' ELSE '; dagbump works with 13 to 18. Look for a release of dagbump that knows this one.' END;
    RETURN NEXT;

    item := 'installation';
    detail := NULL;
    -- Looked at only where it is there: a restore may have left it out.
    IF pg_catalog.to_regclass('dagbump.installation') IS NOT NULL THEN
        SELECT
            installed.airflow_shape,
            installed.functions,
            pg_catalog.format(
                'release %s, revision %s, for the Airflow %s in schema %I; upgraded at %s by %s',
                installed.release,
                installed.revision,
                installed.airflow_shape,
                installed.airflow_schema,
                installed.installed_at::timestamptz(0),
                installed.installed_by
            )
        INTO recorded_shape, recorded_functions, detail
        FROM dagbump.installation AS installed;
    END IF;
    ok := detail IS NOT NULL AND (
        2 = (
            SELECT pg_catalog.count(*)::integer
            FROM pg_catalog.pg_constraint AS con
            JOIN pg_catalog.pg_attribute AS key ON key.attrelid = con.conrelid AND key.attnum = con.conkey[1]
            WHERE con.conrelid = pg_catalog.to_regclass('dagbump.installation')::oid AND con.contype::text IN ('p', 'c')
            AND pg_catalog.cardinality(con.conkey) = 1 AND key.attname::text = 'one_row'
        )
    );
    detail := coalesce(
        CASE
            WHEN detail IS NOT NULL AND NOT ok
                THEN 'The table dagbump.installation has no key that holds it to one row. Run `dagbump upgrade`, which adds it.'
        END,
        detail, 'dagbump.installation is empty or missing, as after a restore of a part. Run `dagbump upgrade`, which writes it.'
    );
    RETURN NEXT;

    item := 'functions';
    SELECT pg_catalog.string_agg(difference.finding, '; ' ORDER BY difference.finding) INTO findings
    FROM (
        SELECT
            CASE
                WHEN found.called IS NULL THEN 'missing: dagbump.' || shipped.called
                WHEN shipped.called IS NULL THEN 'not of this release: dagbump.' || found.called
                ELSE 'changed: dagbump.' || found.called
            END AS finding
        FROM pg_catalog.jsonb_each_text(coalesce(recorded_functions, '{}')) AS shipped (called, digest)
        FULL JOIN (
            -- A digest of each function and procedure in schema dagbump: of its body, and of what decides as whom and how it runs.
            SELECT
                pg_catalog.format(
                    '%s(%s)',
                    proc.proname,
                    (
                        SELECT pg_catalog.string_agg(type.typname::text, ', ' ORDER BY argument.place)
                        FROM pg_catalog.unnest(proc.proargtypes::oid[]) WITH ORDINALITY AS argument (type, place)
                        INNER JOIN pg_catalog.pg_type AS type ON argument.type = type.oid
                    )
                ) AS called,
                pg_catalog.encode(
                    pg_catalog.sha256(
                        pg_catalog.convert_to(
                            pg_catalog.concat_ws(
                                '|',
                                language.lanname,
                                proc.prokind,
                                proc.prosecdef,
                                proc.provolatile,
                                proc.proretset,
                                proc.proisstrict,
                                proc.proparallel,
                                proc.prorettype,
                                pg_catalog.array_to_string(proc.proargnames, ','),
                                pg_catalog.array_to_string(proc.proconfig, ','),
                                -- Types in it are quoted, where quote_all_identifiers is on.
                                pg_catalog.replace(pg_catalog.pg_get_expr(proc.proargdefaults, 0::oid), '"', ''),
                                proc.prosrc
                            ),
                            pg_catalog.getdatabaseencoding()
                        )
                    ),
                    'hex'
                ) AS digest
            FROM pg_catalog.pg_proc AS proc
            INNER JOIN pg_catalog.pg_language AS language ON proc.prolang = language.oid
            INNER JOIN pg_catalog.pg_namespace AS namespace ON proc.pronamespace = namespace.oid
            WHERE namespace.nspname::text = 'dagbump'
        ) AS found ON found.called = shipped.called
        WHERE (found.digest = shipped.digest) IS NOT TRUE
    ) AS difference;
    ok := recorded_functions IS NOT NULL AND findings IS NULL;
    detail := CASE
        WHEN recorded_functions IS NULL THEN 'There is no record of how they should be. Run `dagbump upgrade`.'
        WHEN findings IS NULL THEN 'as shipped'
        ELSE findings || '. `dagbump upgrade` makes anew what is missing or changed; what is not of this release, look at and drop.'
    END;
    RETURN NEXT;

    item := 'history';
    SELECT pg_catalog.string_agg(altered.attname, ', ' ORDER BY altered.attname) INTO findings
    FROM (
        -- The columns of dagbump.history that are not as it is written: missing, of another type, or with a NOT NULL, which none
        -- but the key has. (By the name in the catalog: format_type quotes it, where quote_all_identifiers is on.)
        SELECT wanted.attname, wanted.type
        FROM (
            VALUES
            ('bumped_at', 'timestamptz'),
            ('bumped_by', 'text'),
            ('application_name', 'text'),
            ('dag_run_id', 'int8'),
            ('dag_id', 'text'),
            ('run_id', 'text'),
            ('from_versions', 'jsonb'),
            ('dag_version_id', 'uuid'),
            ('version_number', 'int4'),
            ('bumped', 'int4'),
            ('caller', 'text'),
            ('id', 'uuid')
        ) AS wanted (attname, type)
        WHERE NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute AS attribute
            JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
            WHERE attribute.attrelid = pg_catalog.to_regclass('dagbump.history')::oid
            AND attribute.attname::text = wanted.attname
            AND type.typnamespace = 'pg_catalog'::regnamespace::oid
            AND type.typname::text = wanted.type
            AND attribute.atttypmod = -1
        )
        UNION ALL
        SELECT attribute.attname::text, NULL
        FROM pg_catalog.pg_attribute AS attribute
        WHERE attribute.attrelid = pg_catalog.to_regclass('dagbump.history')::oid
        AND attribute.attnum > 0
        AND attribute.attnotnull
        AND attribute.attname::text <> 'id'
    ) AS altered;
    ok := findings IS NULL AND EXISTS (
        SELECT FROM pg_catalog.pg_constraint AS con
        WHERE con.conrelid = pg_catalog.to_regclass('dagbump.history')::oid AND (
            con.contype::text = 'p' AND pg_catalog.cardinality(con.conkey) = 1 AND EXISTS (
                SELECT FROM pg_catalog.pg_attribute AS key
                WHERE key.attrelid = con.conrelid AND key.attnum = con.conkey[1] AND key.attname::text = 'id'
            )
        )
    );
    detail := CASE
        WHEN pg_catalog.to_regclass('dagbump.history') IS NULL
            THEN 'The table dagbump.history is missing, and without it nothing is moved. Run `dagbump upgrade`, which makes it.'
        WHEN ok THEN 'the table is as shipped'
        WHEN findings IS NULL
            THEN 'The table dagbump.history has no primary key: with a publication FOR ALL TABLES, prune_history fails. '
            'Run `dagbump upgrade`, which adds it.'
        ELSE 'The table dagbump.history has been altered, and so nothing is moved: ' || findings || '. Run `dagbump upgrade`, which '
            'mends it, and keeps what it holds.'
    END;
    RETURN NEXT;

    SELECT
        pg_catalog.string_agg(wanted.called, ', ' ORDER BY wanted.called) FILTER (WHERE wanted.type IS NULL),
        pg_catalog.string_agg(
            pg_catalog.format('%s is %s, not %s', wanted.called, wanted.type, wanted.kind), '; ' ORDER BY wanted.called
        ) FILTER (WHERE NOT wanted.fits)
    INTO missing, findings
    FROM (
        -- Each column that is required: its table, and its type there; NULL where there is no such column.
        --   fits       the type is of the kind that is required; true where there is no such column
        SELECT
            wanted.relation || '.' || wanted.attribute AS called,
            pg_catalog.format_type(found.atttypid, found.atttypmod) AS type,
            wanted.kind,
            found.atttypid IS NULL OR wanted.kind = coalesce(
                CASE type.typname::text
                    WHEN 'varchar' THEN 'text'
                    WHEN 'int4' THEN 'integer'
                    WHEN 'int8' THEN 'integer'
                    WHEN 'bool' THEN 'boolean'
                    WHEN 'jsonb' THEN 'json'
                    ELSE type.typname::text
                END,
                ''
            ) AS fits
        FROM (
            SELECT relation.key AS relation, attribute.key AS attribute, attribute.value AS kind
            FROM pg_catalog.jsonb_each(required) AS relation
            CROSS JOIN LATERAL pg_catalog.jsonb_each_text(relation.value) AS attribute
        ) AS wanted
        LEFT JOIN pg_catalog.pg_attribute AS found
            ON found.attrelid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
            AND found.attname::text = wanted.attribute
            AND NOT found.attisdropped
        LEFT JOIN pg_catalog.pg_type AS type
            ON type.oid = found.atttypid AND type.typnamespace = 'pg_catalog'::regnamespace::oid
    ) AS wanted;

    item := 'airflow tables';
    ok := missing IS NULL AND coalesce(recorded_shape, '') = '3.0 to 3.3';
    detail := CASE
        WHEN ok THEN pg_catalog.format('in schema %I, as in Airflow %s', airflow_schema, '3.0 to 3.3')
        WHEN tis IS NULL THEN pg_catalog.format(
            'There is no task_instance in schema %I: Airflow''s tables have been moved, renamed or dropped. '
            'Run `dagbump upgrade --airflow-schema NAME`, with the schema where they are now.', airflow_schema
        )
        WHEN missing IS NULL THEN pg_catalog.format(
            'They are as in Airflow %s, and the record says %s. Run `dagbump upgrade`.',
            '3.0 to 3.3', coalesce(recorded_shape, 'nothing')
        )
        ELSE pg_catalog.format(
            'Airflow''s tables have changed since dagbump was installed for those of Airflow %s; missing: %s. '
            'Run `dagbump upgrade`, with a release that knows this Airflow.', coalesce(recorded_shape, '?'), missing
        )
    END;
    RETURN NEXT;

    item := 'column types';
    ok := findings IS NULL;
    detail := coalesce(
        findings || '. Look who has changed them, and change them back; or run `dagbump upgrade`, with a release that knows them.',
        'as the functions take them'
    );
    RETURN NEXT;

    item := 'plain tables';
    -- Which of Airflow's tables are no plain ones, as text; NULL: none. (A row's address, by which bump writes, is unique in one
    -- physical table only.)
    SELECT pg_catalog.string_agg(class.relname::text, ', ' ORDER BY class.relname::text) INTO findings
    FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
    JOIN pg_catalog.pg_class AS class
        ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
    WHERE class.relkind::text <> 'r'
    OR EXISTS (
        SELECT FROM pg_catalog.pg_inherits AS inherits WHERE class.oid IN (inherits.inhrelid, inherits.inhparent)
    );
    advice := 'dagbump serves the tables that `airflow db migrate` makes: make them plain again, or remove dagbump.';
    IF findings IS NULL THEN
        SELECT pg_catalog.string_agg(class.relname::text || why.finding, ', ' ORDER BY class.relname::text) INTO findings
        FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
        JOIN pg_catalog.pg_class AS class
            ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
        CROSS JOIN LATERAL (
            SELECT ' has a rule' AS finding
            WHERE EXISTS (SELECT FROM pg_catalog.pg_rewrite AS rule WHERE rule.ev_class = class.oid)
            UNION ALL
            SELECT ' has policies that apply to its owner'
            WHERE pg_catalog.row_security_active(class.oid)
        ) AS why;
        advice := 'The functions may see or write other rows than they should. Drop the rules; ALTER TABLE … NO FORCE ROW LEVEL '
            'SECURITY, or give the owner of dagbump BYPASSRLS.';
    END IF;
    ok := findings IS NULL;
    detail := CASE WHEN ok THEN 'all of them' ELSE 'not so: ' || findings || '. ' || advice END;
    RETURN NEXT;

    item := 'keys';
    SELECT pg_catalog.string_agg(lacking.statement, ' ') INTO findings
    FROM (
        SELECT
            pg_catalog.format(
                'CREATE %sINDEX CONCURRENTLY ON %I.%I (%s);',
                CASE WHEN wanted.is_unique THEN 'UNIQUE ' ELSE '' END, airflow_schema, wanted.relation, wanted.columns
            ) AS statement
        FROM (
            VALUES
            ('dag', 'dag_id', TRUE),
            ('dag_run', 'id', TRUE),
            ('dag_run', 'dag_id, run_id', TRUE),
            ('dag_version', 'id', TRUE),
            ('dag_version', 'dag_id, version_number', TRUE),
            ('serialized_dag', 'dag_version_id', TRUE),
            ('task_instance', 'dag_id, run_id', FALSE),
            ('task_instance_history', 'dag_id, run_id', FALSE)
        ) AS wanted (relation, columns, is_unique)
        JOIN pg_catalog.pg_class AS class
            ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
        WHERE NOT EXISTS (
            SELECT FROM pg_catalog.pg_index AS index
            CROSS JOIN LATERAL (
                SELECT pg_catalog.string_agg(attribute.attname::text, ', ' ORDER BY key.place) AS columns
                FROM pg_catalog.unnest(index.indkey::smallint[]) WITH ORDINALITY AS key (attnum, place)
                JOIN pg_catalog.pg_attribute AS attribute
                    ON attribute.attrelid = index.indrelid AND attribute.attnum = key.attnum
                WHERE key.place <= index.indnkeyatts::bigint
            ) AS keys
            WHERE index.indrelid = class.oid AND index.indisvalid AND index.indpred IS NULL
            AND CASE
                WHEN wanted.is_unique THEN index.indisunique AND keys.columns = wanted.columns
                ELSE pg_catalog.starts_with(keys.columns || ',', wanted.columns || ',')
            END
        )
        UNION ALL
        SELECT
            pg_catalog.format(
                'ALTER TABLE %1$I.task_instance ADD FOREIGN KEY (dag_version_id) REFERENCES %1$I.dag_version (id) '
                'ON DELETE RESTRICT;', airflow_schema
            )
        WHERE tis IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_constraint AS con
            JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = con.conrelid AND attribute.attnum = con.conkey[1]
            WHERE con.conrelid = tis AND con.contype::text = 'f'
            AND con.confrelid = pg_catalog.to_regclass(pg_catalog.format('%I.dag_version', airflow_schema))::oid
            AND attribute.attname::text = 'dag_version_id' AND pg_catalog.cardinality(con.conkey) = 1
        )
    ) AS lacking;
    ok := findings IS NULL;
    detail := coalesce(
        'Airflow''s own migrations make them; what is missing here comes back with: ' || findings, 'all that the functions rely on'
    );
    RETURN NEXT;

    item := 'optional index';
    SELECT
        found.ours AND found.fits AND (found.valid OR found.building),
        CASE
            WHEN NOT found.ours THEN pg_catalog.format(
                'Something in schema %I is named dagbump_ti_unfinished and is not the optional index. Look what it is, and drop '
                'or rename it.', airflow_schema
            )
            WHEN NOT found.fits THEN 'Airflow''s tables have changed since it was built: it also holds past tries. '
                'Run `dagbump upgrade`, which builds it anew.'
            WHEN found.building THEN 'being built right now; until it is done, nothing uses it'
            WHEN found.valid THEN 'there, and valid: ' || pg_catalog.pg_size_pretty(pg_catalog.pg_relation_size(found.oid))
            WHEN pg_catalog.pg_is_in_recovery()
                THEN 'not valid: being built on the primary, or a build there was cut off; dagbump.check() there says which'
            ELSE 'A build of it was cut off: nothing uses it, and every write pays for it. Run `dagbump upgrade --with-index`, '
                'which builds it anew.'
        END
    INTO ok, detail
    FROM (
        SELECT
            class.oid,
            coalesce(
                tis.relname::text = 'task_instance' AND index.indpred IS NOT NULL AND (
                    SELECT pg_catalog.string_agg(attribute.attname::text, ', ' ORDER BY key.place)
                    FROM pg_catalog.unnest(index.indkey::smallint[]) WITH ORDINALITY AS key (attnum, place)
                    JOIN pg_catalog.pg_attribute AS attribute
                        ON attribute.attrelid = index.indrelid AND attribute.attnum = key.attnum
                ) = 'dag_id, run_id, dag_version_id',
                FALSE
            ) AS ours,
            (pg_catalog.strpos(pg_catalog.pg_get_expr(index.indpred, index.indrelid), 'working_set') > 0) = EXISTS (
                SELECT FROM pg_catalog.pg_attribute AS attribute
                WHERE attribute.attrelid = tis.oid AND attribute.attname::text = 'working_set' AND NOT attribute.attisdropped
            ) AS fits,
            index.indisvalid AND NOT index.indcheckxmin AS valid,
            -- Of others' builds PostgreSQL shows no more than the process; that holds a lock for all to see.
            NOT index.indisvalid AND EXISTS (
                SELECT FROM pg_catalog.pg_stat_progress_create_index AS build
                JOIN pg_catalog.pg_locks AS lock ON lock.pid = build.pid
                WHERE coalesce(build.index_relid, class.oid) = class.oid
                AND lock.relation = tis.oid AND lock.mode = 'ShareUpdateExclusiveLock' AND lock.granted
                AND build.datname::text = pg_catalog.current_database()::text
            ) AS building
        FROM pg_catalog.pg_class AS class
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
        LEFT JOIN pg_catalog.pg_index AS index ON index.indexrelid = class.oid
        LEFT JOIN pg_catalog.pg_class AS tis ON tis.oid = index.indrelid
        WHERE class.relname::text = 'dagbump_ti_unfinished' AND namespace.nspname::text = airflow_schema
    ) AS found;
    IF NOT FOUND THEN
        ok := TRUE;
        detail := 'not there. A loop in which nothing changed reads every task instance of the examined runs; with the index it '
            'reads two of each run. `dagbump upgrade --with-index` builds it, without blocking anybody.';
    END IF;
    RETURN NEXT;

    item := 'triggers';
    SELECT
        pg_catalog.bool_and(NOT trigger.tgdeferrable),
        pg_catalog.string_agg(
            pg_catalog.format('%I calls %s', trigger.tgname, trigger.tgfoid::regproc), '; ' ORDER BY trigger.tgname
        )
    INTO ok, findings
    FROM pg_catalog.pg_trigger AS trigger
    WHERE trigger.tgrelid = tis AND NOT trigger.tgisinternal
    AND (trigger.tgtype::integer & 16) <> 0 -- UPDATE
    AND trigger.tgenabled::text NOT IN ('D', 'R')
    AND (
        pg_catalog.cardinality(trigger.tgattr::smallint[]) = 0 OR EXISTS (
            SELECT FROM pg_catalog.pg_attribute AS attribute
            WHERE attribute.attrelid = tis AND attribute.attnum = ANY (trigger.tgattr::smallint[])
            AND attribute.attname::text IN ('dag_version_id', 'updated_at')
        )
    );
    ok := coalesce(ok, TRUE);
    detail := CASE
        WHEN findings IS NULL THEN 'a bump sets off none'
        WHEN ok THEN 'a bump sets off these, row by row, as the owner: ' || findings
        ELSE 'A bump sets off: ' || findings || '. What is DEFERRABLE may run at the COMMIT, with the rights of whoever commits. '
            'Make it NOT DEFERRABLE, or let only the owner bump.'
    END;
    RETURN NEXT;

    item := 'owner';
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
    ok := findings IS NULL AND (airflow_owner <> owner) IS NOT TRUE;
    detail := CASE
        WHEN airflow_owner <> owner THEN pg_catalog.format(
            'Airflow''s tables belong to %1$s, and schema dagbump to %2$s. Make them the same: ALTER SCHEMA dagbump OWNER TO %1$I; '
            'and the same for each of its tables (ALTER TABLE) and functions (ALTER ROUTINE).',
            pg_catalog.pg_get_userbyid(airflow_owner), pg_catalog.pg_get_userbyid(owner)
        )
        WHEN findings IS NOT NULL THEN findings || pg_catalog.format(
            '. What is dagbump''s, give back: ALTER ROUTINE … OWNER TO %1$I; ALTER TABLE … OWNER TO %1$I; what is not, drop or '
            'rename.', pg_catalog.pg_get_userbyid(owner)
        )
        ELSE pg_catalog.format(
            'all in schema dagbump belongs to %s, as Airflow''s tables do', pg_catalog.pg_get_userbyid(owner)
        )
    END;
    RETURN NEXT;

    item := 'owner''s rights';
    -- What that role lacks to read Airflow's tables, to write task_instance and to lock dag_version, as statements that give it;
    -- NULL: nothing. (To lock a row takes UPDATE, of any column.)
    SELECT
        pg_catalog.string_agg(
            pg_catalog.format('GRANT %s TO %I;', lacking.what, pg_catalog.pg_get_userbyid(owner)), ' ' ORDER BY lacking.what
        )
    INTO findings
    FROM (
        SELECT pg_catalog.format('USAGE ON SCHEMA %I', airflow_schema) AS what
        FROM pg_catalog.pg_namespace AS namespace
        WHERE namespace.nspname::text = airflow_schema
        AND NOT pg_catalog.has_schema_privilege(owner, namespace.oid, 'USAGE')
        UNION ALL
        SELECT pg_catalog.format('%s ON TABLE %I.%I', privilege.name, airflow_schema, class.relname)
        FROM pg_catalog.jsonb_object_keys(required) AS wanted (relation)
        JOIN pg_catalog.pg_class AS class
            ON class.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', airflow_schema, wanted.relation))::oid
        CROSS JOIN (VALUES ('SELECT'), ('UPDATE')) AS privilege (name)
        WHERE CASE
            WHEN privilege.name = 'SELECT' OR wanted.relation = 'task_instance'
                THEN NOT pg_catalog.has_table_privilege(owner, class.oid, privilege.name)
            ELSE wanted.relation = 'dag_version' AND NOT pg_catalog.has_any_column_privilege(owner, class.oid, privilege.name)
        END
    ) AS lacking;
    -- The owner may take rights away from himself, and REASSIGN or a restore may.
    SELECT pg_catalog.string_agg(statement.text, ' ' ORDER BY statement.text) INTO missing
    FROM (
        SELECT pg_catalog.format('GRANT USAGE ON SCHEMA dagbump TO %I;', pg_catalog.pg_get_userbyid(owner)) AS text
        WHERE NOT pg_catalog.has_schema_privilege(owner, 'dagbump'::regnamespace::oid, 'USAGE')
        UNION ALL
        SELECT
            pg_catalog.format(
                'GRANT EXECUTE ON ROUTINE %s TO %I;', proc.oid::regprocedure, pg_catalog.pg_get_userbyid(owner)
            )
        FROM pg_catalog.pg_proc AS proc
        WHERE proc.pronamespace = 'dagbump'::regnamespace::oid
        AND NOT pg_catalog.has_function_privilege(owner, proc.oid, 'EXECUTE')
        UNION ALL
        SELECT pg_catalog.format('GRANT %s ON TABLE dagbump.history TO %I;', privilege.name, pg_catalog.pg_get_userbyid(owner))
        FROM (VALUES ('SELECT'), ('INSERT'), ('DELETE')) AS privilege (name)
        WHERE NOT pg_catalog.has_table_privilege(owner, pg_catalog.to_regclass('dagbump.history')::oid, privilege.name)
    ) AS statement;
    findings := nullif(pg_catalog.concat_ws(' ', findings, missing), '');
    ok := findings IS NULL;
    detail := coalesce(
        'The functions run as the owner, and lack rights. Have the owner of the tables, or a superuser, run: ' || findings,
        pg_catalog.format('%s may do what the functions do', pg_catalog.pg_get_userbyid(owner))
    );
    RETURN NEXT;

    item := 'grants';
    SELECT
        pg_catalog.bool_and(of_role.grantee <> 0::oid AND NOT of_role.writes),
        pg_catalog.bool_or(of_role.grantee = 0::oid),
        pg_catalog.string_agg(of_role.called || ': ' || of_role.rights, '; ' ORDER BY of_role.called)
    INTO ok, to_public, findings
    FROM (
        SELECT
            acl.grantee,
            CASE WHEN acl.grantee = 0::oid THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(acl.grantee)::text END AS called,
            pg_catalog.bool_or(acl.privilege_type NOT IN ('USAGE', 'SELECT', 'EXECUTE')) AS writes,
            pg_catalog.concat_ws(
                ', ',
                CASE WHEN operator.oid IS NOT NULL THEN 'operator' END,
                pg_catalog.string_agg(acl.privilege_type || ' on ' || object.name, ', ' ORDER BY object.name, acl.privilege_type)
                FILTER (
                    WHERE operator.oid IS NULL OR acl.privilege_type <> object.privilege OR object.name IN (
                        'alembic_version', 'grant_operator', 'prune_history', 'revoke_operator', 'tables_fit', 'take_version', 'tasks_of_version',
                        'transactions_behind'
                    )
                )
            ) AS rights
        FROM (
            -- The schema dagbump, its tables and its routines, from the catalogs.
            --   name        without schema and arguments
            --   privilege   what is granted on it to who may use it
            SELECT
                namespace.oid,
                'SCHEMA' AS object_type,
                'schema dagbump' AS name,
                'USAGE' AS privilege,
                coalesce(namespace.nspacl, pg_catalog.acldefault('n', namespace.nspowner)) AS acl
            FROM pg_catalog.pg_namespace AS namespace
            WHERE namespace.nspname::text = 'dagbump'
            UNION ALL
            SELECT
                class.oid,
                'TABLE',
                class.relname::text,
                'SELECT',
                coalesce(class.relacl, pg_catalog.acldefault('r', class.relowner))
            FROM pg_catalog.pg_class AS class
            JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
            WHERE namespace.nspname::text = 'dagbump' AND class.relkind::text = 'r'
            UNION ALL
            SELECT
                proc.oid,
                'ROUTINE',
                proc.proname::text,
                'EXECUTE',
                coalesce(proc.proacl, pg_catalog.acldefault('f', proc.proowner))
            FROM pg_catalog.pg_proc AS proc
            JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
            WHERE namespace.nspname::text = 'dagbump'
            UNION ALL
            SELECT
                class.oid,
                'COLUMN',
                pg_catalog.format('%s (%s)', class.relname, attribute.attname),
                'SELECT',
                attribute.attacl
            FROM pg_catalog.pg_class AS class
            JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
            JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = class.oid
            WHERE namespace.nspname::text = 'dagbump' AND class.relkind::text = 'r' AND NOT attribute.attisdropped
        ) AS object
        CROSS JOIN LATERAL pg_catalog.aclexplode(object.acl) AS acl
        LEFT JOIN (
            -- The roles that have all that an operator is granted, given to themselves by name.
            SELECT role.rolname::text AS name, role.oid
            FROM pg_catalog.pg_roles AS role
            WHERE role.oid IN (
                SELECT acl.grantee
                FROM pg_catalog.pg_proc AS proc
                JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
                CROSS JOIN LATERAL pg_catalog.aclexplode(proc.proacl) AS acl
                WHERE namespace.nspname::text = 'dagbump' AND proc.proname::text = 'bump' AND acl.grantee <> proc.proowner
            )
            AND NOT EXISTS (
                SELECT FROM (
                    -- What an operator is granted; what a later revision brings is among it by itself.
                    SELECT object.*
                    FROM (
                        -- The schema dagbump, its tables and its routines, from the catalogs.
                        --   name        without schema and arguments
                        --   privilege   what is granted on it to who may use it
                        SELECT
                            namespace.oid,
                            'SCHEMA' AS object_type,
                            'schema dagbump' AS name,
                            'USAGE' AS privilege,
                            coalesce(namespace.nspacl, pg_catalog.acldefault('n', namespace.nspowner)) AS acl
                        FROM pg_catalog.pg_namespace AS namespace
                        WHERE namespace.nspname::text = 'dagbump'
                        UNION ALL
                        SELECT
                            class.oid,
                            'TABLE',
                            class.relname::text,
                            'SELECT',
                            coalesce(class.relacl, pg_catalog.acldefault('r', class.relowner))
                        FROM pg_catalog.pg_class AS class
                        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
                        WHERE namespace.nspname::text = 'dagbump' AND class.relkind::text = 'r'
                        UNION ALL
                        SELECT
                            proc.oid,
                            'ROUTINE',
                            proc.proname::text,
                            'EXECUTE',
                            coalesce(proc.proacl, pg_catalog.acldefault('f', proc.proowner))
                        FROM pg_catalog.pg_proc AS proc
                        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = proc.pronamespace
                        WHERE namespace.nspname::text = 'dagbump'
                    ) AS object
                    WHERE NOT object.name IN (
                        'alembic_version', 'grant_operator', 'prune_history', 'revoke_operator', 'tables_fit', 'take_version', 'tasks_of_version',
                        'transactions_behind'
                    )
                ) AS wanted
                WHERE NOT EXISTS (
                    SELECT FROM pg_catalog.aclexplode(wanted.acl) AS acl
                    WHERE acl.grantee = role.oid AND acl.privilege_type = wanted.privilege
                )
            )
        ) AS operator ON operator.oid = acl.grantee
        WHERE acl.grantee <> owner
        GROUP BY acl.grantee, operator.oid
    ) AS of_role;
    ok := coalesce(ok, TRUE);
    detail := coalesce(findings, 'nobody but the owner may use dagbump; an operator is made by SELECT dagbump.grant_operator(''role'');')
        || CASE
            WHEN ok THEN ''
            WHEN to_public
                THEN '. Take it from PUBLIC: REVOKE ALL ON SCHEMA dagbump FROM PUBLIC; REVOKE ALL ON ALL TABLES IN SCHEMA dagbump '
                'FROM PUBLIC; REVOKE ALL ON ALL ROUTINES IN SCHEMA dagbump FROM PUBLIC;'
            ELSE '. Nobody but the owner should create or write there: SELECT dagbump.revoke_operator(''role''); takes all, '
            'and dagbump.grant_operator gives what an operator needs.'
        END;
    RETURN NEXT;

    item := 'version order';
    BEGIN
        SELECT pg_catalog.string_agg(run.dag_id, ', ' ORDER BY run.dag_id) INTO findings
        FROM (
            SELECT dag.dag_id, latest.id AS dag_version_id
            FROM (
                SELECT DISTINCT running.dag_id::text AS dag_id
                FROM @airflow_schema@.dag_run AS running
                WHERE running.state::text = 'running'
            ) AS dag
            CROSS JOIN LATERAL (
                SELECT version.id
                FROM @airflow_schema@.dag_version AS version
                WHERE version.dag_id::text = dag.dag_id
                ORDER BY version.version_number DESC
                LIMIT 1
            ) AS latest
        ) AS run
        WHERE NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute AS attribute
            WHERE attribute.attrelid = @task_instance_literal@::regclass::oid
            AND attribute.attname::text = 'retry_reason'
            AND NOT attribute.attisdropped
        ) AND EXISTS (
            SELECT FROM @airflow_schema@.dag_version AS latest
            JOIN @airflow_schema@.dag_version AS other ON other.dag_id::text = run.dag_id AND other.id <> latest.id
            WHERE latest.id = run.dag_version_id AND other.created_at >= latest.created_at
        );
        ok := findings IS NULL;
        detail := CASE
            WHEN ok THEN 'in the DAGs of running runs, Airflow takes the same version for the latest as dagbump'
            ELSE 'Up to Airflow 3.2 the latest version of a DAG is the one with the newest created_at, for dagbump it is the one with '
                'the highest version_number, and these are two for: ' || findings || '. So the safe form of bump, and `dagbump run` '
                'with it, leave stale runs of these DAGs alone, because a scheduler without the plugin would move back what they '
                'move. Set the clocks of all DAG processors right, then put the versions in order: docs/stuck-runs.md has the '
                'statement. Or upgrade Airflow to 3.3.'
        END;
    EXCEPTION
        WHEN undefined_table OR undefined_column OR undefined_function OR insufficient_privilege THEN
            ok := TRUE;
            detail := 'cannot be looked at before what is said above is mended';
    END;
    RETURN NEXT;

    item := 'statistics';
    SELECT
        CASE
            WHEN pg_catalog.pg_is_in_recovery() THEN NULL
            WHEN NOT (
                pg_catalog.current_setting('autovacuum')::boolean AND pg_catalog.current_setting('track_counts')::boolean
            )
                THEN 'autovacuum is off on this server: no table is analyzed, and dead rows stay. Have an administrator run: '
                'ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf();'
            WHEN EXISTS (
                SELECT FROM pg_catalog.pg_options_to_table(class.reloptions) AS option
                WHERE option.option_name = 'autovacuum_enabled' AND NOT option.option_value::boolean
            )
                THEN pg_catalog.format(
                    'Autovacuum is off for task_instance. ALTER TABLE %I.task_instance RESET (autovacuum_enabled);', airflow_schema
                )
        END,
        CASE
            -- A hundred pages: a smaller table is read as fast without them.
            WHEN pg_catalog.pg_relation_size(tis) >= 819200 AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_stats AS stats
                WHERE stats.schemaname::text = airflow_schema AND stats.tablename::text = 'task_instance'
            )
                THEN pg_catalog.format(
                    'task_instance holds %s and has never been analyzed, or when it was empty. ANALYZE %I.task_instance;',
                    pg_catalog.pg_size_pretty(pg_catalog.pg_relation_size(tis)), airflow_schema
                )
        END
    INTO findings, advice
    FROM pg_catalog.pg_class AS class
    WHERE class.oid = tis;
    detail := nullif(pg_catalog.concat_ws(' ', findings, advice), '');
    ok := detail IS NULL;
    detail := coalesce(detail, 'autovacuum is on, and task_instance has statistics or is small');
    RETURN NEXT;
END
$check$;

COMMENT ON FUNCTION dagbump.check() IS
'Checks that everything is as dagbump needs it, and says what to do where it is not: a DBA''s first call.

  SELECT * FROM dagbump.check();
  SELECT item, detail FROM dagbump.check() WHERE NOT ok;

Answers one row per item, in this order.
  item    server           PostgreSQL 13 to 18; whether it is a hot standby
          installation     release and revision, when and by whom
          functions        their bodies, settings and security are as the upgrade has made them
          history          the table is there, and not altered: else nothing is moved
          airflow tables   tables and columns are there, and as they were at the upgrade
          column types     each column is of a type that the functions take
          plain tables     no partitions, inheritance, views, rules, nor policies that hide rows
          keys             keys, indexes and the foreign key that the functions rely on
          optional index   valid; or not there, which is fine, and what it would bring
          triggers         what an update of task_instance sets off
          owner            schema, tables and functions belong to the owner of task_instance
          owner''s rights   the owner may read and write what the functions do as the owner
          grants           who may use dagbump; nothing is granted to PUBLIC
          version order    Airflow, up to 3.2, takes the same version for the latest as dagbump
          statistics       autovacuum is on, and task_instance has been analyzed
  ok      whether there is nothing to do
  detail  what was found; where it is not ok, what to do

Reads the catalogs and dagbump.installation, and up to Airflow 3.2 the versions of the DAGs that have running
runs: no row lock, nothing written; runs on a hot standby.
What it says is as good as its own body: `dagbump check`, on the command line, looks first whether that
can be believed, and answers where dagbump is not installed, too.';

REVOKE ALL ON FUNCTION dagbump.check() FROM PUBLIC;
