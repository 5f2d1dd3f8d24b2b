-- Takes: nothing.
-- The objects of schema dagbump and the columns of its tables (object), each with every right on it (acl).
(
    @include:objects_of_schema@
    UNION ALL
    @include:columns_of_schema@
) AS object
CROSS JOIN LATERAL pg_catalog.aclexplode(object.acl) AS acl
