-- dagbump.history: records what was moved, when, by whom, and from which versions. One row per run and call.
--
-- The statement that moves TIs also writes the row, so there is no move without a row
-- and no row without a move. A loop in which nothing changed writes none.
--
-- It has no default, trigger, foreign key or constraint except its primary key. So it
-- cannot contain code of another role, and its rows outlive the runs and versions that
-- they name. Rows are only added, and removed by dagbump.prune_history. If there is a
-- publication FOR ALL TABLES, PostgreSQL refuses to remove rows from a table without a
-- primary key. The key is a uuid, so that rows of two databases can be merged and no
-- sequence has to be replicated.

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

-- Repair a table that exists already. No record is lost. The table is locked only if there is something
-- to repair, because a bump would wait for the lock.
DO $mend_history$
DECLARE
    altered record;
BEGIN
    IF EXISTS (
        @include:altered_history@
    ) THEN
        -- Remove what makes a column NOT NULL, except on the key: another primary key, an identity, NOT NULL itself.
        FOR altered IN
            SELECT con.conname
            FROM pg_catalog.pg_constraint AS con
            WHERE con.conrelid = 'dagbump.history'::regclass::oid AND con.contype::text = 'p'
            AND NOT @include:is_key_of_history@
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
        -- Give a column of the wrong type the right one. If a value does not fit, the old column stays, under another
        -- name.
        FOR altered IN
            SELECT found.attname, found.type, attribute.attnum
            FROM (
                @include:altered_history@
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
        WHERE con.conrelid = 'dagbump.history'::regclass::oid AND @include:is_key_of_history@
    ) THEN
        -- The ids carry no information, so an old column can go. ADD COLUMN fills the new one without an UPDATE. A
        -- publication would refuse an UPDATE without a key.
        ALTER TABLE dagbump.history DROP COLUMN IF EXISTS id;
        ALTER TABLE dagbump.history ADD COLUMN id uuid DEFAULT pg_catalog.gen_random_uuid();
        ALTER TABLE dagbump.history ALTER COLUMN id DROP DEFAULT, ADD PRIMARY KEY (id);
    END IF;
    -- By their columns, because an index of that name may be on a table that was history before.
    FOR altered IN
        SELECT wanted.columns
        FROM (VALUES ('bumped_at'), ('dag_id, bumped_at'), ('dag_run_id')) AS wanted (columns)
        WHERE NOT EXISTS (
            SELECT FROM pg_catalog.pg_index AS index
            WHERE index.indrelid = 'dagbump.history'::regclass::oid AND index.indisvalid AND wanted.columns = (
                SELECT pg_catalog.string_agg(attribute.attname::text, ', ' ORDER BY key.place)
                FROM pg_catalog.unnest(index.indkey::smallint[]) WITH ORDINALITY AS key (attnum, place)
                JOIN pg_catalog.pg_attribute AS attribute
                    ON attribute.attrelid = index.indrelid AND attribute.attnum = key.attnum
            )
        )
    LOOP
        EXECUTE pg_catalog.format('CREATE INDEX ON dagbump.history (%s)', altered.columns);
    END LOOP;
END
$mend_history$;

COMMENT ON TABLE dagbump.history IS
'Records what dagbump has moved: one row per DAG run and call that moved something.

  SELECT * FROM dagbump.history ORDER BY bumped_at DESC LIMIT 20;
  SELECT dag_id, sum(bumped) FROM dagbump.history WHERE bumped_at > now() - interval ''1 day'' GROUP BY 1;
  SELECT h.run_id, v.*                                             from_versions, as rows
  FROM dagbump.history AS h, jsonb_to_recordset(h.from_versions)
      AS v (version_number integer, task_instances integer, dag_version_id uuid);

The row is written in the transaction of the bump, so a bump that is rolled back leaves no row. A call
that changes nothing writes none. The table does not refer to Airflow''s tables, so its rows outlive the
runs and versions that they name. It grows: SELECT dagbump.help(''prune_history'');';
COMMENT ON COLUMN dagbump.history.bumped_at IS
'When it was moved, by the server''s clock. The transaction may have committed somewhat later.';
COMMENT ON COLUMN dagbump.history.bumped_by IS 'The role that was connected (session_user).';
COMMENT ON COLUMN dagbump.history.application_name IS 'The application_name of that session.';
COMMENT ON COLUMN dagbump.history.caller IS 'The argument caller of dagbump.bump, which says who called; NULL if it was not given.';
COMMENT ON COLUMN dagbump.history.dag_run_id IS 'dag_run.id of the run. The run may have been deleted since.';
COMMENT ON COLUMN dagbump.history.dag_id IS 'The DAG.';
COMMENT ON COLUMN dagbump.history.run_id IS 'dag_run.run_id.';
COMMENT ON COLUMN dagbump.history.from_versions IS
'The versions that the task instances were on, the lowest first, and how many were on each.
A JSON array of {"dag_version_id": "0199...", "task_instances": 12, "version_number": 3}. If they had no
version, dag_version_id and version_number are null.';
COMMENT ON COLUMN dagbump.history.dag_version_id IS 'The version that the task instances were moved to.';
COMMENT ON COLUMN dagbump.history.version_number IS 'The version_number of that version.';
COMMENT ON COLUMN dagbump.history.id IS 'The primary key.';
COMMENT ON COLUMN dagbump.history.bumped IS 'How many task instances were moved: the sum of task_instances in from_versions.';

REVOKE ALL ON TABLE dagbump.history FROM PUBLIC;
