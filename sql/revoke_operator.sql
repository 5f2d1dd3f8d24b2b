-- dagbump.revoke_operator: takes from a role what it was granted in schema dagbump, by dagbump.grant_operator or by hand.
--
-- For the owner of Airflow's tables. SECURITY INVOKER, as grant_operator.

CREATE OR REPLACE FUNCTION dagbump.revoke_operator(role text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = @airflow_schema@, pg_temp
AS $revoke_operator$
#variable_conflict use_column
DECLARE
    function_name CONSTANT text := 'revoke_operator';
    owner CONSTANT oid := @include:owner_of_schema@;
BEGIN
    @include:check_role@
    IF role = pg_catalog.pg_get_userbyid(owner)::text THEN
        RAISE EXCEPTION 'dagbump belongs to %, whose rights are not taken away', role
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'What works as the owner, dagbump.bump for one, would end with an error.';
    END IF;

    EXECUTE pg_catalog.format('REVOKE ALL ON ALL ROUTINES IN SCHEMA dagbump FROM %I', role);
    EXECUTE pg_catalog.format('REVOKE ALL ON ALL TABLES IN SCHEMA dagbump FROM %I', role);
    EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA dagbump FROM %I', role);

    IF pg_catalog.has_schema_privilege(role::name, 'dagbump', 'USAGE') THEN
        RAISE NOTICE 'the role % may use schema dagbump still: it is a superuser, or a member of a role that may', role;
    END IF;
END
$revoke_operator$;

COMMENT ON FUNCTION dagbump.revoke_operator(text) IS
'Takes from a role all that it was granted in schema dagbump.

  SELECT dagbump.revoke_operator(''airflow_operator'');

Argument
  role   the name of a role, to the letter: capitals count, and it needs no quotes

For the owner of Airflow''s tables, a member of it, or a superuser. Takes back what dagbump.grant_operator
gave, and what was granted by hand in that schema. What a role has as a member of another one, or as a
superuser, it keeps: a NOTICE says so. Again: changes nothing.
A role can be dropped only after this, in each database where it is an operator.
Errors: 22023 for NULL, PUBLIC and the owner; 42704 for a role that there is not; 42501 for a caller who
may not; 2BP01 where the role has granted it on.';

REVOKE ALL ON FUNCTION dagbump.revoke_operator(text) FROM PUBLIC;
