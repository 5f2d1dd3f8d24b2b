-- Takes: object.
-- An object of granted_rights, as REVOKE names it.
CASE object.object_type
    WHEN 'SCHEMA' THEN 'SCHEMA dagbump'
    WHEN 'TABLE' THEN 'TABLE ' || object.oid::regclass::text
    WHEN 'COLUMN' THEN 'TABLE ' || object.oid::regclass::text -- takes the right on its columns too
    ELSE 'ROUTINE ' || object.oid::regprocedure::text
END
