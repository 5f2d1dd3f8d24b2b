-- dagbump.history: what was moved, when, by whom, from where to where. A row per run and call that moved something.
--
-- Written by the functions that move, in the statement that moves: there is no
-- move without its row, and no row without its move. A loop in which nothing
-- changed writes none.
--
-- Plain: no default, trigger, foreign key or constraint but its key, so that there
-- is nothing in it that could run somebody else's code, and it outlives the runs
-- and versions that it tells of. Rows are only ever added, and removed by
-- dagbump.prune_history; where a publication FOR ALL TABLES exists, PostgreSQL
-- wants a key for that. A uuid, because rows of two databases can then be brought
-- together, and no sequence has to follow them.

CREATE TABLE IF NOT EXISTS dagbump.history (
    bumped_at timestamptz,
    bumped_by text,
    application_name text,
    dag_run_id bigint,
    dag_id text,
    run_id text,
    from_versions jsonb,
    dag_version_id uuid,
    version_number integer,
    bumped integer,
    caller text,
    id uuid PRIMARY KEY
);

-- Whatever was there before, and nothing that is recorded is lost. Locks the table only where there is something to mend:
-- whoever bumps would wait.
DO $mend_history$
DECLARE
    altered record;
BEGIN
    IF EXISTS (
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
    ) THEN
        -- What makes a column NOT NULL goes, but for the key; with it the identity that needs it.
        FOR altered IN
            SELECT con.conname
            FROM pg_catalog.pg_constraint AS con
            WHERE con.conrelid = 'dagbump.history'::regclass::oid AND con.contype::text = 'p'
            AND NOT (
                con.contype::text = 'p' AND pg_catalog.cardinality(con.conkey) = 1 AND EXISTS (
                    SELECT FROM pg_catalog.pg_attribute AS key
                    WHERE key.attrelid = con.conrelid AND key.attnum = con.conkey[1] AND key.attname::text = 'id'
                )
            )
        LOOP
            EXECUTE pg_catalog.format('ALTER TABLE dagbump.history DROP CONSTRAINT %I', altered.conname);
        END LOOP;
        FOR altered IN
            SELECT attribute.attname
            FROM pg_catalog.pg_attribute AS attribute
            WHERE attribute.attrelid = 'dagbump.history'::regclass::oid AND attribute.attnum > 0 AND attribute.attnotnull
            AND attribute.attname::text <> 'id'
        LOOP
            EXECUTE pg_catalog.format(
                'ALTER TABLE dagbump.history ALTER COLUMN %1$I DROP IDENTITY IF EXISTS, ALTER COLUMN %1$I DROP NOT NULL',
                altered.attname
            );
        END LOOP;
        -- A column of another type is given the right one; where a value in it does not fit, it stays, under another name.
        FOR altered IN
            SELECT found.attname, found.type, attribute.attnum
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
            ) AS found
            JOIN pg_catalog.pg_attribute AS attribute ON attribute.attname::text = found.attname
            WHERE attribute.attrelid = 'dagbump.history'::regclass::oid AND found.type IS NOT NULL
        LOOP
            BEGIN
                EXECUTE pg_catalog.format(
                    'ALTER TABLE dagbump.history ALTER COLUMN %1$I TYPE pg_catalog.%2$I USING %1$I::text::pg_catalog.%2$I',
                    altered.attname, altered.type
                );
            EXCEPTION
                WHEN data_exception THEN
                    EXECUTE pg_catalog.format(
                        'ALTER TABLE dagbump.history RENAME COLUMN %I TO %I',
                        altered.attname, altered.attname || '_altered_' || altered.attnum::text
                    );
            END;
        END LOOP;
        ALTER TABLE dagbump.history
            ADD COLUMN IF NOT EXISTS bumped_at timestamptz,
            ADD COLUMN IF NOT EXISTS bumped_by text,
            ADD COLUMN IF NOT EXISTS application_name text,
            ADD COLUMN IF NOT EXISTS dag_run_id bigint,
            ADD COLUMN IF NOT EXISTS dag_id text,
            ADD COLUMN IF NOT EXISTS run_id text,
            ADD COLUMN IF NOT EXISTS from_versions jsonb,
            ADD COLUMN IF NOT EXISTS dag_version_id uuid,
            ADD COLUMN IF NOT EXISTS version_number integer,
            ADD COLUMN IF NOT EXISTS bumped integer,
            ADD COLUMN IF NOT EXISTS caller text;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint AS con
        WHERE con.conrelid = 'dagbump.history'::regclass::oid AND (
            con.contype::text = 'p' AND pg_catalog.cardinality(con.conkey) = 1 AND EXISTS (
                SELECT FROM pg_catalog.pg_attribute AS key
                WHERE key.attrelid = con.conrelid AND key.attnum = con.conkey[1] AND key.attname::text = 'id'
            )
        )
    ) THEN
        -- An id says nothing, so what there is of them can go. ADD COLUMN fills it without an UPDATE, which a publication
        -- forbids.
        ALTER TABLE dagbump.history DROP COLUMN IF EXISTS id;
        ALTER TABLE dagbump.history ADD COLUMN id uuid DEFAULT pg_catalog.gen_random_uuid();
        ALTER TABLE dagbump.history ALTER COLUMN id DROP DEFAULT, ADD PRIMARY KEY (id);
    END IF;
    IF pg_catalog.to_regclass('dagbump.history_bumped_at') IS NULL THEN
        CREATE INDEX history_bumped_at ON dagbump.history (bumped_at);
    END IF;
    IF pg_catalog.to_regclass('dagbump.history_dag_id') IS NULL THEN
        CREATE INDEX history_dag_id ON dagbump.history (dag_id, bumped_at);
    END IF;
    IF pg_catalog.to_regclass('dagbump.history_dag_run_id') IS NULL THEN
        CREATE INDEX history_dag_run_id ON dagbump.history (dag_run_id);
    END IF;
END
$mend_history$;

COMMENT ON TABLE dagbump.history IS
'What dagbump has moved: a row per DAG run and call that moved something, none where nothing changed.

  SELECT * FROM dagbump.history ORDER BY bumped_at DESC LIMIT 20;
  SELECT dag_id, sum(bumped) FROM dagbump.history WHERE bumped_at > now() - interval ''1 day'' GROUP BY 1;
  SELECT h.run_id, v.*                                             what came from where, as rows
  FROM dagbump.history AS h, jsonb_to_recordset(h.from_versions)
      AS v (version_number integer, task_instances integer, dag_version_id uuid);

Written in the transaction of whoever bumps: a bump that is rolled back has no row. Refers to nothing in
Airflow''s tables, and outlives what it tells of. It grows: SELECT dagbump.help(''prune_history'');';
COMMENT ON COLUMN dagbump.history.bumped_at IS
'When, by the clock; the transaction may have been committed somewhat later.';
COMMENT ON COLUMN dagbump.history.bumped_by IS 'The role that had connected (session_user).';
COMMENT ON COLUMN dagbump.history.application_name IS 'The application_name of that session.';
COMMENT ON COLUMN dagbump.history.caller IS 'Who called, in the words that the caller gave to dagbump.bump; null: nobody said.';
COMMENT ON COLUMN dagbump.history.dag_run_id IS 'dag_run.id of the run, which may be gone by now.';
COMMENT ON COLUMN dagbump.history.dag_id IS 'The DAG.';
COMMENT ON COLUMN dagbump.history.run_id IS 'dag_run.run_id.';
COMMENT ON COLUMN dagbump.history.from_versions IS
'The versions that the task instances were on, the lowest first, and how many were on each: a JSON array of
{"dag_version_id": "0199…", "task_instances": 12, "version_number": 3}; both null: on none.';
COMMENT ON COLUMN dagbump.history.dag_version_id IS 'The version that they are on since.';
COMMENT ON COLUMN dagbump.history.version_number IS 'Its number.';
COMMENT ON COLUMN dagbump.history.id IS 'The key.';
COMMENT ON COLUMN dagbump.history.bumped IS 'How many task instances: the sum of those in from_versions.';

REVOKE ALL ON TABLE dagbump.history FROM PUBLIC;
