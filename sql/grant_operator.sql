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
    owner CONSTANT oid := @include:owner_of_schema@;
    object record;
BEGIN
    @include:check_role@
    IF role = pg_catalog.pg_get_userbyid(owner)::text THEN
        RAISE NOTICE 'dagbump belongs to %: there is nothing to grant', role;
        RETURN;
    END IF;

    FOR object IN
        @include:objects_for_operators@
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
