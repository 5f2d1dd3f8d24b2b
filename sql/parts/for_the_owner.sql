-- Takes: object (name).
-- True for what in schema dagbump an operator is not granted: what hands out rights or forgets, and what the functions call,
-- or Alembic reads, as the owner.
object.name IN (
    'alembic_version', 'grant_operator', 'prune_history', 'revoke_operator', 'tables_fit', 'take_version', 'tasks_of_version',
    'transactions_behind'
)
