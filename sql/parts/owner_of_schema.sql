-- Takes: nothing.
-- The owner of schema dagbump, an oid.
(SELECT namespace.nspowner FROM pg_catalog.pg_namespace AS namespace WHERE namespace.nspname::text = 'dagbump')
