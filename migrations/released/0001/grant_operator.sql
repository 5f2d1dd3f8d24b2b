-- dagbump.grant_operator: makes a role an operator, who may use dagbump and has no right on Airflow's tables.
--
-- For the owner of Airflow's tables. SECURITY INVOKER: whoever is granted it by mistake cannot hand out anything.

CREATE OR REPLACE FUNCTION dagbump.grant_operator(role text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $grant_operator$
#variable_conflict use_column
DECLARE
    function_name CONSTANT text := 'grant_operator';
    owner CONSTANT oid := (SELECT namespace.nspowner FROM pg_catalog.pg_namespace AS namespace WHERE namespace.nspname::text = 'dagbump');
    object record;
BEGIN
    -- Refuses a role that is none, and a caller who cannot hand out what belongs to the owner.
    IF role IS NULL THEN
        RAISE EXCEPTION 'role must not be NULL'
            USING ERRCODE = 'invalid_parameter_value',
            HINT = pg_catalog.format('Name the role: SELECT dagbump.%s(''airflow_operator'');', function_name);
    END IF;
    -- GRANT takes even a quoted "public" for PUBLIC. (A role may be named "PUBLIC".)
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_roles AS found WHERE found.rolname::text = role AND found.rolname::text <> 'public'
    ) THEN
        IF pg_catalog.lower(pg_catalog.btrim(role)) = 'public' THEN
            RAISE EXCEPTION 'PUBLIC is every role of this server, and cannot be an operator'
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Name one role; it may be a group whose members inherit.';
        END IF;
        RAISE EXCEPTION 'there is no role %', pg_catalog.quote_literal(role)
            USING ERRCODE = 'undefined_object',
            HINT = 'The name is taken to the letter, with its capitals and without quotes; CREATE ROLE makes one.';
    END IF;
    -- A GRANT by somebody else may end with no more than a warning.
    IF NOT pg_catalog.pg_has_role(owner, 'USAGE') THEN
        RAISE EXCEPTION 'the role % cannot hand out what belongs to %', CURRENT_USER, pg_catalog.pg_get_userbyid(owner)
            USING ERRCODE = 'insufficient_privilege',
            HINT = pg_catalog.format('Connect as %1$I, or as a member of it run: SET ROLE %1$I;', pg_catalog.pg_get_userbyid(owner));
    END IF;
    IF role = pg_catalog.pg_get_userbyid(owner)::text THEN
        RAISE NOTICE 'dagbump belongs to %: there is nothing to grant', role;
        RETURN;
    END IF;

    FOR object IN
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
    LOOP
        CASE object.object_type
            WHEN 'SCHEMA' THEN
                EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA dagbump TO %I', grant_operator.role);
            WHEN 'TABLE' THEN
                EXECUTE pg_catalog.format('GRANT SELECT ON TABLE %s TO %I', object.oid::regclass, grant_operator.role);
            ELSE
                EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %I', object.oid::regprocedure, grant_operator.role);
        END CASE;
    END LOOP;
END
$grant_operator$;

COMMENT ON FUNCTION dagbump.grant_operator(text) IS
'Makes a role an operator: it may preview, bump, repair and check, without a right on Airflow''s tables.

  SELECT dagbump.grant_operator(''airflow_operator'');

Argument
  role   the name of a role, to the letter: capitals count, and it needs no quotes. A group will do:
         members that inherit are operators too.

For the owner of Airflow''s tables, a member of it, or a superuser. A superuser does well to SET ROLE to
the owner first: it runs as its caller.
Grants USAGE on schema dagbump, EXECUTE on its functions and procedures, SELECT on its tables; but not on
what is the owner''s: grant_operator, revoke_operator, prune_history, alembic_version, and what the
functions call for themselves. Neither PUBLIC nor a grant option is given anything. Again: changes nothing.
An upgrade that brings new functions gives them to the operators that there are.
Errors: 22023 for NULL and for PUBLIC; 42704 for a role that there is not; 42501 for a caller who may not.';

REVOKE ALL ON FUNCTION dagbump.grant_operator(text) FROM PUBLIC;
