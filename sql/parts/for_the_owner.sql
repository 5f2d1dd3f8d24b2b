-- Takes: object (name).
-- True for the objects of schema dagbump that an operator is not granted: functions that grant rights or remove records, functions
-- that only other functions call, and the table that Alembic reads as the owner.
object.name IN (
    'alembic_version', 'grant_operator', 'prune_history', 'revoke_operator', 'tables_fit', 'tasks_of_version', 'transactions_behind'
)
