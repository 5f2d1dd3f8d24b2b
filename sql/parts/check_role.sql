-- Takes: role, owner (oid), function_name.
-- Raises an error if there is no such role, or if the caller cannot grant rights on the objects of the owner.
IF role IS NULL THEN
    RAISE EXCEPTION 'role must not be NULL'
        USING ERRCODE = 'invalid_parameter_value',
        HINT = pg_catalog.format('Name the role: SELECT dagbump.%s(''airflow_operator'');', function_name);
END IF;
-- GRANT takes "public" for PUBLIC even if it is quoted. A role may be named "PUBLIC".
IF NOT EXISTS (
    SELECT FROM pg_catalog.pg_roles AS found WHERE found.rolname::text = role AND found.rolname::text <> 'public'
) THEN
    IF pg_catalog.lower(pg_catalog.btrim(role)) = 'public' THEN
        RAISE EXCEPTION 'PUBLIC is every role of this server, and cannot be an operator'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name one role; it may be a group whose members inherit.';
    END IF;
    RAISE EXCEPTION 'there is no role %', pg_catalog.quote_literal(role)
        USING ERRCODE = 'undefined_object',
        HINT = 'Give the exact name, with its capitals and without quotes. CREATE ROLE creates a role.';
END IF;
-- Without this check, a GRANT by another role could end with a warning only.
IF NOT pg_catalog.pg_has_role(owner, 'USAGE') THEN
    RAISE EXCEPTION 'the role % cannot hand out what belongs to %', CURRENT_USER, pg_catalog.pg_get_userbyid(owner)
        USING ERRCODE = 'insufficient_privilege',
        HINT = pg_catalog.format('Connect as %1$I, or as a member of it run: SET ROLE %1$I;', pg_catalog.pg_get_userbyid(owner));
END IF;
