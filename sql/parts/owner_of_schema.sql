-- Takes: nothing.
-- The oid of the owner of schema dagbump.
(SELECT namespace.nspowner FROM pg_catalog.pg_namespace AS namespace WHERE namespace.nspname::text = 'dagbump')
