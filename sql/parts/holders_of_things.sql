-- Takes: thing (held, relation, number: the xmax).
-- The transactions that have locked these rows, for each kind of row and xmax. The caller's own transaction
-- is left out.
--
-- A transaction that has locked a row has a lock on the table of the row until it ends. That table lock tells
-- whether an xmax is a transaction or a multixact. It also leads to the transaction of a released savepoint.
-- A released savepoint is in no list; we only know that its xid is higher than its transaction's.
WITH lock AS MATERIALIZED (
    SELECT lock.*
    FROM pg_catalog.pg_locks AS lock
    WHERE lock.granted
),

transaction AS MATERIALIZED (
    SELECT
        lock.virtualtransaction,
        lock.pid,
        pg_catalog.array_agg(lock.transactionid::text) AS numbers,
        pg_catalog.max(pg_catalog.age(lock.transactionid)) AS age
    FROM lock
    WHERE lock.locktype = 'transactionid' AND lock.mode = 'ExclusiveLock'
    GROUP BY lock.virtualtransaction, lock.pid
),

-- Modes that conflict with NO KEY UPDATE on a TI, or with KEY SHARE on a dag_version. An update that does not change
-- the key of a version conflicts too, if the same transaction then takes a stronger lock on the new row.
reading AS MATERIALIZED (
    SELECT marked.held, marked.relation, marked.number, behind.transaction, behind.mode
    FROM (
        SELECT DISTINCT thing.held, thing.relation, thing.number FROM thing
    ) AS marked
    CROSS JOIN LATERAL dagbump.transactions_behind(marked.number) AS behind
    WHERE behind.mode IS NULL
    OR (marked.held = 'task_instance' AND behind.mode <> 'keysh')
    OR (marked.held = 'dag_version' AND behind.mode IN ('forupd', 'upd', 'nokeyupd'))
),

suspect AS MATERIALIZED (
    SELECT
        reading.held,
        reading.number,
        reading.mode,
        transaction.virtualtransaction,
        transaction.pid,
        transaction.numbers,
        pg_catalog.count(*) OVER (PARTITION BY reading.held, reading.number, reading.transaction::text, reading.mode) AS suspects,
        pg_catalog.count(reading.mode) OVER (PARTITION BY reading.held, reading.number) AS in_a_list,
        pg_catalog.count(*) OVER (PARTITION BY reading.held, reading.number) AS all_readings
    FROM reading
    JOIN transaction ON (
        reading.transaction::text = ANY (transaction.numbers)
        OR (
            transaction.age > pg_catalog.age(reading.transaction)
            AND NOT EXISTS (
                SELECT FROM transaction AS listed
                WHERE reading.transaction::text = ANY (listed.numbers)
            )
        )
    )
    WHERE transaction.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
    AND EXISTS (
        SELECT FROM lock
        WHERE lock.virtualtransaction = transaction.virtualtransaction
        AND lock.locktype = 'relation'
        AND lock.mode <> 'AccessShareLock'
        AND lock.database = (
            SELECT database.oid FROM pg_catalog.pg_database AS database
            WHERE database.datname = pg_catalog.current_database()
        )
        AND lock.relation = reading.relation
    )
)

SELECT
    suspect.held,
    suspect.number,
    suspect.pid,
    coalesce(activity.usename, prepared.owner)::text AS usename,
    activity.application_name::text AS application_name,
    pg_catalog.host(activity.client_addr) AS client_addr,
    coalesce(activity.state, CASE WHEN prepared.gid IS NOT NULL THEN 'prepared' END) AS state,
    coalesce(activity.xact_start, prepared.prepared) AS xact_start,
    prepared.gid,
    suspect.certain
FROM (
    -- One row per transaction, even if it has locked a row in several of its savepoints.
    SELECT
        suspect.held,
        suspect.number,
        suspect.virtualtransaction,
        suspect.pid,
        suspect.numbers,
        pg_catalog.bool_or(suspect.suspects = 1) AND pg_catalog.bool_and(suspect.in_a_list IN (0, suspect.all_readings)) AS certain
    FROM suspect
    GROUP BY suspect.held, suspect.number, suspect.virtualtransaction, suspect.pid, suspect.numbers
) AS suspect
LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = suspect.pid
LEFT JOIN pg_catalog.pg_prepared_xacts AS prepared
    ON suspect.pid IS NULL AND prepared.transaction::text = ANY (suspect.numbers)
